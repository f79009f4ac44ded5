"""Read AADB's files into the table of a meta file.

Reference:
    Kong et al.: "Photo Aesthetics Ranking Network with Attributes and Content Adaptation",
    ECCV 2016.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.aadb_votes import read_votes
from pyiqa_amhp.datasets.mat import load_mat
from pyiqa_amhp.datasets.raw import (
    TEST,
    TRAIN,
    VAL,
    Problem,
    RawDataset,
    add_problem,
    drop_duplicates,
    find_optional,
    find_required,
    not_found,
)
from pyiqa_amhp.errors import AMHPError

ATTRIBUTES = {
    'content': 'Content',
    'object_emphasis': 'Object',
    'light': 'Light',
    'color_harmony': 'ColorHarmony',
    'vivid_color': 'VividColor',
    'depth_of_field': 'DoF',
    'motion_blur': 'MotionBlur',
    'rule_of_thirds': 'RuleOfThirds',
    'balancing_elements': 'BalacingElements',  # the publisher's spelling
    'repetition': 'Repetition',
    'symmetry': 'Symmetry',
}
"""Our names, in the order of the paper (section 4.1), and the publisher's, used in file names."""

PAPER_ATTRIBUTES = ('color_harmony', 'light', 'content')
"""The attributes in the paper's texts (section 4.1)."""

MAT_COLUMNS = sorted(ATTRIBUTES, key=lambda name: ATTRIBUTES[name])
"""The columns of ``attMat.mat`` after the score, sorted by the publisher's names."""

SCORE_RANGE, ATTRIBUTE_RANGE = (0.0, 1.0), (-1.0, 1.0)
SCORE_TOLERANCE = 0.01  # between a list and the rounded numbers of the matrix (our choice)

# By their names in file names: pyiqa's code of the split, and the index in attMat.mat.
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
"""Folders that together hold all images: in their original sizes, and resized to 256 x 256."""


def read_aadb(root: Path) -> RawDataset:
    """Read AADB's scores, attributes, splits and, if their file exists, votes.

    Scores and attributes come from the list files. Attributes without a list come from
    ``attMat.mat``. Without list files, only scores are known, from ``AADBinfo.mat``. The votes
    come from ``AADB_AllinAll.csv``.

    Args:
        root: folder with ``imgListFiles_label/`` or ``AADBinfo.mat``, and with the folder or
            folders of images.

    Returns:
        ``img_name``, ``MOS`` (0 to 1), ``c1..c5`` (votes for 0, 0.25, .. 1; empty for images
        without votes), ``attr_<name>`` (-1 to 1), ``official_split``, ``paper_split`` (validation
        is part of train).

    Raises:
        AMHPError: a file that is missing, has another format, or does not match the others.
    """
    problems: list[Problem] = []
    lists = find_optional(root, [folder + _list_name('Train') for folder in LIST_FOLDERS])
    matrix = find_optional(root, [folder + MATRIX_FILE for folder in LIST_FOLDERS])
    if lists is not None:
        table = _read_lists(lists.parent, matrix, problems)
    else:
        wanted = (*(folder + _list_name('Train') for folder in LIST_FOLDERS), INFO_FILE)
        what = f'{_list_name("Train")} and no {INFO_FILE}'
        info = find_required(root, (*wanted, f'*/{INFO_FILE}'), what)
        table = _read_info(info, problems)
        what = f'{MATRIX_FILE} is in the order of the list files, which are missing; not used'
        add_problem(problems, what, [matrix] if matrix else [])
    table = drop_duplicates(table, problems).reset_index(drop=True)
    raters = find_optional(root, (RATERS_FILE, f'*/{RATERS_FILE}'))
    votes = read_votes(raters, table, problems) if raters is not None else None
    images, names = _locate_images(root, table['img_name'])
    attributes = [f'attr_{name}' for name in ATTRIBUTES if f'attr_{name}' in table]
    result = pd.concat([table[['img_name', 'MOS']], votes, table[attributes]], axis=1)
    split = table['official_split']
    result = result.assign(
        img_name=names, official_split=split, paper_split=split.replace(VAL, TRAIN)
    )
    return RawDataset(result, images, problems)


def _list_name(part: str, label: str = 'score') -> str:
    return f'imgList{part}Regression_{label}.txt'


def _read_lists(folder: Path, matrix: Path | None, problems: list[Problem]) -> pd.DataFrame:
    """Read the list files of all parts: ``img_name, MOS, attr_<name>, official_split, place``."""
    parts, absent = [], []
    cells: np.ndarray | None = None  # of the matrix
    for part, (split, index) in PARTS.items():
        path = folder / _list_name(part)
        if not path.is_file():
            if split != VAL:
                raise AMHPError(
                    f'{path}: no such file, though there is {_list_name("Train")}; '
                    'download imgListFiles_label again'
                )
            add_problem(problems, 'no list of validation images, so none are known', [path])
            continue
        rows = _read_list(path, SCORE_RANGE, problems)
        table = pd.DataFrame(rows, columns=['img_name', 'MOS', 'place'])
        table['official_split'] = split
        for name, label in ATTRIBUTES.items():
            own = folder / _list_name(part, label)
            if own.is_file():
                table[f'attr_{name}'] = _read_attribute(own, table, problems)
            elif matrix is None:
                absent.append(own)
        missing = [name for name in ATTRIBUTES if f'attr_{name}' not in table]
        if missing and matrix is not None:
            if cells is None:
                cells = load_mat(matrix, ['dataset'])['dataset'].ravel()
            values = _matrix_values(matrix, cells, index, table['MOS'], path, problems)
            table = table.assign(**{f'attr_{name}': values[name] for name in missing})
        parts.append(table[table['MOS'].notna()])
    what = f'no such list and no {MATRIX_FILE}; the attribute is left blank'
    add_problem(problems, what, absent)
    return pd.concat(parts, ignore_index=True)


def _read_list(
    path: Path, limits: tuple[float, float], problems: list[Problem]
) -> list[tuple[str, float, str]]:
    """Read name, value and place of every line of a list; an unusable value becomes NaN."""
    rows, bad, (lo, hi) = [], [], limits
    with path.open(encoding='utf-8-sig', errors='replace') as file:
        for number, line in enumerate(file, start=1):
            if not (fields := line.split()):
                continue
            value, place = _to_number(fields[1:]), f'{path}, line {number}'
            if not lo <= value <= hi:
                value = np.nan
                bad.append(f'{place}: {line.strip()[:60]!r}')
            rows.append((fields[0], value, place))
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
    add_problem(problems, what, bad)
    return rows


def _to_number(fields: list[str]) -> float:
    """Convert the one field to a number; NaN if there are several or it is none."""
    try:
        (field,) = fields
        return float(field)
    except ValueError:
        return np.nan


def _read_attribute(path: Path, scored: pd.DataFrame, problems: list[Problem]) -> list[float]:
    """Read an attribute's list; return its values for the images of ``scored``, NaN without one."""
    rows = _read_list(path, ATTRIBUTE_RANGE, problems)
    listed = {name: value for name, value, _ in reversed(rows) if not np.isnan(value)}
    names = set(scored['img_name'])
    if names.isdisjoint(listed):
        raise AMHPError(
            f'{path}: not one of its images is in the list of scores; they do not belong together'
        )
    unknown = [f'{place}: {name}' for name, _, place in rows if name not in names]
    what = 'images in the list of an attribute that the list of scores does not have; ignored'
    add_problem(problems, what, unknown)
    blank = [name for name in scored['img_name'][scored['MOS'].notna()] if name not in listed]
    what = 'images that the list of an attribute does not have; left blank'
    add_problem(problems, what, [f'{path}: {name}' for name in blank])
    return [listed.get(name, np.nan) for name in scored['img_name']]


def _matrix_values(
    path: Path, cells: np.ndarray, index: int, scores: pd.Series, of: Path, problems: list[Problem]
) -> pd.DataFrame:
    """Take the attributes of a part from ``attMat.mat``.

    Args:
        path: the file, for messages.
        cells: its parts, each ``(N, 12)``: the score, then ``MAT_COLUMNS``.
        index: index of the part.
        scores: scores of the part's list file, ``(N,)``, in whose order the rows are.
        of: that list file, for messages.
        problems: list to which attributes outside their range are added.

    Raises:
        AMHPError: another shape, or other scores than those of the list.
    """
    columns = ['score', *MAT_COLUMNS]
    try:
        values = pd.DataFrame(np.asarray(cells[index], np.float64), scores.index, columns)
    except (IndexError, TypeError, ValueError):
        shape = np.shape(cells[index]) if index < len(cells) else 'nothing'
        raise AMHPError(
            f'{path}: dataset{{{index + 1}}} holds {shape}, expected {len(scores)} x '
            f'{len(columns)} for the {len(scores)} lines of {of.name}; download both again'
        ) from None
    off = np.flatnonzero((values['score'] - scores).abs() > SCORE_TOLERANCE)
    if len(off):
        row = off[0]
        raise AMHPError(
            f'{path}: dataset{{{index + 1}}} has the score {values["score"].iloc[row]:g} in row '
            f'{row + 1} and {of.name} has {scores.iloc[row]:g}; they are not in the same order, so '
            'download both again'
        )
    values = values[MAT_COLUMNS]
    valid = values.apply(lambda column: column.between(*ATTRIBUTE_RANGE))
    what = 'attributes that are not from -1 to 1; left blank'
    places = [f'{path}, dataset{{{index + 1}}}, row {row + 1}' for row in np.where(~valid)[0]]
    add_problem(problems, what, places)
    return values.where(valid)


def _read_info(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Read ``AADBinfo.mat``, which has names and scores for training and testing."""
    splits = {'train': TRAIN, 'test': TEST}
    mat = load_mat(path, [f'{part}{what}' for part in splits for what in ('NameList', 'Score')])
    parts = []
    for part, split in splits.items():
        try:
            scores = mat[f'{part}Score'].ravel().astype(np.float64, casting='safe')
            cells = mat[f'{part}NameList'].ravel()
            names = [str(np.asarray(cell).item()).strip() for cell in cells]
        except (AttributeError, TypeError, ValueError):
            raise AMHPError(
                f'{path}: {part}NameList and {part}Score are not a name and a number for each '
                'image; download it again'
            ) from None
        if len(names) != len(scores):
            raise AMHPError(
                f'{path}: {len(names)} names in {part}NameList but {len(scores)} numbers in '
                f'{part}Score; download it again'
            )
        table = pd.DataFrame({'MOS': scores, 'official_split': split})
        table['img_name'] = names
        table['place'] = [f'{path}, {part}NameList, {i}' for i in range(1, len(names) + 1)]
        good = table['MOS'].between(*SCORE_RANGE)
        add_problem(problems, 'scores that are not from 0 to 1; left out', table['place'][~good])
        parts.append(table[good])
    what = (
        f'{path.name} has scores only: no attributes, so use text_source: none, and no validation '
        'images; imgListFiles_label has both'
    )
    add_problem(problems, what, [path])
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise AMHPError(f'{path}: not one score from 0 to 1; download it again')
    return table


def _locate_images(root: Path, names: pd.Series) -> tuple[Path, pd.Series]:
    """Find the folder of the images; if there are several, the names get a folder in front.

    Of the groups of folders in ``IMAGE_FOLDERS``, the one that has most images is used.

    Returns:
        The folder that holds all images, and their names relative to it ``(N,)``.
    """
    groups = []
    for group in IMAGE_FOLDERS:
        folders = [p for name in group if (p := find_optional(root, (name, f'*/{name}')))]
        home = {file: folder for folder in reversed(folders) for file in os.listdir(folder)}
        if folders:
            groups.append((int(names.isin(home.keys()).sum()), folders, home))
    if not groups:
        known = [name for group in IMAGE_FOLDERS for name in group]
        raise not_found(root, (*known, *(f'*/{name}' for name in known)), 'folder of images')
    _, folders, home = max(groups, key=lambda group: group[0])
    homes = [home.get(name, folders[0]) for name in names]
    if len(set(homes)) == 1:
        return homes[0], names
    parent = Path(os.path.commonpath(homes))
    relative = [
        (folder / name).relative_to(parent).as_posix()
        for folder, name in zip(homes, names, strict=True)
    ]
    return parent, pd.Series(relative, names.index)
