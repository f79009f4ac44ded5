"""The ratings in a table of rated images: votes, or a mean with or without a deviation."""

import logging
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets import ratings
from pyiqa_amhp.datasets.csv import bad_row, get_column, numbers
from pyiqa_amhp.datasets.ratings import LEVELS, SCALES, RatingError
from pyiqa_amhp.errors import AMHPError

VOTE_COLUMN = re.compile(r'(?:c|ratings_)(\d+)')

logger = logging.getLogger('pyiqa_amhp')


def _vote_columns(table: pd.DataFrame, file: str) -> list[str]:
    """The vote columns by their number, all of 1..K."""
    found = {}
    for column in table.columns:
        if match := VOTE_COLUMN.fullmatch(str(column)):
            found.setdefault(str(column)[: match.start(1)], {})[int(match[1])] = str(column)
    if len(found) > 1:
        raise AMHPError(f'{file}: votes both as c1.. and as ratings_1..; keep one of them')
    prefix, columns = next(iter(found.items()), ('c', {}))
    if missing := sorted(set(range(1, max(columns, default=0) + 1)) - columns.keys()):
        raise AMHPError(f'{file}: no column {prefix}{missing[0]}, though {len(columns)} others')
    if 0 in columns:
        raise AMHPError(f'{file}: votes begin with column {prefix}1, so {columns[0]!r} is unclear')
    return [columns[number] for number in sorted(columns)]


def rating_columns(
    table: pd.DataFrame, file: str, opt: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MOS ``(N,)``, level distributions ``(N, k)`` and level values ``(k,)``, on one scale."""
    votes = _vote_columns(table, file)
    scale = SCALES.get(opt.get('dataset'))
    if opt.get('dataset') is not None and scale is None:
        raise AMHPError(f'dataset={opt["dataset"]!r}: expected one of {", ".join(SCALES)}')
    vote_values = (
        opt.get('vote_values') or (scale and scale.vote_values) or range(1, len(votes) + 1)
    )
    vote_values = np.asarray(list(vote_values), np.float64)
    reference = opt.get('protocol') == 'reference' and opt.get('dataset') == 'para'
    normalise = _normaliser(opt)
    level_values = _level_values(opt, votes, normalise(vote_values), file)
    unknown = table[votes].isna().all(axis=1).to_numpy()
    if votes and 'MOS' in table and unknown.any():  # of some rows only the mean is known
        opt = {**opt, 'level_values': level_values.tolist()}
        mos, dist = np.empty(len(table)), np.empty((len(table), len(level_values)))
        for rows, part in ((unknown, table.drop(columns=votes)), (~unknown, table)):
            if rows.any():
                mos[rows], dist[rows], _ = rating_columns(part[rows], file, opt)
        return mos, dist, level_values
    try:
        if not votes:
            mos = normalise(numbers(get_column(table, 'MOS', file), file))
            std = numbers(table['std'], file, missing_ok=True) if 'std' in table else None
            std = None if std is None else std * abs(normalise.factor)
            default = opt.get('default_std')
            dist = ratings.distribution_from_mean(mos, std, level_values, default)
            return mos, dist, level_values
        if len(votes) != len(vote_values):
            raise AMHPError(f'{file}: {len(votes)} vote columns but {len(vote_values)} vote_values')
        counts = np.stack([numbers(table[column], file) for column in votes], axis=1)  # (N, m)
        normalised = normalise(vote_values)
        order = np.argsort(normalised)  # reversed where a low vote is a good one
        if reference:
            matrix = ratings.REFERENCE_PARA_VOTE_MATRIX
        else:
            matrix = ratings.vote_matrix(normalised[order], level_values)
        dist = ratings.distribution_from_votes(counts[:, order], matrix)
        mean = normalise((counts @ vote_values) / counts.sum(axis=1))
    except RatingError as error:
        at = votes[order[error.column]] if error.column is not None else None
        a_mean = 'std' if 'deviation' in error.reason else 'MOS'
        column = at or (f'{votes[0]}..' if votes else a_mean)
        raise bad_row(file, table.index[error.row], column, error.reason) from error
    if 'MOS' not in table:
        return mean, dist, level_values
    mos = normalise(numbers(table['MOS'], file))
    off = np.abs(mos - mean) > 0.01 * np.ptp(normalised)
    if off.any():
        logger.warning(
            '%s: the MOS of %d rows differs from the mean of their votes by more than 1%% of the '
            'scale (first: row %d)', file, off.sum(), table.index[np.argmax(off)],
        )  # fmt: skip
    return mos, dist, level_values


def _level_values(opt: dict, votes: list[str], vote_values: np.ndarray, file: str) -> np.ndarray:
    """``(k,)``: as given, else as for the data set, else by bins of the votes."""
    if opt.get('level_values'):
        return np.asarray(opt['level_values'], np.float64)
    if opt.get('dataset'):
        reference = opt.get('protocol') == 'reference' and opt['dataset'] == 'para'
        values = SCALES[opt['dataset']].level_values
        return np.asarray(ratings.REFERENCE_PARA_LEVEL_VALUES if reference else values)
    if not votes:
        raise AMHPError(
            f'{file}: no votes in it, so the scale is not known; give level_values (the score of '
            'each level, for example [1, 2, 3, 4, 5]) or dataset'
        )
    k = len(opt.get('levels') or LEVELS)
    return np.asarray(ratings.default_level_values(np.sort(vote_values), k), np.float64)


def _normaliser(opt: dict):
    """pyiqa's mos_normalize as a map of scores, with its slope as ``factor``."""
    if not opt.get('mos_normalize'):
        return _Affine(1.0, 0.0)
    if opt.get('mos_range') is None or opt.get('lower_better') is None:
        raise AMHPError('mos_normalize: true needs mos_range: [lo, hi] and lower_better')
    if not (len(opt['mos_range']) == 2 and opt['mos_range'][0] < opt['mos_range'][1]):
        raise AMHPError(f'mos_range={list(opt["mos_range"])}: expected [lo, hi], rising')
    lo, hi = opt['mos_range']
    if opt['lower_better']:
        return _Affine(-1 / (hi - lo), hi / (hi - lo))
    return _Affine(1 / (hi - lo), -lo / (hi - lo))


@dataclass(frozen=True)
class _Affine:
    factor: float
    offset: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return scores * self.factor + self.offset
