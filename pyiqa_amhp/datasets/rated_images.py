"""A CSV of rated images, read and checked as a whole: columns by name, errors by row."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.attributes import TEMPLATE, attribute_sentences
from pyiqa_amhp.datasets.csv import bad_row, escapes_root, get_column, read_csv, stays_within
from pyiqa_amhp.datasets.rating_columns import rating_columns
from pyiqa_amhp.datasets.text_columns import text_columns
from pyiqa_amhp.errors import AMHPError

AVA_SPLITS = {0: 'train', 1: 'val', 2: 'test'}  # pyiqa's codes in meta_info_AVADataset.csv


@dataclass(frozen=True)
class RatedImages:
    """Columns of equal length N, kept as arrays so that workers share them.

    Attributes:
        file: the CSV. root: folder of the images. allow_outside: names may lead out of it.
        names: image names relative to ``root``, ``(N,)``. rows: where they are in the file,
            ``(N,)``.
        mos: mean scores, ``(N,)``. dist: level distributions, ``(N, k)``.
        level_values: the scores of the levels, ``(k,)``, on the scale of ``mos``.
        texts: comments, or None. labels: attribute name to level words, each ``(N,)``, or None.
        template: the sentence of a label.
        splits: split columns, each ``(N,)`` of train, val, test.
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
        """Where an image lies.

        Raises:
            AMHPError: by way of links it lies outside the root, which ``allow_outside_root``
                would have to allow. Only now, since a look at each of 250,000 files takes long.
        """
        name = str(self.names[index])
        if not (self.allow_outside or stays_within(self.root, name)):
            problem = (
                f'{name!r} is a link that leaves dataroot_target; copy the image there, or '
                'allow_outside_root: true'
            )
            raise bad_row(self.file, self.rows[index], 'img_name', problem)
        return os.path.join(self.root, name)

    def text(self, index: int) -> str:
        """What is said about an image: its comment, or sentences from its labels."""
        if self.texts is not None:
            return str(self.texts[index])
        if self.labels is not None:
            words = {name: column[index] for name, column in self.labels.items()}
            return attribute_sentences(words, self.template)
        return ''

    def attribute_levels(self, index: int, levels: Sequence[str]) -> dict[str, int]:
        """The number of each attribute's level among ``levels``, -1 where there is no label."""
        numbers = {level: number for number, level in enumerate(levels)}
        labels = self.labels or {}
        return {name: numbers.get(column[index], -1) for name, column in labels.items()}

    def of_phase(self, phase: str, split_column: str | None) -> 'RatedImages':
        """The rows of one phase; all of them where no split column is named.

        Raises:
            AMHPError: no such column, or no such row.
        """
        if split_column is None:
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
            there = ', '.join(f'{v}: {c}' for v, c in zip(values, counts, strict=True))
            raise AMHPError(
                f'{self.file}: column {split_column!r} has no row for the phase {phase!r} '
                f'({there}); override_phase chooses another'
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

    Columns: ``img_name``; ``MOS`` (or ``mos``), unless there are votes; any split columns (their
    name contains "split"; values train, val, test, or pyiqa's 0, 1, 2). Optional: votes
    ``c1..cK`` or ``ratings_1..K`` (all blank where only the mean is known), ``std``, ``text``,
    ``attr_<name>``. Others are passed over.

    Args:
        opt: ``meta_info_file``, ``dataroot_target``; ``dataset`` (ava, para, aadb: defaults for
            the two following); ``level_values``; ``vote_values`` (default 1..K); ``levels`` (how
            many, and the words of labels); ``default_std`` where only a mean is known;
            ``text_source`` (comments, labels or none; default: what the file has);
            ``text_column``; ``attributes`` (names, in order); ``attr_range`` (ends of numeric
            labels, which are cut into levels of equal width) and ``attr_cuts`` (the upper ends
            of all levels but the last, instead), either one list or one for each name;
            ``attr_template`` (see ``attribute_sentences``); ``attribute_labels`` (true: read the
            labels beside comments, to train a predictor on); ``protocol`` (``reference``: the
            authors' counting of PARA votes); ``allow_outside_root`` (true: names may be
            absolute, climb with ``..``, or be links that lead out of ``dataroot_target``, all
            of which are refused otherwise); pyiqa's ``mos_normalize``, ``mos_range``,
            ``lower_better``.

    Raises:
        AMHPError: file, row (line of the file) and column, what was expected, what to do.
    """
    for name in ('meta_info_file', 'dataroot_target'):
        if opt.get(name) is None:
            raise AMHPError(f'AMHPDataset: the option {name} is missing')
    file = str(opt['meta_info_file'])
    table = read_csv(file, text_columns=('img_name', opt.get('text_column') or 'text'))
    if 'MOS' not in table and 'mos' in table:
        table = table.rename(columns={'mos': 'MOS'})
    names = _names(table, file, allow_outside=opt.get('allow_outside_root', False))
    mos, dist, level_values = rating_columns(table, file, opt)
    texts, labels = text_columns(table, file, opt)
    return RatedImages(
        file=file,
        root=os.path.expanduser(str(opt['dataroot_target'])),
        names=names,
        rows=table.index.to_numpy(),
        mos=mos,
        dist=dist,
        level_values=level_values,
        texts=texts,
        labels=labels,
        template=opt.get('attr_template') or TEMPLATE,
        splits={c: _split(table[c], file) for c in table.columns if 'split' in c},
        allow_outside=bool(opt.get('allow_outside_root')),
    )


def _names(table: pd.DataFrame, file: str, allow_outside: bool) -> np.ndarray:
    column = get_column(table, 'img_name', file)
    if column.isna().any():
        raise bad_row(file, column.isna().idxmax(), 'img_name', 'empty, expected a name')
    repeated = column.duplicated()
    if repeated.any():
        line = repeated.idxmax()
        first = (column == column[line]).idxmax()
        problem = f'{column[line]!r} is in row {first} already; keep one of them'
        raise bad_row(file, line, 'img_name', problem)
    unwritable = column.str.contains('\0', regex=False)
    if unwritable.any():
        raise bad_row(file, unwritable.idxmax(), 'img_name', 'a NUL byte in a name')
    leaves = escapes_root(column)
    if leaves.any() and not allow_outside:
        line = leaves.idxmax()
        problem = (
            f'{column[line]!r} leaves dataroot_target; give names relative to it, or '
            'allow_outside_root: true'
        )
        raise bad_row(file, line, 'img_name', problem)
    return column.to_numpy(str)


def _split(column: pd.Series, file: str) -> np.ndarray:
    phases = np.array(list(AVA_SPLITS.values()))
    rows, given = pd.factorize(column)  # -1: empty
    words = np.array([*(str(AVA_SPLITS.get(value, value)) for value in given), ''])
    values = words[rows]
    bad = ~np.isin(values, phases) & (values != '')  # empty: in no split
    if bad.any():
        row = int(np.argmax(bad))
        problem = f'{str(values[row])!r}, expected train, val or test (or 0, 1, 2)'
        raise bad_row(file, column.index[row], str(column.name), problem)
    return values
