"""PARA: the publisher's files to a meta file.

Reference:
    Yang et al.: "Personalized Image Aesthetics Assessment with Rich Attributes", CVPR 2022.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.datasets.raw import (
    TEST,
    TRAIN,
    Problem,
    RawDataset,
    add_problem,
    drop_duplicates,
    find_any,
    find_one,
)
from pyiqa_amhp.errors import AMHPError

ATTRIBUTES = {
    'content': 'contentScore',
    'composition': 'compositionScore',
    'color': 'colorScore',
    'light': 'lightScore',
    'depth_of_field': 'dofScore',
    'object_emphasis': 'isObjectEmphasis',
}
"""Our names, in the order of the paper's Table 5, and what PARA's columns begin with."""

AUTHORS_SENTENCE = (
    'A photo with {content} content, {composition} composition, {color} color, {light} light, '
    '{depth_of_field} depth of field and {object_emphasis} object emphasis.'
)
"""All six in one sentence, in the order of the authors' code; the words between them are ours."""

AUTHORS_CUTS = {
    **dict.fromkeys(ATTRIBUTES, (1.0, 2.0, 3.0, 4.0)),
    'object_emphasis': (0.2, 0.4, 0.6, 0.8),
}
"""The highest mean of bad, poor, fair and good in the authors' code."""

SCALE = (1.0, 5.0)
RANGES = {**dict.fromkeys(ATTRIBUTES, SCALE), 'object_emphasis': (0.0, 1.0)}
"""Of the means: scores 1 to 5, and the share of raters to whom the photo emphasises its object."""

VOTE_VALUES = SCALES['para'].vote_values  # 1.0, 1.5, .. 5.0
VOTES = [f'c{number}' for number in range(1, len(VOTE_VALUES) + 1)]
KEYS = ('sessionId', 'imageName')  # of an image
MEAN_TOLERANCE = 0.01  # between a stated mean and that of its votes (our choice)

TRAIN_FILE, TEST_FILE, RATERS_FILE = 'PARA-GiaaTrain.csv', 'PARA-GiaaTest.csv', 'PARA-Images.csv'
IMAGES = ('imgs', '*/imgs')
BAD_LINES = (
    'lines with a value that is missing, not a number or off its scale, as where a file was cut; '
    'left out: download it again'
)


def read_para(root: Path) -> RawDataset:
    """Read PARA's ratings and its split.

    Where one of the GIAA files is missing, votes and means are counted anew from
    ``PARA-Images.csv``, which has one row a rater and image, and images that the other GIAA file
    does not name are taken for the missing one's. With neither, there is no way to know the
    split: every image is in train, and none is invented.

    Args:
        root: the folder with ``annotation/PARA-GiaaTrain.csv``, ``annotation/PARA-GiaaTest.csv``
            (or ``annotation/PARA-Images.csv``) and ``imgs/``.

    Returns:
        ``img_name`` (``<sessionId>/<imageName>``), ``MOS``, ``std``, ``c1..c9`` (votes for 1.0,
        1.5, .. 5.0), ``attr_<name>`` (means: 1 to 5; object_emphasis 0 to 1), ``semantic``,
        ``official_split``.

    Raises:
        AMHPError: a file or a column that is missing, or a file that is something else.
    """
    problems: list[Problem] = []
    train, test = find_any(root, _places(TRAIN_FILE)), find_any(root, _places(TEST_FILE))
    if train and test:
        parts = [_read_giaa(train, TRAIN, problems), _read_giaa(test, TEST, problems)]
        table = drop_duplicates(pd.concat(parts, ignore_index=True), problems)
    else:
        missing = TEST_FILE if train else TRAIN_FILE
        what = f'{missing}, and no {RATERS_FILE} in its place'
        raters = find_one(root, (*_places(missing), *_places(RATERS_FILE)), what)
        table = _read_raters(raters, problems)
        table['official_split'] = _split(table, train, test, raters, problems)
    table = table.drop(columns='place').reset_index(drop=True)
    return RawDataset(table, find_one(root, IMAGES, 'folder of images'), problems)


def _places(name: str) -> tuple[str, ...]:
    return tuple(f'{folder}{name}' for folder in ('annotation/', '', '*/annotation/', '*/'))


def _read_giaa(path: Path, split: int, problems: list[Problem]) -> pd.DataFrame:
    """A GIAA file: one row an image, with counts of votes and means."""
    counts = {f'aestheticScore_{v:.1f}': c for v, c in zip(VOTE_VALUES, VOTES, strict=True)}
    means = {f'{column}_mean': name for name, column in ATTRIBUTES.items()}
    limits = {
        **dict.fromkeys(counts, (0, np.inf)),
        'aestheticScore_mean': SCALE,
        'aestheticScore_std': (0, np.inf),
        **{column: RANGES[name] for column, name in means.items()},
    }
    read = _read_columns(path, KEYS, limits, problems)
    votes = read[list(counts)].to_numpy(np.float64)
    table = pd.DataFrame(
        {
            'img_name': _names(read),
            'MOS': read['aestheticScore_mean'],
            'std': read['aestheticScore_std'],
            **read[list(counts)].convert_dtypes().rename(columns=counts),
            **{f'attr_{name}': read[column] for column, name in means.items()},
            'semantic': read['semantic'],
            'official_split': split,
            'place': [f'{path}, line {line}' for line in read.index],
        }
    ).reset_index(drop=True)
    total = votes.sum(axis=1)
    add_problem(problems, 'images without votes; left out', table['place'][total == 0])
    mean = votes @ np.array(VOTE_VALUES) / np.maximum(total, 1)
    off = (total > 0) & (np.abs(table['MOS'] - mean) > MEAN_TOLERANCE)
    what = f'means that are off those of their votes by more than {MEAN_TOLERANCE}; kept as stated'
    add_problem(problems, what, table['place'][off])
    return table[total > 0]


def _read_raters(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """``PARA-Images.csv``, one row a rater and image, counted to one row an image."""
    limits = {column: RANGES[name] for name, column in ATTRIBUTES.items()}
    keys = (*KEYS, 'userId')
    read = _read_columns(path, keys, {'aestheticScore': SCALE, **limits}, problems)
    again = read.duplicated(list(keys))
    what = 'raters who rated an image twice; the first line is used'
    add_problem(problems, what, [f'{path}, line {line}' for line in read.index[again]])
    read = read[~again]
    steps = (read['aestheticScore'].to_numpy(np.float64) - VOTE_VALUES[0]) * 2
    votes = np.rint(steps).astype(np.int64)
    what = 'scores between the half steps; taken for the nearest'
    between = np.abs(steps - votes) > 1e-6
    add_problem(problems, what, [f'{path}, line {line}' for line in read.index[between]])

    image, names = pd.factorize(_names(read))
    cells = image * len(VOTES) + votes
    counts = np.bincount(cells, minlength=len(names) * len(VOTES)).reshape(len(names), -1)
    raters, values = counts.sum(axis=1), np.array(VOTE_VALUES)
    mean = counts @ values / raters
    first = ~pd.Series(image).duplicated().to_numpy()
    return pd.DataFrame(
        {
            'img_name': names,
            'MOS': mean,
            'std': np.sqrt((counts * (values - mean[:, None]) ** 2).sum(axis=1) / raters),
            **dict(zip(VOTES, counts.T, strict=True)),
            **{
                f'attr_{name}': np.bincount(image, read[column].to_numpy(np.float64)) / raters
                for name, column in ATTRIBUTES.items()
            },
            'semantic': read['semantic'].to_numpy()[first],
            'official_split': TRAIN,
            'place': str(path),
        }
    )


def _split(
    table: pd.DataFrame,
    train: Path | None,
    test: Path | None,
    raters: Path,
    problems: list[Problem],
) -> np.ndarray:
    """``official_split`` of counted images, from the GIAA file that is there."""
    given = train or test
    if given is None:
        what = (
            f'no {TRAIN_FILE} and no {TEST_FILE}, so the split is not known and every image is in '
            'train; download them, or put a split column of your own into the meta file'
        )
        add_problem(problems, what, [raters])
        return np.full(len(table), TRAIN)
    listed = pd.Series(_names(_read_columns(given, KEYS, {}, problems)))
    there = listed.isin(table['img_name'])
    if not there.any():
        raise AMHPError(
            f'{raters}: not one image of {given.name} is in it; they do not belong together'
        )
    add_problem(
        problems, f'images of {given.name} that {raters.name} has no votes for', listed[~there]
    )
    other, code = (TEST_FILE, TEST) if train else (TRAIN_FILE, TRAIN)
    what = f'no {other}: images that are not in {given.name} are taken for its'
    add_problem(problems, what, [raters])
    return np.where(table['img_name'].isin(listed), TRAIN if train else TEST, code)


def _names(read: pd.DataFrame) -> np.ndarray:
    return (read['sessionId'] + '/' + read['imageName']).to_numpy(str)


def _read_columns(
    path: Path,
    keys: tuple[str, ...],
    limits: dict[str, tuple[float, float]],
    problems: list[Problem],
) -> pd.DataFrame:
    """Some columns of a CSV by their names, and ``semantic`` ('' where the file has none).

    Args:
        path: the file.
        keys: columns of text.
        limits: columns of numbers, with the lowest and the highest.
        problems: gets the lines that are left out: a key is missing, or a number is missing, is
            none or is outside its limits.

    Returns:
        The other rows, indexed by line.

    Raises:
        AMHPError: no CSV, a column that is missing, or not one row that is whole.
    """
    form = {'encoding_errors': 'replace', 'index_col': False}
    try:
        header = list(pd.read_csv(path, nrows=0, **form).columns)
        if missing := [name for name in (*keys, *limits) if name not in header]:
            raise AMHPError(
                f'{path}: no column {missing[0]!r} among its {len(header)} columns ('
                f"{', '.join(header[:3])}, ..); download PARA's annotation again"
            )
        optional = [name for name in ('semantic',) if name in header]
        table = pd.read_csv(
            path,
            usecols=[*keys, *limits, *optional],
            dtype=dict.fromkeys([*keys, *optional], str),
            skip_blank_lines=False,
            low_memory=False,
            **form,
        )
    except pd.errors.EmptyDataError:
        raise AMHPError(f'{path}: the file is empty; download it again') from None
    except pd.errors.ParserError as error:
        row = re.search(r'row (\d+)', str(error))
        where = f'{path}, line {int(row[1]) + 1}' if row else path
        raise AMHPError(f'{where}: cannot be read as CSV ({error}); download it again') from error
    table.index += 2  # lines, below the header
    table = table.dropna(how='all')
    numbers = table[list(limits)].apply(pd.to_numeric, errors='coerce').astype(np.float64)
    low, high = np.array(list(limits.values()), np.float64).reshape(-1, 2).T
    inside = (numbers >= low) & (numbers <= high) & ~np.isinf(numbers)
    whole = pd.concat([table[list(keys)].notna(), inside], axis=1)
    bad = ~whole.all(axis=1)
    places = []
    for line, column in whole[bad].idxmin(axis=1).items():  # the first bad one
        given = table.at[line, column]
        shown = 'empty' if pd.isna(given) else repr(str(given))
        places.append(f'{path}, line {line}, column {column}: {shown}')
    if bad.all():
        first = f' (the first: {places[0]})' if places else ''
        raise AMHPError(f'{path}: not one line of it can be used{first}; download it again')
    add_problem(problems, BAD_LINES, places)
    table = table.assign(**numbers, semantic=table['semantic'].fillna('') if optional else '')
    return table[~bad]
