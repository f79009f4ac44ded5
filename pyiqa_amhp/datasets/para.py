"""Read PARA's files into the table of a meta file.

Reference:
    Yang et al.: "Personalized Image Aesthetics Assessment with Rich Attributes", CVPR 2022.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.csv import FIRST_ROW
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.datasets.raw import (
    TEST,
    TRAIN,
    Problem,
    RawDataset,
    add_problem,
    drop_duplicates,
    find_optional,
    find_required,
    not_found,
    read_raw_csv,
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
"""Our names, in the order of the paper's Table 5, and the prefix of PARA's columns."""

AUTHORS_SENTENCE = (
    'A photo with {content} content, {composition} composition, {color} color, {light} light, '
    '{depth_of_field} depth of field and {object_emphasis} object emphasis.'
)
"""All six in one sentence, in the order of the authors' code; the words between them are ours."""

AUTHORS_CUTS = {
    **dict.fromkeys(ATTRIBUTES, (1.0, 2.0, 3.0, 4.0)),
    'object_emphasis': (0.2, 0.4, 0.6, 0.8),
}
"""Upper ends of the levels bad, poor, fair and good in the authors' code."""

SCALE = (1.0, 5.0)
RANGES = {**dict.fromkeys(ATTRIBUTES, SCALE), 'object_emphasis': (0.0, 1.0)}
"""Ranges of the means: scores 1 to 5; for object emphasis, the share of raters who see one."""

VOTE_VALUES = SCALES['para'].vote_values  # 1.0, 1.5, .. 5.0
VOTES = [f'c{number}' for number in range(1, len(VOTE_VALUES) + 1)]
KEYS = ('sessionId', 'imageName')  # identify an image
FIRST = 100  # images that are looked for in folders by session, and without (our choice)
MEAN_TOLERANCE = 0.01  # between a mean in the file and the mean of its votes (our choice)

TRAIN_FILE, TEST_FILE, RATERS_FILE = 'PARA-GiaaTrain.csv', 'PARA-GiaaTest.csv', 'PARA-Images.csv'
IMAGES = ('imgs', '*/imgs')
BAD_LINES = (
    'lines with a value that is missing, not a number or off its scale, as where a file was cut; '
    'left out: download it again'
)


def read_para(root: Path) -> RawDataset:
    """Read PARA's ratings and its split.

    If one of the GIAA files is missing, votes and means are computed from ``PARA-Images.csv``,
    which has one row for each rater and image, and images that are not in the other GIAA file
    are assigned to the split of the missing one. If both are missing, the split is unknown and
    every image is in train. If ``PARA-Images.csv`` is missing too, only the images of the one GIAA
    file are read. What is missing is a problem of the result.

    Args:
        root: folder with ``annotation/PARA-GiaaTrain.csv``, ``annotation/PARA-GiaaTest.csv``
            (or ``annotation/PARA-Images.csv``) and ``imgs/``, whose images lie in folders by
            session as published, or in ``imgs`` itself.

    Returns:
        ``img_name`` (``<sessionId>/<imageName>``, or ``<imageName>`` in one folder), ``MOS``,
        ``std``, ``c1..c9`` (votes for 1.0, 1.5, .. 5.0), ``attr_<name>`` (means: 1 to 5;
        object_emphasis 0 to 1), ``semantic``, ``official_split``.

    Raises:
        AMHPError: a file or a column that is missing, or a file of another format.
    """
    problems: list[Problem] = []
    train = find_optional(root, _patterns(TRAIN_FILE))
    test = find_optional(root, _patterns(TEST_FILE))
    raters = find_optional(root, _patterns(RATERS_FILE))
    files = [(file, split) for file, split in ((train, TRAIN), (test, TEST)) if file]
    if raters and len(files) < 2:
        table = _read_raters(raters, problems)
        table['official_split'] = _split_by_giaa(table, train, test, raters, problems)
    elif files:
        parts = [_read_giaa(file, split, problems) for file, split in files]
        table = pd.concat(parts, ignore_index=True)
        if len(files) < 2:
            missing, there = (TEST_FILE, 'train') if train else (TRAIN_FILE, 'test')
            what = f'no {missing} and no {RATERS_FILE}: only images of {there} are read'
            add_problem(problems, what, [files[0][0]])
    else:
        what = f'{TRAIN_FILE}, and no {RATERS_FILE} in its place'
        raise not_found(root, (*_patterns(TRAIN_FILE), *_patterns(RATERS_FILE)), what)
    images = find_required(root, IMAGES, 'folder of images')
    table['img_name'] = _names_in(images, table['img_name'], problems)
    table = drop_duplicates(table, problems).drop(columns='place').reset_index(drop=True)
    return RawDataset(table, images, problems)


def _names_in(images: Path, names: pd.Series, problems: list[Problem]) -> pd.Series:
    """Leave the session out of names if the images lie in one folder, as in some copies."""
    flat = names.str.rpartition('/')[2]
    first = zip(names[:FIRST], flat[:FIRST], strict=True)
    if not any((images / alone).exists() and not (images / name).exists() for name, alone in first):
        return names
    what = 'images lie in one folder, without folders by session; named without them'
    add_problem(problems, what, [images])
    return flat


def _patterns(name: str) -> tuple[str, ...]:
    """List the places where copies of PARA have an annotation file."""
    return tuple(f'{folder}{name}' for folder in ('annotation/', '', '*/annotation/', '*/'))


def _read_giaa(path: Path, split: int, problems: list[Problem]) -> pd.DataFrame:
    """Read a GIAA file, which has one row for each image, with counts of votes and means."""
    counts = {f'aestheticScore_{v:.1f}': c for v, c in zip(VOTE_VALUES, VOTES, strict=True)}
    means = {f'{column}_mean': name for name, column in ATTRIBUTES.items()}
    limits = {
        **dict.fromkeys(counts, (0, np.inf)),
        'aestheticScore_mean': SCALE,
        'aestheticScore_std': (0, np.inf),
        **{column: RANGES[name] for column, name in means.items()},
    }
    rows = _read_columns(path, KEYS, limits, problems)
    votes = rows[list(counts)].to_numpy(np.float64)
    table = pd.DataFrame(
        {
            'img_name': _image_names(rows),
            'MOS': rows['aestheticScore_mean'],
            'std': rows['aestheticScore_std'],
            **rows[list(counts)].convert_dtypes().rename(columns=counts),
            **{f'attr_{name}': rows[column] for column, name in means.items()},
            'semantic': rows['semantic'],
            'official_split': split,
            'place': [f'{path}, line {line}' for line in rows.index],
        }
    ).reset_index(drop=True)
    total = votes.sum(axis=1)
    add_problem(problems, 'images without votes; left out', table['place'][total == 0])
    mean = votes @ np.array(VOTE_VALUES) / np.maximum(total, 1)
    off = (total > 0) & (np.abs(table['MOS'] - mean) > MEAN_TOLERANCE)
    what = f'means that differ from that of their votes by more than {MEAN_TOLERANCE}; kept'
    add_problem(problems, what, table['place'][off])
    return table[total > 0]


def _read_raters(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Read ``PARA-Images.csv`` and count its rows, one for each rater and image, by image."""
    limits = {column: RANGES[name] for name, column in ATTRIBUTES.items()}
    keys = (*KEYS, 'userId')
    rows = _read_columns(path, keys, {'aestheticScore': SCALE, **limits}, problems)
    repeated = rows.duplicated(list(keys))
    what = 'raters who rated an image twice; the first line is used'
    add_problem(problems, what, [f'{path}, line {line}' for line in rows.index[repeated]])
    rows = rows[~repeated]
    steps = (rows['aestheticScore'].to_numpy(np.float64) - VOTE_VALUES[0]) * 2
    votes = np.rint(steps).astype(np.int64)
    what = 'scores between the half steps; rounded to the nearest'
    between = np.abs(steps - votes) > 1e-6
    add_problem(problems, what, [f'{path}, line {line}' for line in rows.index[between]])

    image, names = pd.factorize(_image_names(rows))
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
                f'attr_{name}': np.bincount(image, rows[column].to_numpy(np.float64)) / raters
                for name, column in ATTRIBUTES.items()
            },
            'semantic': rows['semantic'].to_numpy()[first],
            'official_split': TRAIN,
            'place': str(path),
        }
    )


def _split_by_giaa(
    table: pd.DataFrame,
    train: Path | None,
    test: Path | None,
    raters: Path,
    problems: list[Problem],
) -> np.ndarray:
    """Return pyiqa's split codes ``(N,)`` by the one GIAA file that exists; all train without.

    Raises:
        AMHPError: no image of the GIAA file is in the table.
    """
    giaa = train or test
    if giaa is None:
        what = (
            f'no {TRAIN_FILE} and no {TEST_FILE}, so the split is not known and every image is in '
            'train; download them, or put a split column of your own into the meta file'
        )
        add_problem(problems, what, [raters])
        return np.full(len(table), TRAIN)
    listed = pd.Series(_image_names(_read_columns(giaa, KEYS, {}, problems)))
    known = listed.isin(table['img_name'])
    if not known.any():
        raise AMHPError(
            f'{raters}: not one image of {giaa.name} is in it; they do not belong together'
        )
    what = f'images of {giaa.name} that {raters.name} has no votes for'
    add_problem(problems, what, listed[~known])
    other, code = (TEST_FILE, TEST) if train else (TRAIN_FILE, TRAIN)
    what = f'no {other}: images that are not in {giaa.name} are assigned to it'
    add_problem(problems, what, [raters])
    return np.where(table['img_name'].isin(listed), TRAIN if train else TEST, code)


def _image_names(rows: pd.DataFrame) -> np.ndarray:
    return (rows['sessionId'] + '/' + rows['imageName']).to_numpy(str)


def _read_columns(
    path: Path,
    keys: tuple[str, ...],
    limits: dict[str, tuple[float, float]],
    problems: list[Problem],
) -> pd.DataFrame:
    """Read columns of a CSV, and ``semantic`` ('' if the file has none).

    Args:
        path: the CSV.
        keys: names of text columns.
        limits: names of number columns, with the lowest and highest value allowed.
        problems: list to which the lines are added that are left out: those with an empty key,
            or with a number that is missing, not finite or outside its limits.

    Returns:
        The other rows, indexed by line.

    Raises:
        AMHPError: not a CSV, a missing column, or no row without fault.
    """
    table = read_raw_csv(
        path,
        [*keys, *limits],
        ['semantic'],
        "download PARA's annotation again",
        dtype=dict.fromkeys([*keys, 'semantic'], str),
        skip_blank_lines=False,
        low_memory=False,
    )
    table.index += FIRST_ROW
    table = table.dropna(how='all')
    numbers = table[list(limits)].apply(pd.to_numeric, errors='coerce').astype(np.float64)
    low, high = np.array(list(limits.values()), np.float64).reshape(-1, 2).T
    within = (numbers >= low) & (numbers <= high) & ~np.isinf(numbers)
    valid = pd.concat([table[list(keys)].notna(), within], axis=1)
    bad = ~valid.all(axis=1)
    places = []
    for line, column in valid[bad].idxmin(axis=1).items():  # the first invalid one
        cell = table.at[line, column]
        shown = 'empty' if pd.isna(cell) else repr(str(cell))
        places.append(f'{path}, line {line}, column {column}: {shown}')
    if bad.all():
        first = f' (the first: {places[0]})' if places else ''
        raise AMHPError(f'{path}: not one line of it can be used{first}; download it again')
    add_problem(problems, BAD_LINES, places)
    semantic = table['semantic'].fillna('') if 'semantic' in table else ''
    return table.assign(**numbers, semantic=semantic)[~bad]
