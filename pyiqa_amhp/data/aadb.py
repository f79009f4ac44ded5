"""AADB: the publisher's files to a meta file, and rated photographs with attributes in words.

Reference:
    Kong et al.: "Photo Aesthetics Ranking Network with Attributes and Content Adaptation",
    ECCV 2016.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.data.dataset import AMHPDataset, with_defaults
from pyiqa_amhp.data.publisher import (
    TEST,
    TRAIN,
    VAL,
    Problem,
    Published,
    find_any,
    find_one,
    note,
    once_each,
)
from pyiqa_amhp.data.ratings import SCALES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.text.attributes import template_fields

ATTRIBUTES = {
    'content': 'Content',
    'object_emphasis': 'Object',
    'light': 'Light',
    'color_harmony': 'ColorHarmony',
    'vivid_color': 'VividColor',
    'depth_of_field': 'DoF',
    'motion_blur': 'MotionBlur',
    'rule_of_thirds': 'RuleOfThirds',
    'balancing_elements': 'BalacingElements',  # spelt so
    'repetition': 'Repetition',
    'symmetry': 'Symmetry',
}
"""Our names, in the order of the paper (section 4.1), and the publisher's in file names."""

MAT_COLUMNS = sorted(ATTRIBUTES, key=ATTRIBUTES.get)
"""The columns of ``attMat.mat`` after the score: by the publisher's names."""

SCORE_RANGE, ATTRIBUTE_RANGE = (0.0, 1.0), (-1.0, 1.0)
VOTE_VALUES = SCALES['aadb'].vote_values  # raters gave 1 to 5; here (r - 1) / 4
VOTES = [f'c{number}' for number in range(1, len(VOTE_VALUES) + 1)]
MEAN_TOLERANCE = 0.01  # between a score and the mean of its votes (our choice)

# As in the names of files; the number is the part's place in attMat.mat.
PARTS = {'Train': (TRAIN, 0), 'Validation': (VAL, 2), 'TestNew': (TEST, 1)}
LIST_FOLDERS = ('imgListFiles_label/', '*/imgListFiles_label/', '', '*/')
INFO_FILE, MATRIX_FILE, RATERS_FILE = 'AADBinfo.mat', 'attMat.mat', 'AADB_AllinAll.csv'
IMAGE_FOLDERS = (
    (
        'datasetImages_originalSize',
        'originalSize_train',
        'originalSize_test',
        'AADB_newtest_originalSize',
    ),
    ('datasetImages_warp256', 'AADB_newtest'),
)
"""Folders that together hold all images: in their own sizes, and squashed to 256 x 256."""

FLICKR_NAME = re.compile(r'[a-z]+\d+_\d+_(.+)')  # server and folder, then the file's own name


class AADBDataset(AMHPDataset):
    """Photographs of AADB with their attributes in words.

    An ``AMHPDataset`` on the file that ``amhp prepare aadb`` writes, with other defaults:

        dataset: aadb (levels and votes at 0, 0.25, 0.5, 0.75, 1: our choice).
        split_index: official_split (the publisher's: 8,458 train, some 500 validation, 1,000
            test). ``paper_split`` has the validation images in train, as the paper's 9,000.
        text_source: labels (paper).
        attributes: color_harmony, light, content (paper); any of the eleven in any order. All
            eleven in the paper's sentences are one token more than CLIP's 77.
        attr_template: ``A photo with {level} {attribute}.`` for each (paper: as for PARA).
        attr_range: [-1, 1], in five levels of equal width (our choice; the paper does not say).
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(aadb_options(opt))


def aadb_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an ``AADBDataset`` with its defaults filled in."""
    defaults = {
        'dataset': 'aadb',
        'split_index': 'official_split',
        'text_source': 'labels',
        'attr_range': ATTRIBUTE_RANGE,
    }
    attributes = template_fields(opt.get('attr_template') or '')
    defaults['attributes'] = attributes or ['color_harmony', 'light', 'content']
    return with_defaults(opt, defaults)


def read_aadb(root: Path) -> Published:
    """Read AADB's scores, attributes and splits, and its votes where the raters' rows are there.

    Scores and attributes come from the list files; attributes that have none from
    ``attMat.mat``; without list files, scores alone from ``AADBinfo.mat``. From
    ``AADB_AllinAll.csv`` come the votes. Its photos are known by the address they had at Flickr:
    server, folder and file make the name in the lists; where they do not, the file's own name
    does if one image only has it.

    Args:
        root: the folder with ``imgListFiles_label/`` or ``AADBinfo.mat``, and the images'
            folder (or folders).

    Returns:
        ``img_name``, ``MOS`` (0 to 1), ``c1..c5`` (votes for 0, 0.25, .. 1; blank where there
        are none), ``attr_<name>`` (-1 to 1), ``official_split``, ``paper_split`` (validation
        counted to train).

    Raises:
        AMHPError: a file that is missing, is something else, or does not belong to the others.
    """
    problems: list[Problem] = []
    lists = find_any(root, [folder + _list_name('Train') for folder in LIST_FOLDERS])
    matrix = find_any(root, [folder + MATRIX_FILE for folder in LIST_FOLDERS])
    if lists is not None:
        table = _read_lists(lists.parent, matrix, problems)
    else:
        wanted = (*(folder + _list_name('Train') for folder in LIST_FOLDERS), INFO_FILE)
        what = f'{_list_name("Train")} and no {INFO_FILE}'
        info = find_one(root, (*wanted, f'*/{INFO_FILE}'), what)
        table = _read_info(info, problems)
        what = f'{MATRIX_FILE} is in the order of the list files, which are not there; not used'
        note(problems, what, [matrix] if matrix else [])
    table = once_each(table, problems).reset_index(drop=True)
    raters = find_any(root, (RATERS_FILE, f'*/{RATERS_FILE}'))
    votes = _read_votes(raters, table, problems) if raters is not None else None
    images, names = _placed(root, table['img_name'])
    attributes = [f'attr_{name}' for name in ATTRIBUTES if f'attr_{name}' in table]
    result = pd.concat([table[['img_name', 'MOS']], votes, table[attributes]], axis=1)
    split = table['official_split']
    result = result.assign(
        img_name=names, official_split=split, paper_split=split.replace(VAL, TRAIN)
    )
    return Published(result, images, problems)


def _list_name(part: str, label: str = 'score') -> str:
    return f'imgList{part}Regression_{label}.txt'


def _read_lists(folder: Path, matrix: Path | None, problems: list[Problem]) -> pd.DataFrame:
    """The list files, part by part: ``img_name, MOS, attr_<name>, official_split, place``."""
    parts, absent = [], []
    for part, (split, cell) in PARTS.items():
        path = folder / _list_name(part)
        if not path.is_file():
            if split != VAL:
                raise AMHPError(
                    f'{path}: no such file, though there is {_list_name("Train")}; '
                    'download imgListFiles_label again'
                )
            note(problems, 'no list of validation images, so none are known', [path])
            continue
        table = _read_list(path, SCORE_RANGE, problems).rename(columns={'value': 'MOS'})
        table['official_split'] = split
        for name, label in ATTRIBUTES.items():
            own = folder / _list_name(part, label)
            if own.is_file():
                table[f'attr_{name}'] = _attribute(own, table['img_name'], problems)
            elif matrix is None:
                absent.append(own)
        missing = [name for name in ATTRIBUTES if f'attr_{name}' not in table]
        if missing and matrix is not None:
            values = _read_matrix(matrix, cell, table['MOS'], path, problems)
            table = table.assign(**{f'attr_{name}': values[name] for name in missing})
        parts.append(table[table['MOS'].notna()])
    note(problems, f'no such list and no {MATRIX_FILE}; the attribute is left blank', absent)
    return pd.concat(parts, ignore_index=True)


def _read_list(path: Path, limits: tuple[float, float], problems: list[Problem]) -> pd.DataFrame:
    """``img_name``, ``value`` and ``place`` of every line; NaN where the value cannot be used."""
    rows, bad, (lo, hi) = [], [], limits
    with path.open(encoding='utf-8-sig', errors='replace') as file:
        for number, line in enumerate(file, start=1):
            if not (fields := line.split()):
                continue
            try:
                name, value = fields[0], float(fields[1]) if len(fields) == 2 else np.nan
            except ValueError:
                value = np.nan
            place = f'{path}, line {number}'
            if not lo <= value <= hi:
                value = np.nan
                bad.append(f'{place}: {line.strip()[:60]!r}')
            rows.append((name, value, place))
    if len(bad) == len(rows):
        first = f' (the first: {bad[0]})' if bad else ''
        raise AMHPError(
            f'{path}: not one line is a file name and a number from {lo:g} to {hi:g}{first}; '
            'download it again'
        )
    what = (
        f'lines that are not a file name and a number from {lo:g} to {hi:g}, as where a file was '
        'cut; left out: download it again'
    )
    note(problems, what, bad)
    return pd.DataFrame(rows, columns=['img_name', 'value', 'place'])


def _attribute(path: Path, names: pd.Series, problems: list[Problem]) -> pd.Series:
    """An attribute's values for ``names``; NaN for those that its list does not have."""
    listed = _read_list(path, ATTRIBUTE_RANGE, problems).dropna().drop_duplicates('img_name')
    unknown = ~listed['img_name'].isin(names)
    if unknown.all():
        raise AMHPError(
            f'{path}: not one of its images is in the list of scores; they do not belong together'
        )
    what = 'images in the list of an attribute that the list of scores does not have; passed over'
    places = listed['place'] + ': ' + listed['img_name']
    note(problems, what, places[unknown])
    values = names.map(listed.set_index('img_name')['value'])
    what = 'images that the list of an attribute does not have; left blank'
    note(problems, what, [f'{path}: {name}' for name in names[values.isna()]])
    return values


def _read_matrix(
    path: Path, cell: int, scores: pd.Series, of: Path, problems: list[Problem]
) -> pd.DataFrame:
    """A part of ``attMat.mat``, whose rows are in the order of the list file ``of``."""
    cells = _load_mat(path, ['dataset'])['dataset'].ravel()
    columns = ['score', *MAT_COLUMNS]
    try:
        rows = np.asarray(cells[cell], np.float64)
        values = pd.DataFrame(rows, scores.index, columns)
    except (IndexError, TypeError, ValueError):
        shape = np.shape(cells[cell]) if cell < len(cells) else 'nothing'
        raise AMHPError(
            f'{path}: dataset{{{cell + 1}}} holds {shape}, expected {len(scores)} x {len(columns)} '
            f'for the {len(scores)} lines of {of.name}; download both again'
        ) from None
    off = (values['score'] - scores).abs() > MEAN_TOLERANCE
    if off.any():
        row = off.idxmax()
        raise AMHPError(
            f'{path}: dataset{{{cell + 1}}} has the score {values["score"][row]:g} in row '
            f'{row + 1} and {of.name} has {scores[row]:g}; they are not in the same order, so '
            'download both again'
        )
    values = values[MAT_COLUMNS]
    inside = values.apply(lambda column: column.between(*ATTRIBUTE_RANGE))
    what = 'attributes that are not from -1 to 1; left blank'
    places = [f'{path}, dataset{{{cell + 1}}}, row {row + 1}' for row in np.where(~inside)[0]]
    note(problems, what, places)
    return values.where(inside)


def _read_info(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """``AADBinfo.mat``: names and scores for training and testing."""
    wanted = {'train': TRAIN, 'test': TEST}
    mat = _load_mat(path, [f'{part}{what}' for part in wanted for what in ('NameList', 'Score')])
    parts = []
    for part, split in wanted.items():
        names, scores = (np.atleast_1d(mat[f'{part}{x}'].squeeze()) for x in ('NameList', 'Score'))
        if len(names) != len(scores):
            raise AMHPError(
                f'{path}: {len(names)} names in {part}NameList but {len(scores)} numbers in '
                f'{part}Score; download it again'
            )
        table = pd.DataFrame({'MOS': scores.astype(np.float64), 'official_split': split})
        table['img_name'] = [str(np.asarray(name).item()).strip() for name in names]
        table['place'] = [f'{path}, {part}NameList, {i}' for i in range(1, len(names) + 1)]
        good = table['MOS'].between(*SCORE_RANGE)
        note(problems, 'scores that are not from 0 to 1; left out', table['place'][~good])
        parts.append(table[good])
    what = (
        f'{path.name} has scores only: no attributes, so use text_source: none, and no validation '
        'images; imgListFiles_label has both'
    )
    note(problems, what, [path])
    return pd.concat(parts, ignore_index=True)


def _load_mat(path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    from scipy.io import loadmat  # comes with pyiqa

    try:
        mat = loadmat(path)
    except NotImplementedError:
        raise AMHPError(f'{path}: a MATLAB 7.3 file; save it again with -v7') from None
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise AMHPError(f'{path}: damaged, or no MATLAB file ({error}); replace it') from error
    if missing := [name for name in wanted if name not in mat]:
        there = ', '.join(name for name in mat if not name.startswith('__'))
        raise AMHPError(f'{path}: no variable {missing[0]!r}; there are {there or "none"}')
    return mat


def _read_votes(path: Path, table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """``c1..c5`` for the images of ``table`` from the crowd workers' rows, ten images a row."""
    urls, scores = _read_rows(path)
    used = ~pd.isna(urls)
    good = used & np.isin(scores, range(1, len(VOTES) + 1))
    places = [
        f'{path}, row {i // 10 + 2}, column Answer.overallScore{i % 10 + 1}'
        for i in np.flatnonzero(used & ~good)
    ]
    note(problems, f'scores that are not 1 to {len(VOTES)}; passed over', places)
    photo, addresses = pd.factorize(urls[good])
    images = _matched(addresses, table['img_name'])
    known = images[photo] >= 0
    cells = images[photo][known] * len(VOTES) + scores[good][known].astype(np.int64) - 1
    counts = np.bincount(cells, minlength=len(table) * len(VOTES)).reshape(len(table), -1)
    total = counts.sum(axis=1)
    if not total.any():
        raise AMHPError(
            f"{path}: not one of its {len(addresses)} photos is in the lists; is it AADB's? Else "
            'take it away'
        )
    what = f'photos in {path.name} that no list names; their votes are passed over'
    note(problems, what, addresses[images < 0])
    what = f'images without votes in {path.name}; only their mean is known'
    note(problems, what, table['img_name'][total == 0])
    mean = counts @ np.array(VOTE_VALUES) / np.maximum(total, 1)
    off = (total > 0) & (np.abs(table['MOS'] - mean) > MEAN_TOLERANCE)
    what = f'scores that are off the mean of their votes by more than {MEAN_TOLERANCE}; kept'
    note(problems, what, table['img_name'][off])
    votes = pd.DataFrame(counts, table.index, VOTES).astype('Int64')
    votes[total == 0] = pd.NA
    return votes


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Addresses and scores, row by row; NaN where a cell is empty or no number."""
    columns = [
        [f'{x}{i}' for i in range(1, 11)] for x in ('Input.image_url', 'Answer.overallScore')
    ]
    try:
        header = pd.read_csv(path, nrows=0, encoding_errors='replace').columns
        if missing := [name for name in columns[0] + columns[1] if name not in header]:
            raise AMHPError(
                f'{path}: no column {missing[0]!r} among its {len(header)} columns; download it '
                'again, or take it away (then only means are known)'
            )
        table = pd.read_csv(
            path, usecols=columns[0] + columns[1], encoding_errors='replace', dtype=str
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise AMHPError(f'{path}: cannot be read as CSV ({error}); download it again') from error
    urls, answers = (table[names].to_numpy(object).ravel() for names in columns)
    return urls, pd.to_numeric(pd.Series(answers), errors='coerce').to_numpy(np.float64)


def _matched(addresses: np.ndarray, names: pd.Series) -> np.ndarray:
    """The place in ``names`` of the image at each address; -1 where there is none."""
    whole, own = {}, {}
    for i, name in enumerate(names.str.lower()):
        whole[name] = i
        match = FLICKR_NAME.fullmatch(name)
        own.setdefault(match[1] if match else name, []).append(i)
    found = []
    for address in addresses:
        parts = re.split(r'[?#]', address.strip().lower())[0].split('/')
        server, folder, file = parts[2:3], parts[-2:-1], parts[-1]  # after https:, ''
        built = '_'.join((*(name.split('.')[0] for name in server), *folder, file))
        place = whole.get(built, whole.get(file))
        candidates = own.get(file, []) if place is None else [place]
        found.append(candidates[0] if len(candidates) == 1 else -1)
    return np.array(found, np.int64)


def _placed(root: Path, names: pd.Series) -> tuple[Path, pd.Series]:
    """The images' folder, and their names in it, which begin with a folder where it has several."""
    groups = []
    for group in IMAGE_FOLDERS:
        folders = [p for name in group if (p := find_any(root, (name, f'*/{name}')))]
        home = {file: folder for folder in reversed(folders) for file in os.listdir(folder)}
        if folders:
            groups.append((int(names.isin(home.keys()).sum()), folders, home))
    if not groups:
        known = [name for group in IMAGE_FOLDERS for name in group]
        find_one(root, (*known, *(f'*/{name}' for name in known)), 'folder of images')  # raises
    _, folders, home = max(groups, key=lambda group: group[0])
    homes = [home.get(name, folders[0]) for name in names]
    used = set(homes)
    if len(used) == 1:
        return homes[0], names
    parent = Path(os.path.commonpath(used))
    placed = [
        (folder / name).relative_to(parent).as_posix()
        for folder, name in zip(homes, names, strict=True)
    ]
    return parent, pd.Series(placed, names.index)
