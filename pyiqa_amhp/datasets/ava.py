"""AVA: the publisher's files to a meta file.

Reference:
    Murray, Marchesotti, Perronnin: "AVA: A large-scale database for aesthetic visual analysis",
    CVPR 2012; the comments: Zhou et al. 2016 (AVA-Comments), Ghosal et al. 2019 (AVA-Captions).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.raw import (
    TEST,
    TRAIN,
    VAL,
    Problem,
    RawDataset,
    add_problem,
    find_any,
    find_one,
)
from pyiqa_amhp.errors import AMHPError

WHOLE_NUMBER = re.compile(r'-?[0-9]{1,15}')  # sums of them are exact
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
        root: the folder with ``AVA.txt`` (or pyiqa's ``meta_info_AVADataset.csv``),
            ``aesthetics_image_lists/generic_test.jpgl`` and ``images/``.

    Returns:
        Columns as in pyiqa's meta file: ``img_name, MOS, c1..c10, semantic_tag1, semantic_tag2,
        official_split``.

    Raises:
        AMHPError: a file that is missing, is something else, or does not belong to the others.
    """
    problems: list[Problem] = []
    ratings = find_any(root, RATINGS)
    if ratings is not None:
        table = read_ava_txt(ratings, problems)
        test = read_id_list(find_one(root, TEST_LIST, 'list of test images'), problems)
        table['official_split'] = _official_split(table, test, ratings, problems)
    else:
        what = 'AVA.txt and no meta_info_AVADataset.csv'
        table = _read_pyiqa_meta(find_one(root, (*RATINGS, *PYIQA_META), what), problems)
    return RawDataset(table, find_one(root, IMAGES, 'folder of images'), problems)


def read_ava_txt(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """``AVA.txt`` to ``img_name, MOS, c1..c10, semantic_tag1, semantic_tag2``.

    Lines that are not 15 whole numbers, images that are there twice and images without votes are
    left out and counted in ``problems``.

    Raises:
        AMHPError: no line is as AVA's.
    """
    rows, lines = _whole_numbers(path, len(AVA_TXT), problems)
    if not len(rows):
        raise AMHPError(
            f'{path}: no line has the {len(AVA_TXT)} whole numbers of AVA.txt (index, image id, '
            'ten counts of votes, two tags, challenge); is this the right file?'
        )
    table = pd.DataFrame(rows, columns=AVA_TXT)
    bad = table['image_id'].duplicated()
    what = 'images that are there already; the first line is used'
    add_problem(problems, what, _places(path, lines[bad]))
    without = ~bad & ((table[VOTES].sum(axis=1) <= 0) | (table[VOTES] < 0).any(axis=1))
    add_problem(
        problems,
        'images without votes, or with negative ones; left out',
        _places(path, lines[without]),
    )
    table = table[~(bad | without)].reset_index(drop=True)
    return pd.DataFrame(
        {
            'img_name': table['image_id'].astype(str) + '.jpg',
            'MOS': mean_of_votes(table),
            **{name: table[name] for name in (*VOTES, *TAGS)},
        }
    )


def mean_of_votes(table: pd.DataFrame) -> np.ndarray:
    """MOS ``(N,)`` on 1..10."""
    counts = table[VOTES].to_numpy(np.float64)
    return counts @ np.arange(1, 11) / counts.sum(axis=1)


def read_id_list(path: Path, problems: list[Problem]) -> np.ndarray:
    """Image ids of a ``.jpgl`` file, one a line, sorted."""
    rows, _ = _whole_numbers(path, 1, problems)
    if not len(rows):
        raise AMHPError(f'{path}: no image ids in it; expected one a line')
    return np.unique(rows)


def image_ids(names: pd.Series, file: str) -> np.ndarray:
    """AVA's ids ``(N,)`` from image names: ``images/953619.jpg`` is 953619.

    Raises:
        AMHPError: a name that is not a number.
    """
    stems = names.str.extract(r'(\d+)\.[^./]+$', expand=False)
    if stems.isna().any():
        raise AMHPError(
            f'{file}: image {names[stems.isna()].iloc[0]!r}: expected an AVA id, such as 953619.jpg'
        )
    return stems.to_numpy(np.int64)


def _whole_numbers(
    path: Path, columns: int, problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray]:
    """Lines of ``columns`` whole numbers, and each one's line number; the others are counted."""
    try:
        table = pd.read_csv(
            path, sep=r'\s+', header=None, dtype=np.int64, skip_blank_lines=False,
            names=range(columns), index_col=False, on_bad_lines='error',
        )  # fmt: skip
        return table.to_numpy(), np.arange(1, len(table) + 1)
    except (ValueError, OverflowError, pd.errors.ParserError):
        pass  # some line is not as it should be: which?
    rows, lines, bad = [], [], []
    with path.open(encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if len(fields) == columns and all(map(WHOLE_NUMBER.fullmatch, fields)):
                rows.append([int(field) for field in fields])
                lines.append(number)
            elif fields:
                bad.append(f'{path}, line {number}: {line.strip()[:60]!r}')
    add_problem(
        problems, f'lines that are not {columns} whole numbers; left out: download it again', bad
    )
    return np.array(rows, np.int64).reshape(-1, columns), np.array(lines, np.int64)


def _official_split(
    table: pd.DataFrame, test: np.ndarray, ratings: Path, problems: list[Problem]
) -> np.ndarray:
    ids = image_ids(table['img_name'], str(ratings))
    unknown = test[~np.isin(test, ids)]
    if len(unknown) == len(test):
        raise AMHPError(
            f'{ratings}: none of the {len(test)} test ids is in it (first: {unknown[0]}); the list '
            'and the ratings do not belong together'
        )
    add_problem(problems, f'test ids that {ratings.name} does not have; passed over', unknown)
    return np.where(np.isin(ids, test), TEST, TRAIN)


def _read_pyiqa_meta(path: Path, problems: list[Problem]) -> pd.DataFrame:
    """pyiqa's own meta file, whose MOS is calculated anew from its votes."""
    try:
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise AMHPError(f'{path}: cannot be read as CSV ({error})') from error
    needed = ['img_name', *VOTES, 'official_split']
    if missing := [name for name in needed if name not in table]:
        raise AMHPError(f'{path}: no column {missing[0]!r}; expected {", ".join(needed)}')
    numbers = table[[*VOTES, 'official_split']].apply(pd.to_numeric, errors='coerce')
    votes = numbers[VOTES]
    bad = numbers.isna().any(axis=1) | (votes < 0).any(axis=1) | (votes.sum(axis=1) <= 0)
    bad |= (numbers % 1 != 0).any(axis=1)  # shares of votes, or endless ones
    bad |= ~numbers['official_split'].isin([TRAIN, VAL, TEST]) | table['img_name'].duplicated()
    lines = np.flatnonzero(bad) + 2
    what = 'rows without whole votes, without a split or there already; left out'
    add_problem(problems, what, _places(path, lines))
    table, numbers = table[~bad], numbers[~bad].astype(np.int64)
    kept = {name: table[name] for name in TAGS if name in table}
    result = pd.DataFrame({'img_name': table['img_name'].astype(str), 'MOS': 0.0})
    result = result.assign(**numbers[VOTES], **kept, official_split=numbers['official_split'])
    result['MOS'] = mean_of_votes(result)
    return result.reset_index(drop=True)


def _places(path: Path, lines: np.ndarray) -> list[str]:
    return [f'{path}, line {line}' for line in lines]
