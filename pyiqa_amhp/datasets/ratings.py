"""Ratings as distributions over quality levels, and level distributions as scores.

Needs numpy only, so that the model and the reports can use it without pyiqa.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.errors import AMHPError

LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
"""The words of the quality levels, worst first (paper, section 3.3)."""


@dataclass(frozen=True)
class Scale:
    """The rating scale of a data set.

    Attributes:
        level_values: the score of each of the five levels, rising.
        vote_values: the scores that a rater can give, rising.
        threshold: a score above it is "high" in ACC.
    """

    level_values: tuple[float, ...]
    vote_values: tuple[float, ...]
    threshold: float


# How votes become five levels is our choice: the paper does not say. A level's value is the mean
# score of its bin. Thresholds: AVA 5 is the field's convention, the others are mid-scale.
SCALES = {
    'ava': Scale((1.5, 3.5, 5.5, 7.5, 9.5), tuple(float(v) for v in range(1, 11)), 5.0),
    'para': Scale((1.0, 2.0, 3.0, 4.0, 5.0), (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0), 3.0),
    'aadb': Scale((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0), 0.5),
}

REFERENCE_PARA_LEVEL_VALUES = (1.0, 1.75, 2.75, 3.75, 5.0)
"""Level values of the authors' code (GitHub-Ju/AMHP, PARA): protocol ``reference``."""

# Rows: votes 1, 1.5, .. 5; columns: levels. The authors' code has no place for the votes at 4.5.
REFERENCE_PARA_VOTE_MATRIX = np.array(
    [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ],
    dtype=np.float64,
)
"""Votes to levels ``(9, 5)`` as in the authors' code: protocol ``reference`` on PARA."""
REFERENCE_PARA_VOTE_MATRIX.flags.writeable = False


class RatingError(AMHPError):
    """A rating that cannot be used.

    Attributes:
        row: index of the first such row.
        column: index of its vote column, or None where the row as a whole is meant.
        reason: what is wrong with it, without the row.
    """

    def __init__(self, row: int, reason: str, column: int | None = None):
        where = f'row {row}' if column is None else f'row {row}, vote column {column}'
        super().__init__(f'{where}: {reason}')
        self.row, self.column, self.reason = row, column, reason


def default_level_values(votes: Sequence[float], k: int) -> tuple[float, ...]:
    """Values for ``k`` levels (our choice).

    Args:
        votes: the ``m`` vote values, or just the ends ``(lo, hi)`` of the scale.
        k: number of levels, at least 2.

    Returns:
        Means of groups of ``m / k`` votes where ``m`` is a multiple of ``k`` (AVA's 1..10 give
        1.5, 3.5, .. 9.5), else ``k`` even steps from end to end.

    Raises:
        AMHPError: fewer than two levels, or values that do not rise.
    """
    votes = _rising(votes, 'vote values')
    if k < 2:
        raise AMHPError(f'{k} levels: expected at least 2')
    if len(votes) % k == 0:
        values = votes.reshape(k, -1).mean(axis=1)
    else:
        values = np.linspace(votes[0], votes[-1], k)
    return tuple(values.tolist())


def vote_matrix(vote_values: Sequence[float], level_values: Sequence[float]) -> np.ndarray:
    """How each vote counts towards each level; either way the mean score is kept.

    Args:
        vote_values: ``m`` scores, rising.
        level_values: ``k`` scores, rising.

    Returns:
        ``(m, k)``, rows sum to 1. Where each level's value is the mean of its group of ``m / k``
        votes, the groups are merged (AVA). Else each vote is split linearly between its two
        nearest levels (PARA's half steps: half and half). Our choice; the paper does not say.

    Raises:
        AMHPError: values that do not rise, or a vote value outside the range of the levels.
    """
    votes, levels = _rising(vote_values, 'vote values'), _rising(level_values, 'level values')
    m, k = len(votes), len(levels)
    if m % k == 0 and np.allclose(votes.reshape(k, -1).mean(axis=1), levels, rtol=1e-9, atol=0):
        return np.repeat(np.eye(k), m // k, axis=0)
    outside = (votes < levels[0]) | (votes > levels[-1])
    if outside.any():
        raise AMHPError(
            f'vote value {votes[outside][0]:g} is outside the level values {levels.tolist()}; '
            'give level_values that reach from the lowest to the highest vote, or are the means '
            'of equal groups of votes'
        )
    return _nearest_two(votes, levels)


def distribution_from_votes(counts: ArrayLike, matrix: np.ndarray) -> np.ndarray:
    """Vote counts to level distributions.

    Args:
        counts: ``(N, m)``, not negative; fractions are fine.
        matrix: ``(m, k)`` as from ``vote_matrix``.

    Returns:
        ``(N, k)`` float64, rows sum to 1.

    Raises:
        RatingError: a count that is negative, not finite or not a number; a row without votes.
        AMHPError: another number of columns.
    """
    votes = _numbers(counts)
    if votes.ndim != 2 or votes.shape[1] != len(matrix):
        raise AMHPError(
            f'vote counts of shape {votes.shape}: expected (N, {len(matrix)}), '
            'one column for each vote value'
        )
    bad = ~(np.isfinite(votes) & (votes >= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        reason = f'vote count {votes[row, column]:g}: expected a finite number from 0 on'
        raise RatingError(row, reason, column)
    levels = votes @ matrix  # (N, k)
    total = levels.sum(axis=1, keepdims=True)
    if not total.all():
        raise RatingError(int(np.argmin(total[:, 0])), 'no votes that count towards a level')
    return levels / total


def distribution_from_mean(
    mean: ArrayLike,
    std: ArrayLike | None,
    level_values: Sequence[float],
    default_std: float | None = None,
) -> np.ndarray:
    """Level distributions whose mean is the given mean, where the votes are not known.

    With a deviation: a normal's density at the levels, times ``exp(lambda * level)`` with
    ``lambda`` such that the mean is kept; the deviation is kept as far as the levels allow.
    Without one, or where it is 0: the mass on the two levels that enclose the mean. Our choice.

    Args:
        mean: ``(N,)``, on the scale of ``level_values``.
        std: ``(N,)``, NaN where unknown; or None.
        level_values: ``k`` scores, rising.
        default_std: takes the place of unknown deviations.

    Returns:
        ``(N, k)`` float64; rows sum to 1, their mean is off by less than 1e-9 of the span.

    Raises:
        RatingError: a mean outside the levels' range, a negative deviation.
        AMHPError: shapes that differ, levels that do not rise.
    """
    levels, mean = _rising(level_values, 'level values'), _numbers(mean)
    if mean.ndim != 1:
        raise AMHPError(f'means of shape {mean.shape}: expected (N,)')
    std = np.full(mean.shape, np.nan) if std is None else _numbers(std)
    if std.shape != mean.shape:
        raise AMHPError(f'{mean.shape} means but {std.shape} deviations: expected as many')
    if default_std is not None:
        std = np.where(np.isnan(std), float(default_std), std)
    _first_bad(
        ~((mean >= levels[0]) & (mean <= levels[-1])),
        lambda i: f'mean score {mean[i]:g}: expected {levels[0]:g} to {levels[-1]:g}',
    )
    _first_bad(std < 0, lambda i: f'standard deviation {std[i]:g}: expected 0 or more')
    result = _nearest_two(mean, levels)
    spread = (std > 0) & (mean > levels[0]) & (mean < levels[-1])
    if spread.any():
        result[spread] = _tilted_normal(mean[spread], std[spread], levels)
    return result


def expected_score(dist: ArrayLike, level_values: Sequence[float]) -> np.ndarray:
    """The score: the expectation ``(N,)`` of the level values under each row of ``(N, k)``."""
    dist, values = np.asarray(dist, dtype=np.float64), np.asarray(level_values, dtype=np.float64)
    if dist.ndim != 2 or dist.shape[1] != len(values):
        raise AMHPError(f'distributions of shape {dist.shape}: expected (N, {len(values)})')
    return dist @ values


def merge_levels(dist: ArrayLike, k: int) -> np.ndarray:
    """Merge ``(N, m)`` to ``(N, k)``, groups of ``m / k`` neighbours: ten bins to five.

    Raises:
        AMHPError: ``m`` is not a multiple of ``k``.
    """
    dist = np.asarray(dist, dtype=np.float64)
    if dist.ndim != 2 or k < 1 or dist.shape[1] % k:
        raise AMHPError(
            f'distributions of shape {dist.shape} cannot be merged to {k} levels: '
            f'expected (N, m) with m a multiple of {k}'
        )
    return dist.reshape(len(dist), k, -1).sum(axis=2)


def _rising(values: Sequence[float], what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if (
        array.ndim != 1
        or len(array) < 2
        or not np.isfinite(array).all()
        or (array[1:] <= array[:-1]).any()
    ):
        raise AMHPError(f'{what} {values}: expected at least two finite numbers, rising')
    return array


def _first_bad(bad: np.ndarray, reason) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise RatingError(row, reason(row))


def _numbers(values: ArrayLike) -> np.ndarray:
    """As float64, or a ``RatingError`` for the first entry that is not a number."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        for row, entry in enumerate(values):
            try:
                np.asarray(entry, dtype=np.float64)
            except (TypeError, ValueError):
                raise RatingError(row, f'{entry!r}: expected numbers') from None
        raise AMHPError('ratings: expected rows of equal length') from None


def _enclosing(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Index of the lower of the two levels that enclose each value."""
    return np.clip(np.searchsorted(levels, values, side='right') - 1, 0, len(levels) - 2)


def _nearest_two(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """All mass ``(N, k)`` on the two levels that enclose each value; the mean is the value."""
    lower, rows = _enclosing(values, levels), np.arange(len(values))
    share = (values - levels[lower]) / (levels[lower + 1] - levels[lower])
    result = np.zeros((len(values), len(levels)))
    result[rows, lower] = 1 - share
    result[rows, lower + 1] = share
    return result


def _tilted_normal(mean: np.ndarray, std: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Normal densities at the levels, tilted to the given means (inside the levels' range).

    Up to constants, the log weight of level v between its neighbours a <= mean <= b is
    ``-(v - a)(v - b) / (2 std^2) + t (v - a) / (b - a)``, the log density and the tilt in one.
    The first term is 0 at a and b and negative elsewhere, so ``t`` stays small for any deviation
    and any spacing, and nothing overflows or cancels.
    """
    lower = _enclosing(mean, levels)
    a, b = levels[lower], levels[lower + 1]
    gap, k = b - a, len(levels)
    std = np.maximum(std, 1e-6 * (levels[-1] - levels[0]))
    slope = (levels - a[:, None]) / gap[:, None]  # (N, k)
    # two divisions, since the square of a huge deviation overflows
    base = -((levels - a[:, None]) / std[:, None]) * ((levels - b[:, None]) / std[:, None]) / 2
    # The mass beyond a (or b) weighs at most gap * k * exp(-|t|), hence these brackets.
    to_a, to_b = np.maximum((mean - a) / gap, 1e-13), np.maximum((b - mean) / gap, 1e-13)
    low, high = np.log(to_a / k) - 1, np.log(k / to_b) + 1
    # The start is right for two levels only, or for a normal that no end cuts off.
    two, free = np.log(to_a / to_b), (gap / std) * ((mean - a) / std - (b - mean) / std) / 2
    t = np.clip(np.where(np.abs(two) < np.abs(free), two, free), low, high)
    rows = np.arange(len(mean))  # those still to be solved
    for iteration in range(400):
        p = _softmax(base[rows] + t[rows, None] * slope[rows])
        error = p @ levels - mean[rows]
        high[rows] = np.where(error > 0, t[rows], high[rows])
        low[rows] = np.where(error < 0, t[rows], low[rows])
        left = np.abs(error) > 1e-12 * (levels[-1] - levels[0])
        left &= high[rows] - low[rows] > 1e-15 * (1 + np.abs(t[rows]))
        if not left.any():
            break
        rows, p = rows[left], p[left]
        newton = t[rows] + gap[rows] * _logit_step(p, mean[rows], levels)
        # A halving where Newton leaves the bracket, and every fourth time so that it ends.
        inside = (newton > low[rows]) & (newton < high[rows]) & (iteration % 4 != 3)
        t[rows] = np.where(inside, newton, (low[rows] + high[rows]) / 2)
    return _softmax(base + t[:, None] * slope)


def _logit_step(p: np.ndarray, mean: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Newton's step for the tilt, on the logit of the mean's place between the outer levels.

    On that scale the curve is a straight line for two levels, and nearly one for more.
    """
    above, below = np.maximum(p @ (levels - levels[0]), 1e-300), p @ (levels[-1] - levels)
    below = np.maximum(below, 1e-300)
    variance = (p * (levels - (p @ levels)[:, None]) ** 2).sum(axis=1)
    off = np.log((mean - levels[0]) / (levels[-1] - mean)) - np.log(above / below)
    return off * above * below / (np.maximum(variance, 1e-300) * (levels[-1] - levels[0]))


def _softmax(log: np.ndarray) -> np.ndarray:
    weights = np.exp(log - log.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
