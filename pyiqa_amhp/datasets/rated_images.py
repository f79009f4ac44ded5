"""Read and check a CSV of rated images as a whole."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.attributes import TEMPLATE, attribute_sentences
from pyiqa_amhp.datasets.csv import (
    bad_cell,
    check_cells,
    escapes_root,
    get_column,
    read_csv,
    stays_within,
)
from pyiqa_amhp.datasets.rating_columns import read_rating_columns
from pyiqa_amhp.datasets.raw import SPLIT_NAMES
from pyiqa_amhp.datasets.text_columns import read_text_columns
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.image_names import find_name, ignores_case, image_key
from pyiqa_amhp.utils.options import flag


@dataclass(frozen=True)
class RatedImages:
    """The rows of a CSV of rated images, by column.

    The columns are arrays, which the workers of a data loader share.

    Attributes:
        file: path of the CSV.
        root: folder of the images.
        names: image names relative to ``root``, ``(N,)``.
        rows: lines of the images in the file, ``(N,)``.
        mos: mean scores, ``(N,)``.
        dist: level distributions, ``(N, k)``.
        level_values: scores of the levels, ``(k,)``, on the scale of ``mos``.
        texts: comments ``(N,)``, or None.
        labels: level words ``(N,)`` by attribute, or None.
        template: template of the text that labels become, see ``attribute_sentences``.
        splits: split columns by name, each ``(N,)`` of train, val, test or ''.
        allow_outside: whether names may lead out of ``root``.
    """

    file: str
    root: str
    names: np.ndarray
    rows: np.ndarray
    mos: np.ndarray
    dist: np.ndarray
    level_values: np.ndarray
    texts: np.ndarray | None
    labels: dict[str, np.ndarray] | None
    template: str
    splits: dict[str, np.ndarray]
    allow_outside: bool = False

    def path(self, index: int) -> str:
        """Return the path of an image.

        Spelling and links are checked here and not in ``read_table``: a look at each of 250,000
        files takes long.

        Raises:
            AMHPError: links lead out of ``root``, and ``allow_outside`` is false.
        """
        name = find_name(self.root, str(self.names[index]))
        if not (self.allow_outside or stays_within(self.root, name)):
            problem = (
                f'{name!r} is a link that leaves dataroot_target; copy the image there, or '
                'allow_outside_root: true'
            )
            raise bad_cell(self.file, self.rows[index], 'img_name', problem)
        return os.path.join(self.root, name)

    def text(self, index: int) -> str:
        """Return the text of an image: its comment, or its labels as text; '' without either."""
        if self.texts is not None:
            return str(self.texts[index])
        if self.labels is not None:
            words = {name: column[index] for name, column in self.labels.items()}
            return attribute_sentences(words, self.template)
        return ''

    def digest(self) -> str:
        """Hash the images' names, ratings, texts and labels: it changes if any of them does."""
        digest = blake2b(digest_size=16)
        for array in (self.mos, self.dist, self.level_values):
            digest.update(np.ascontiguousarray(array, np.float64).tobytes())
        texts = [] if self.texts is None else self.texts.tolist()
        labels = {name: column.tolist() for name, column in (self.labels or {}).items()}
        words = [[image_key(name) for name in self.names.tolist()], texts, labels, self.template]
        digest.update(repr(words).encode('utf-8', 'surrogatepass'))
        return digest.hexdigest()

    def attribute_levels(self, index: int, levels: Sequence[str]) -> dict[str, int]:
        """Return the index in ``levels`` of each attribute's level, -1 for a missing label."""
        numbers = {level: number for number, level in enumerate(levels)}
        labels = self.labels or {}
        return {name: numbers.get(column[index], -1) for name, column in labels.items()}

    def of_phase(self, phase: str, split_column: str | None) -> 'RatedImages':
        """Return the rows of one phase.

        Args:
            phase: train, val or test.
            split_column: name of a split column; None or ``''`` returns all rows.

        Raises:
            AMHPError: no such split column, or no row of this phase.
        """
        if not split_column:
            return self
        if split_column not in self.splits:
            known = ', '.join(self.splits) or 'none'
            raise AMHPError(
                f'{self.file}: split_index={split_column!r} is not a split column of this file '
                f'({known}); its name must contain "split"'
            )
        rows = self.splits[split_column] == phase
        if not rows.any():
            values, counts = np.unique(self.splits[split_column], return_counts=True)
            found = ', '.join(f'{v}: {c}' for v, c in zip(values, counts, strict=True))
            raise AMHPError(
                f'{self.file}: column {split_column!r} has no row for the phase {phase!r} '
                f'({found}); override_phase chooses another'
            )
        return dataclasses.replace(
            self,
            names=self.names[rows],
            rows=self.rows[rows],
            mos=self.mos[rows],
            dist=self.dist[rows],
            texts=None if self.texts is None else self.texts[rows],
            labels=self.labels and {name: column[rows] for name, column in self.labels.items()},
            splits={},
        )


def read_table(opt: dict[str, Any]) -> RatedImages:
    """Read and check a CSV of rated images.

    Required columns: ``img_name``; ``MOS`` (or ``mos``), unless there are votes. Optional:
    votes ``c1..cK`` or ``ratings_1..K`` (empty in rows where only the mean is known), ``std``,
    ``text``, ``attr_<name>``, and split columns, whose name contains "split" and whose values
    are train, val, test (in any case, with spaces or without), or pyiqa's 0, 1, 2. Other columns
    are ignored.

    Args:
        opt: options by name.

            ``meta_info_file``, ``dataroot_target``: the CSV, and the folder of the images.

            ``dataset``: ava, para or aadb; gives the defaults of ``level_values`` and
            ``vote_values``.

            ``level_values``, ``vote_values``: scores of the levels, and of the votes (default
            1..K).

            ``levels``: words of the levels, worst first.

            ``narrow_ratings``: true allows ratings that all lie in a part of the scale; see
            ``rating_scale.py``.

            ``default_std``: standard deviation for rows where only a mean is known.

            ``text_source``: comments, labels or none; default: what the file has.

            ``text_column``: column of the comments; default ``text``.

            ``attributes``: names of the attributes whose labels are used, in order.

            ``attr_range``: ends of the scale of numeric labels, which is divided into levels of
            equal width; one list, or a list for each name.

            ``attr_cuts``: upper ends of all levels but the last, in place of equal widths; one
            list, or a list for each name.

            ``attr_template``: see ``attribute_sentences``.

            ``attribute_labels``: true reads the labels beside comments, to train a predictor.

            ``protocol``: ``reference`` counts PARA's votes as the authors do.

            ``allow_outside_root``: true allows names that are absolute, climb with ``..``, or are
            links out of ``dataroot_target``; otherwise they are refused.

            ``mos_normalize``, ``mos_range``, ``lower_better``: as in pyiqa.

    Raises:
        AMHPError: names the file, the line and the column, and says what was expected.
    """
    for name in ('meta_info_file', 'dataroot_target'):
        if opt.get(name) is None:
            raise AMHPError(f'AMHPDataset: the option {name} is missing')
    file = str(opt['meta_info_file'])
    table = read_csv(file, text_columns=('img_name', opt.get('text_column') or 'text'))
    if 'MOS' not in table and 'mos' in table:
        table = table.rename(columns={'mos': 'MOS'})
    allow_outside = flag(opt, 'allow_outside_root')
    root = os.path.expanduser(str(opt['dataroot_target']))
    names = _read_names(table, file, root, allow_outside)
    mos, dist, level_values = read_rating_columns(table, file, opt)
    texts, labels = read_text_columns(table, file, opt)
    return RatedImages(
        file=file,
        root=root,
        names=names,
        rows=table.index.to_numpy(),
        mos=mos,
        dist=dist,
        level_values=level_values,
        texts=texts,
        labels=labels,
        template=opt.get('attr_template') or TEMPLATE,
        splits={c: _read_split(table[c], file) for c in table.columns if 'split' in c},
        allow_outside=allow_outside,
    )


def _read_names(table: pd.DataFrame, file: str, root: str, allow_outside: bool) -> np.ndarray:
    """Read the image names ``(N,)`` and check that each is unique and a path below the root.

    Two spellings of one name are the same image; see ``image_key``.
    """
    column = get_column(table, 'img_name', file)
    check_cells(column, column == '', file, lambda row: 'empty, expected a name')

    ignore_case = ignores_case(root)
    keys = column.map(lambda name: image_key(name, ignore_case))

    def repeated(row: int) -> str:
        first = column.index[keys == keys.iloc[row]][0]
        other = '' if column[first] == column.iloc[row] else f' as {column[first]!r}'
        return f'{column.iloc[row]!r} is in row {first} already{other}; keep one of them'

    check_cells(column, keys.duplicated(), file, repeated)
    has_nul = column.str.contains('\0', regex=False)
    check_cells(column, has_nul, file, lambda row: 'a NUL byte in a name')

    def leaves_root(row: int) -> str:
        return (
            f'{column.iloc[row]!r} leaves dataroot_target; give names relative to it, or '
            'allow_outside_root: true'
        )

    if not allow_outside:
        check_cells(column, escapes_root(column), file, leaves_root)
    return column.to_numpy(str)


def _read_split(column: pd.Series, file: str) -> np.ndarray:
    """Read a split column ``(N,)`` as train, val, test, or '' for rows in no split.

    Spaces around a word and upper case do not matter (our choice). True and False, which equal 1
    and 0 in Python, are no splits.
    """
    rows, values = pd.factorize(column)  # -1 for empty cells
    split = np.array([*map(_split_name, values), ''])[rows]
    bad = ~np.isin(split, ['', *SPLIT_NAMES.values()])
    expected = 'expected train, val or test (or 0, 1, 2)'
    check_cells(column, bad, file, lambda row: f'{str(column.iloc[row])!r}, {expected}')
    return split


def _split_name(value: Any) -> str:
    if isinstance(value, str):
        return value.strip().lower() or repr(value)
    is_bool = isinstance(value, bool | np.bool_)
    return str(value if is_bool else SPLIT_NAMES.get(value, value))
