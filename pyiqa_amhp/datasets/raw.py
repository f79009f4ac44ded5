"""Shared by the readers of AVA, PARA and AADB: splits, problems, files of a download."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pyiqa_amhp.datasets.csv import escapes_root
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.image_names import image_key

TRAIN, VAL, TEST = 0, 1, 2  # pyiqa's codes in the column official_split
SPLIT_NAMES = {TRAIN: 'train', VAL: 'val', TEST: 'test'}

Progress = Callable[[Iterable, int, str], Iterable]
"""``progress(items, how_many, description)`` passes items on and shows a bar, as ``tqdm`` does."""

DUPLICATES = 'images that are listed more than once; the first line is used'
MAX_PLACES = 20  # that a Problem lists; all are counted


@dataclass
class Problem:
    """A kind of fault in a download that was worked around.

    Attributes:
        what: description of the fault and of what was done about it.
        where: file and line, image or column of the first ``MAX_PLACES`` cases.
        count: number of cases.
    """

    what: str
    where: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str) -> None:
        """Count a case."""
        self.count += 1
        if len(self.where) < MAX_PLACES:
            self.where.append(where)


@dataclass
class RawDataset:
    """A data set as read from its publisher's files.

    Attributes:
        table: one row for each image, in the order of the files: ``img_name`` (relative to
            ``images``), ``MOS``, ratings, ``attr_<name>``, ``official_split`` (pyiqa's codes:
            0 train, 1 val, 2 test).
        images: folder of the images.
        problems: faults that were worked around, by kind.
    """

    table: pd.DataFrame
    images: Path
    problems: list[Problem] = field(default_factory=list)


def find_required(root: Path, patterns: Sequence[str], what: str) -> Path:
    """Find the first file or folder under ``root`` that matches one of the glob ``patterns``.

    Args:
        root: folder of the download.
        patterns: globs relative to ``root``; earlier ones come first.
        what: name of the file in the error message.

    Raises:
        AMHPError: nothing matches.
    """
    found = find_optional(root, patterns)
    if found is None:
        raise not_found(root, patterns, what)
    return found


def find_optional(root: Path, patterns: Sequence[str]) -> Path | None:
    """As ``find_required``, but return None if nothing matches."""
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)


def not_found(root: Path, patterns: Sequence[str], what: str) -> AMHPError:
    """Build the error for a file of a download that is missing; see ``find_required``."""
    return AMHPError(
        f'{root}: no {what} (looked for {", ".join(patterns)}); give the folder that holds it '
        'with --root'
    )


def read_raw_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str], advice: str, **options: Any
) -> pd.DataFrame:
    """Read some columns of a publisher's CSV by their names.

    Bytes that are not UTF-8 are replaced.

    Args:
        path: the CSV.
        columns: names of columns that must be there.
        optional: names of columns that are read if they are there.
        advice: what to do where a column is missing.
        options: further arguments of ``pandas.read_csv``.

    Raises:
        AMHPError: not a CSV, or a column is missing.
    """
    reading: dict[str, Any] = {'encoding_errors': 'replace', 'index_col': False}
    try:
        header = list(pd.read_csv(path, nrows=0, **reading).columns)
        if missing := [name for name in columns if name not in header]:
            raise AMHPError(
                f'{path}: no column {missing[0]!r} among its {len(header)} columns '
                f'({", ".join(map(str, header[:3]))}, ..); {advice}'
            )
        wanted = [*columns, *(name for name in optional if name in header)]
        return pd.read_csv(path, usecols=wanted, **reading, **options)
    except pd.errors.EmptyDataError:
        raise AMHPError(f'{path}: the file is empty; download it again') from None
    except pd.errors.ParserError as error:
        row = re.search(r'row (\d+)', str(error))
        where = f'{path}, line {int(row[1]) + 1}' if row else path
        raise AMHPError(f'{where}: cannot be read as CSV ({error}); download it again') from error


def add_problem(problems: list[Problem], what: str, places: Iterable[object]) -> None:
    """Count cases of a problem.

    Args:
        problems: list to which the problem is added with its first case.
        what: description of the problem; the same text means the same kind.
        places: file and line, image or column of each case.
    """
    problem = next((known for known in problems if known.what == what), None)
    for place in places:
        if problem is None:
            problem = Problem(what)
            problems.append(problem)
        problem.add(str(place))


def drop_escaping_paths(raw: RawDataset) -> pd.DataFrame:
    """Return the rows whose ``img_name`` is a path below the folder of images."""
    names = raw.table['img_name'].astype(str)
    bad = escapes_root(names)
    what = 'names that lead out of the folder of images; left out'
    add_problem(raw.problems, what, names[bad].map(repr))
    return raw.table[~bad]


def drop_duplicates(table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Keep one row for each ``img_name``.

    Of rows in several splits the one in test is kept, then the one in validation, so that no
    image is both trained on and tested. Of several rows in one split, the first is kept.

    Args:
        table: with ``img_name``, ``official_split`` and ``place`` (file and line of the row).
        problems: list to which the dropped rows are added.
    """
    names = table['img_name'].map(image_key)
    splits = table.groupby(names)['official_split']
    leaks = table['official_split'] < splits.transform('max')
    what = 'images that are in a later split (test, validation) as well; kept there only'
    add_problem(problems, what, table['place'][leaks])
    table = table[~leaks]
    repeated = names[~leaks].duplicated()
    add_problem(problems, DUPLICATES, table['place'][repeated])
    return table[~repeated]
