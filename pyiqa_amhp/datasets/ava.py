"""Read AVA's files into the table of a meta file.

Reference:
    Murray, Marchesotti, Perronnin: "AVA: A large-scale database for aesthetic visual analysis",
    CVPR 2012; the comments: Zhou et al. 2016 (AVA-Comments), Ghosal et al. 2019 (AVA-Captions).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.raw import (
    DUPLICATES,
    TEST,
    TRAIN,
    VAL,
    Problem,
    RawDataset,
    add_problem,
    find_optional,
    find_required,
    read_raw_csv,
)
from pyiqa_amhp.errors import AMHPError

WHOLE_NUMBER = re.compile(r'-?[0-9]{1,15}')  # few enough digits for exact sums in float64
VOTES = [f'c{vote}' for vote in range(1, 11)]
TAGS = ['semantic_tag1', 'semantic_tag2']
AVA_TXT = ['index', 'image_id', *VOTES, *TAGS, 'challenge']

RATINGS = ('AVA.txt', 'AVA_dataset/AVA.txt', '*/AVA.txt')
PYIQA_META = ('meta_info_AVADataset.csv', '*/meta_info_AVADataset.csv')
TEST_LIST = tuple(
    f'{folder}generic_test.jpgl'
    for folder in ('aesthetics_image_lists/', '', '*/aesthetics_image_lists/', '*/')
)
IMAGES = ('images', 'image', '*/images', '*/image')
COMMENTS = (
    'AVA_Comments_Full.txt', 'CLEAN_AVA_FULL_COMMENTS.json', '*/AVA_Comments_Full.txt',
    '*/CLEAN_AVA_FULL_COMMENTS.json',
)  # fmt: skip


def read_ava(root: Path) -> RawDataset:
    """Read AVA's ratings and its standard split.

    Args:
        root: folder with ``AVA.txt`` (or pyiqa's ``meta_info_AVADataset.csv``),
            ``aesthetics_image_lists/generic_test.jpgl`` and ``images/``.

    Returns:
        A table with the columns of pyiqa's meta file: ``img_name, MOS, c1..c10, semantic_tag1,
        semantic_tag2, official_split``.

    Raises:
        AMHPError: a file that is missing, has another format, or does not match the others.
    """
    problems: list[Problem] = []
    ratings = find_optional(root, RATINGS)
    if ratings is not None:
        table = read_ava_txt(ratings, problems)
        test = read_id_list(find_required(root, TEST_LIST, 'list of test images'), problems)
        table['official_split'] = _official_split(table, test, ratings, problems)
    else:
        what = 'AVA.txt and no meta_info_AVADataset.csv'
        table = _read_pyiqa_meta(find_required(root, (*RATINGS, *PYIQA_META), what), problems)
    return RawDataset(table, find_required(root, IMAGES, 'folder of images'), problems)


def read_ava_txt(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Read ``AVA.txt``.

    Args:
        path: the file.
        problems: list to which these are added: lines that are not 15 whole numbers, repeated
            images, images without votes. They are left out.

    Returns:
        ``img_name, MOS, c1..c10, semantic_tag1, semantic_tag2``, one row for each image.

    Raises:
        AMHPError: no line has the format of AVA.
    """
    rows, lines = _read_whole_numbers(path, len(AVA_TXT), problems)
    if not len(rows):
        raise AMHPError(
            f'{path}: no line has the {len(AVA_TXT)} whole numbers of AVA.txt (index, image id, '
            'ten counts of votes, two tags, challenge); is this the right file?'
        )
    table = pd.DataFrame(rows, columns=AVA_TXT)
    repeated = table['image_id'].duplicated()
    add_problem(problems, DUPLICATES, _places(path, lines[repeated]))
    bad_votes = (table[VOTES].sum(axis=1) <= 0) | (table[VOTES] < 0).any(axis=1)
    what = 'images without votes, or with negative ones; left out'
    add_problem(problems, what, _places(path, lines[~repeated & bad_votes]))
    table = table[~(repeated | bad_votes)].reset_index(drop=True)
    return pd.DataFrame(
        {
            'img_name': table['image_id'].astype(str) + '.jpg',
            'MOS': mean_of_votes(table),
            **{name: table[name] for name in (*VOTES, *TAGS)},
        }
    )


def mean_of_votes(table: pd.DataFrame) -> np.ndarray:
    """Compute the MOS ``(N,)``, 1 to 10, from the columns ``c1..c10``."""
    counts = table[VOTES].to_numpy(np.float64)
    return counts @ np.arange(1, 11) / counts.sum(axis=1)


def read_id_list(path: Path, problems: list[Problem]) -> np.ndarray:
    """Read a ``.jpgl`` file, one image id a line; return the ids ``(N,)``, sorted.

    Raises:
        AMHPError: no image id in the file.
    """
    rows, _ = _read_whole_numbers(path, 1, problems)
    if not len(rows):
        raise AMHPError(f'{path}: no image ids in it; expected one a line')
    return np.unique(rows)


def image_ids(names: pd.Series, file: str) -> np.ndarray:
    """Take AVA's ids ``(N,)`` from image names: 953619 from ``images/953619.jpg``.

    Args:
        names: names of the images, ``(N,)``.
        file: path of the file with the names, for messages.

    Raises:
        AMHPError: a name that is not a number.
    """
    stems = names.str.extract(r'(\d+)\.[^./]+$', expand=False)
    if stems.isna().any():
        raise AMHPError(
            f'{file}: image {names[stems.isna()].iloc[0]!r}: expected an AVA id, such as 953619.jpg'
        )
    return stems.to_numpy(np.int64)


def _read_whole_numbers(
    path: Path, columns: int, problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray]:
    """Read the lines that are ``columns`` whole numbers; the others are added to ``problems``.

    Returns:
        The numbers ``(N, columns)``, and the line of each row in the file ``(N,)``.
    """
    try:
        table = pd.read_csv(
            path, sep=r'\s+', header=None, dtype=np.int64, skip_blank_lines=False,
            names=range(columns), index_col=False, on_bad_lines='error',
        )  # fmt: skip
        return table.to_numpy(), np.arange(1, len(table) + 1)
    except (ValueError, OverflowError):  # some line is bad: read again, line by line
        pass
    rows, lines, bad = [], [], []
    with path.open(encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if len(fields) == columns and all(map(WHOLE_NUMBER.fullmatch, fields)):
                rows.append([int(field) for field in fields])
                lines.append(number)
            elif fields:
                bad.append(f'{path}, line {number}: {line.strip()[:60]!r}')
    what = f'lines that are not {columns} whole numbers; left out: download it again'
    add_problem(problems, what, bad)
    return np.array(rows, np.int64).reshape(-1, columns), np.array(lines, np.int64)


def _official_split(
    table: pd.DataFrame, test: np.ndarray, ratings: Path, problems: list[Problem]
) -> np.ndarray:
    """Return pyiqa's split codes ``(N,)``: test for the ids of the test list, else train."""
    ids = image_ids(table['img_name'], str(ratings))
    unknown = test[~np.isin(test, ids)]
    if len(unknown) == len(test):
        raise AMHPError(
            f'{ratings}: none of the {len(test)} test ids is in it (first: {unknown[0]}); the list '
            'and the ratings do not belong together'
        )
    add_problem(problems, f'test ids that {ratings.name} does not have; ignored', unknown)
    return np.where(np.isin(ids, test), TEST, TRAIN)


def _read_pyiqa_meta(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Read pyiqa's meta file of AVA; the MOS is computed from its votes."""
    needed = ['img_name', *VOTES, 'official_split']
    table = read_raw_csv(path, needed, TAGS, f'expected {", ".join(needed)}')
    numbers = table[[*VOTES, 'official_split']].apply(pd.to_numeric, errors='coerce')
    votes = numbers[VOTES]
    bad = numbers.isna().any(axis=1) | (votes < 0).any(axis=1) | (votes.sum(axis=1) <= 0)
    bad |= (numbers % 1 != 0).any(axis=1)  # fractions of votes, infinite ones
    bad |= ~numbers['official_split'].isin([TRAIN, VAL, TEST]) | table['img_name'].duplicated()
    what = 'rows without whole votes or a split, or of a repeated image; left out'
    add_problem(problems, what, _places(path, np.flatnonzero(bad) + 2))
    table, numbers = table[~bad], numbers[~bad].astype(np.int64)
    tags = {name: table[name] for name in TAGS if name in table}
    result = pd.DataFrame({'img_name': table['img_name'].astype(str), 'MOS': 0.0})
    result = result.assign(**numbers[VOTES], **tags, official_split=numbers['official_split'])
    result['MOS'] = mean_of_votes(result)
    return result.reset_index(drop=True)


def _places(path: Path, lines: np.ndarray) -> list[str]:
    return [f'{path}, line {line}' for line in lines]
