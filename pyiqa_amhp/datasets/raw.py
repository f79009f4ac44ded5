"""What the readers of publishers' files share: what they give, how they find files and complain."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pyiqa_amhp.datasets.csv import escapes_root
from pyiqa_amhp.errors import AMHPError

TRAIN, VAL, TEST = 0, 1, 2  # pyiqa's codes of splits


@dataclass
class Problem:
    """Something wrong with a download that does not stop us.

    Attributes:
        what: in words, with what was done about it; the same words for the same kind.
        where: file and line, image or column of each case, as far as they are kept.
        count: how many cases.
    """

    what: str
    where: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, most: int = 20) -> None:
        """Count a case and keep the place of the first ``most``."""
        self.count += 1
        if len(self.where) < most:
            self.where.append(where)


@dataclass
class RawDataset:
    """A data set as its publisher's files tell it.

    Attributes:
        table: a meta file's rows, in the order of the files: ``img_name`` (relative to
            ``images``), ``MOS``, ratings, ``attr_<name>``, ``official_split`` (pyiqa's codes:
            0 train, 1 val, 2 test).
        images: the folder of the images.
        problems: what was passed over, by kind.
    """

    table: pd.DataFrame
    images: Path
    problems: list[Problem] = field(default_factory=list)


def find_one(root: Path, patterns: Sequence[str], what: str) -> Path:
    """The first file or folder under ``root`` that one of the glob ``patterns`` names.

    Raises:
        AMHPError: there is none; says what was looked for and what to do.
    """
    found = find_any(root, patterns)
    if found is None:
        raise AMHPError(
            f'{root}: no {what} (looked for {", ".join(patterns)}); give the folder that holds '
            'it with --root'
        )
    return found


def find_any(root: Path, patterns: Sequence[str]) -> Path | None:
    """As ``find_one``, None where there is none."""
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)


def add_problem(problems: list[Problem], what: str, places: Iterable[object]) -> None:
    """Add places to the problem of this kind, which comes with its first place."""
    problem = next((known for known in problems if known.what == what), None)
    for place in places:
        if problem is None:
            problem = Problem(what)
            problems.append(problem)
        problem.add(str(place))


def drop_escaping_paths(published: RawDataset) -> pd.DataFrame:
    """The rows whose ``img_name`` stays in the folder of the images, by how it is written."""
    names = published.table['img_name'].astype(str)
    bad = escapes_root(names) | names.str.contains('\0', regex=False)
    what = 'names that lead out of the folder of images; left out'
    add_problem(published.problems, what, names[bad].map(repr))
    return published.table[~bad]


def drop_duplicates(table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Rows with every ``img_name`` once.

    Of rows in several splits the one in test is kept, then the one in validation, so that no
    image is both trained on and tested; of several in one split, the first.

    Args:
        table: with ``img_name``, ``official_split`` and ``place`` (file and line of the row).
        problems: gets what was left out.
    """
    splits = table.groupby('img_name')['official_split']
    leaks = table['official_split'] < splits.transform('max')
    what = 'images that are in a later split (test, validation) as well; kept there only'
    add_problem(problems, what, table['place'][leaks])
    table = table[~leaks]
    again = table['img_name'].duplicated()
    what = 'images that are there already; the first line is used'
    add_problem(problems, what, table['place'][again])
    return table[~again]
