"""Read the ratings of a table of rated images: votes, or means with or without deviations."""

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.csv import bad_cell, check_cells, get_column, to_numbers
from pyiqa_amhp.datasets.rating_scale import (
    fitting_levels,
    fitting_scale,
    impossible_deviations,
    narrow_problem,
)
from pyiqa_amhp.datasets.ratings import (
    LEVELS,
    REFERENCE_PARA_LEVEL_VALUES,
    REFERENCE_PARA_VOTE_MATRIX,
    SCALES,
    RatingError,
    check_rising,
    default_level_values,
    distribution_from_mean,
    distribution_from_votes,
    vote_matrix,
)
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.options import flag

VOTE_COLUMN = re.compile(r'(?:c|ratings_)(\d+)')
MOS_TOLERANCE = 0.01  # of the scale, between a MOS and the mean of its votes (our choice)

logger = logging.getLogger('pyiqa_amhp')


def read_rating_columns(
    table: pd.DataFrame, file: str, opt: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the ratings of a table.

    Rows whose vote columns are all empty are read by their mean, if there is a column ``MOS``.

    Args:
        table: rows of a CSV, indexed by line.
        file: path of the CSV, for messages.
        opt: options as in ``read_table``.

    Returns:
        MOS ``(N,)``, level distributions ``(N, k)`` and level values ``(k,)``, on one scale.

    Raises:
        AMHPError: a missing column, a rating that cannot be used, or options that do not fit.
    """
    reader = _RatingReader(table, file, opt)
    if not reader.columns:
        mos, dist = reader.read_means(table)
        return mos, dist, reader.level_values
    no_votes = table[reader.columns].isna().all(axis=1).to_numpy()
    if 'MOS' not in table or not no_votes.any():
        mos, dist = reader.read_votes(table)
        return mos, dist, reader.level_values
    mos, dist = np.empty(len(table)), np.empty((len(table), len(reader.level_values)))
    mos[no_votes], dist[no_votes] = reader.read_means(table[no_votes])
    if not no_votes.all():
        mos[~no_votes], dist[~no_votes] = reader.read_votes(table[~no_votes])
    return mos, dist, reader.level_values


class _RatingReader:
    """The scale of a table's ratings, and functions that read rows on it.

    Attributes:
        columns: names of the vote columns, ``m`` in their order; empty if only means are known.
        level_values: scores of the levels, ``(k,)``.
    """

    def __init__(self, table: pd.DataFrame, file: str, opt: Mapping[str, Any]):
        self._file, self._opt = file, opt
        self.columns = _vote_columns(table, file)
        dataset = opt.get('dataset')
        if dataset is not None and dataset not in SCALES:
            raise AMHPError(f'dataset={dataset!r}: expected one of {", ".join(SCALES)}')
        self._scale = None if dataset is None else SCALES[dataset]
        self._reference = opt.get('protocol') == 'reference' and dataset == 'para'
        known = self._scale.vote_values if self._scale else range(1, len(self.columns) + 1)
        self._vote_values = np.array(list(opt.get('vote_values') or known), np.float64)  # (m,)
        self._normalise = _mos_normaliser(opt)
        self.level_values = self._find_level_values()

    def _find_level_values(self) -> np.ndarray:
        """Return the given values, else those of the data set, else the means of vote bins."""
        if self._opt.get('level_values'):
            return check_rising(self._opt['level_values'], 'level_values')
        if self._scale is not None:
            values = self._scale.level_values
            return np.asarray(REFERENCE_PARA_LEVEL_VALUES if self._reference else values)
        if not self.columns:
            raise AMHPError(
                f'{self._file}: no votes in it, so the scale is not known; give level_values (the '
                'score of each level, for example [1, 2, 3, 4, 5]) or dataset'
            )
        k = len(self._opt.get('levels') or LEVELS)
        return np.array(default_level_values(np.sort(self._normalise(self._vote_values)), k))

    def read_means(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Read MOS ``(N,)`` and level distributions ``(N, k)`` from ``MOS`` and ``std``."""
        levels = self.level_values
        mos = self._read_mos(rows, levels[0], levels[-1])
        std = None
        if 'std' in rows:
            std = to_numbers(rows['std'], self._file, missing_ok=True)
            std = std * abs(self._normalise.factor)
            too_large = impossible_deviations(mos, std, levels)

            def problem(row: int) -> str:
                return (
                    f'standard deviation {std[row]:g}: impossible for ratings from {levels[0]:g} '
                    f'to {levels[-1]:g} with the mean {mos[row]:g}; give it on the scale of MOS'
                )

            check_cells(rows['std'], too_large, self._file, problem)
        try:
            default = self._opt.get('default_std')
            return mos, distribution_from_mean(mos, std, levels, default)
        except RatingError as error:
            line = rows.index[error.row]
            raise bad_cell(self._file, line, 'std', error.reason) from error

    def _read_mos(self, rows: pd.DataFrame, low: float, high: float) -> np.ndarray:
        """Read the column ``MOS``, ``(N,)``, and check that its scale is ``low`` to ``high``."""
        column = get_column(rows, 'MOS', self._file)
        given = to_numbers(column, self._file)
        mos = self._normalise(given)

        def problem(row: int) -> str:
            expected = f'mean score {mos[row]:g}: expected {low:g} to {high:g}'
            if self.columns:
                return f'{expected}, as the votes; leave the column out, or give it on their scale'
            advice = self._advice(given, len(rows))
            return f'{expected}; if the scale is another, {advice} would hold all ratings'

        check_cells(column, ~((mos >= low) & (mos <= high)), self._file, problem)
        self._check_narrow(mos, given, len(rows))
        return mos

    def _check_narrow(self, ratings: np.ndarray, given: np.ndarray, images: int) -> None:
        """Refuse ratings, as they were given, that take up a part of the scale only."""
        problem = narrow_problem(ratings, self.level_values, images)
        if problem and not flag(self._opt, 'narrow_ratings'):
            raise AMHPError(
                f'{self._file}: {problem}; give the scale of the ratings, such as '
                f'{self._advice(given, images)}, or narrow_ratings: true if this is their scale'
            )

    def _advice(self, given: np.ndarray, images: int) -> str:
        """Name the option that sets the scale, with a value that fits the ratings."""
        values: tuple[float, ...]
        if self._normalise != _Affine(1.0, 0.0):
            name, values = 'mos_range', fitting_scale(given, images)
        else:
            name, values = 'level_values', fitting_levels(given, images, len(self.level_values))
        return f'{name}: [{", ".join(f"{value:g}" for value in values)}]'

    def read_votes(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Read MOS ``(N,)`` and level distributions ``(N, k)`` from the votes.

        The column ``MOS``, if there is one, is preferred to the mean of the votes. A warning
        counts the rows where the two differ.
        """
        m = len(self.columns)
        if m != len(self._vote_values):
            raise AMHPError(
                f'{self._file}: {m} vote columns but {len(self._vote_values)} vote_values'
            )
        columns = [to_numbers(rows[column], self._file) for column in self.columns]
        counts = np.stack(columns, axis=1)  # (N, m)
        values = self._normalise(self._vote_values)
        order = np.argsort(values)  # reversed if lower votes are better
        if self._reference:
            matrix = REFERENCE_PARA_VOTE_MATRIX
        else:
            matrix = vote_matrix(values[order], self.level_values)
        self._check_narrow(values, self._vote_values, sys.maxsize)
        try:
            dist = distribution_from_votes(counts[:, order], matrix)
        except RatingError as error:
            column = f'{self.columns[0]}..'
            if error.column is not None:
                column = self.columns[order[error.column]]
            line = rows.index[error.row]
            raise bad_cell(self._file, line, column, error.reason) from error
        is_used = counts.any(axis=0)
        self._check_narrow(values[is_used], self._vote_values[is_used], len(rows))
        mean = self._normalise((counts @ self._vote_values) / counts.sum(axis=1))
        if 'MOS' not in rows:
            return mean, dist
        mos = self._read_mos(rows, values.min(), values.max())
        off = np.abs(mos - mean) > MOS_TOLERANCE * np.ptp(values)
        if off.any():
            logger.warning(
                '%s: the MOS of %d rows differs from the mean of their votes by more than 1%% of '
                'the scale (first: row %d)', self._file, off.sum(), rows.index[off][0],
            )  # fmt: skip
        return mos, dist


def _vote_columns(table: pd.DataFrame, file: str) -> list[str]:
    """List the vote columns by their numbers.

    Raises:
        AMHPError: columns of two kinds, or numbers that are not 1 to m.
    """
    found: dict[str, dict[int, str]] = {}  # by prefix and number
    for column in map(str, table.columns):
        if match := VOTE_COLUMN.fullmatch(column):
            found.setdefault(column[: match.start(1)], {})[int(match[1])] = column
    if len(found) > 1:
        raise AMHPError(f'{file}: votes both as c1.. and as ratings_1..; keep one of them')
    if not found:
        return []
    [(prefix, columns)] = found.items()
    if missing := sorted(set(range(1, max(columns) + 1)) - columns.keys()):
        raise AMHPError(f'{file}: no column {prefix}{missing[0]}, though {len(columns)} others')
    if 0 in columns:
        raise AMHPError(f'{file}: votes begin with column {prefix}1, so {columns[0]!r} is unclear')
    return [columns[number] for number in sorted(columns)]


@dataclass(frozen=True)
class _Affine:
    """A map of scores: ``factor * score + offset``."""

    factor: float
    offset: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return scores * self.factor + self.offset


def _mos_normaliser(opt: Mapping[str, Any]) -> _Affine:
    """Return pyiqa's ``mos_normalize`` as a map of scores; the identity if it is off.

    Raises:
        AMHPError: ``mos_range`` or ``lower_better`` is missing, or the range does not rise.
    """
    if not flag(opt, 'mos_normalize'):
        return _Affine(1.0, 0.0)
    if opt.get('mos_range') is None or opt.get('lower_better') is None:
        raise AMHPError('mos_normalize: true needs mos_range: [lo, hi] and lower_better')
    if not (len(opt['mos_range']) == 2 and opt['mos_range'][0] < opt['mos_range'][1]):
        raise AMHPError(f'mos_range={list(opt["mos_range"])}: expected [lo, hi], rising')
    lo, hi = opt['mos_range']
    if flag(opt, 'lower_better'):
        return _Affine(-1 / (hi - lo), hi / (hi - lo))
    return _Affine(1 / (hi - lo), -lo / (hi - lo))
