"""Convert ratings to distributions over quality levels, and distributions to scores.

Imports NumPy only, so that the model and the reports can use it without pyiqa.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.errors import AMHPError

LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
"""Words of the quality levels, worst first (paper, section 3.3)."""


@dataclass(frozen=True)
class Scale:
    """The rating scale of a data set.

    Attributes:
        level_values: scores of the five levels, rising.
        vote_values: scores that a rater can give, rising.
        threshold: scores above it are "high" in ACC.
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

# Rows: votes 1, 1.5, .. 5; columns: levels. The authors' code drops the votes at 4.5.
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
        column: index of its vote column; None if the row as a whole is wrong.
        reason: the message without the row.
    """

    def __init__(self, row: int, reason: str, column: int | None = None):
        where = f'row {row}' if column is None else f'row {row}, vote column {column}'
        super().__init__(f'{where}: {reason}')
        self.row, self.column, self.reason = row, column, reason


def default_level_values(votes: ArrayLike, k: int) -> tuple[float, ...]:
    """Choose values for ``k`` levels (our choice).

    Args:
        votes: the ``m`` vote values, or just the ends ``(lo, hi)`` of the scale.
        k: number of levels, at least 2.

    Returns:
        Means of groups of ``m / k`` votes if ``m`` is a multiple of ``k`` (AVA's 1..10 give
        1.5, 3.5, .. 9.5), else ``k`` even steps from the lowest to the highest vote.

    Raises:
        AMHPError: fewer than two levels, or values that do not rise.
    """
    votes = check_rising(votes, 'vote values')
    if k < 2:
        raise AMHPError(f'{k} levels: expected at least 2')
    if len(votes) % k == 0:
        values = votes.reshape(k, -1).mean(axis=1)
    else:
        values = np.linspace(votes[0], votes[-1], k)
    return tuple(values.tolist())


def vote_matrix(vote_values: ArrayLike, level_values: ArrayLike) -> np.ndarray:
    """Compute the share of each vote that counts towards each level.

    If each level value is the mean of a group of ``m / k`` votes, the groups are merged (AVA).
    Otherwise each vote is split linearly between the two levels nearest to it (PARA's half steps:
    half and half), which keeps its score. Our choice; the paper does not say.

    Args:
        vote_values: ``m`` scores, rising.
        level_values: ``k`` scores, rising.

    Returns:
        ``(m, k)``, rows sum to 1.

    Raises:
        AMHPError: values that do not rise, or a vote value outside the range of the levels.
    """
    votes = check_rising(vote_values, 'vote values')
    levels = check_rising(level_values, 'level values')
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
    """Convert vote counts to level distributions.

    Args:
        counts: ``(N, m)``, not negative; fractions are fine.
        matrix: share of each vote that counts towards each level, ``(m, k)``; see
            ``vote_matrix``.

    Returns:
        ``(N, k)`` float64, rows sum to 1.

    Raises:
        RatingError: a count that is negative, not finite or not a number; a row without votes.
        AMHPError: another number of columns.
    """
    votes = _to_numbers(counts)
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
    level_values: ArrayLike,
    default_std: float | None = None,
) -> np.ndarray:
    """Build level distributions with given means, for images whose votes are unknown.

    With a standard deviation: a normal density at the levels, times ``exp(lambda * level)``,
    where ``lambda`` makes the mean exact; the deviation is met as far as the levels allow.
    Without one, or if it is 0: all mass on the two levels that enclose the mean. Our choice.

    Args:
        mean: mean scores ``(N,)``, on the scale of ``level_values``.
        std: standard deviations ``(N,)``, NaN if unknown; None if all are unknown.
        level_values: ``k`` scores, rising.
        default_std: value for unknown standard deviations.

    Returns:
        ``(N, k)`` float64; rows sum to 1, their mean is off by less than 1e-9 of the span.

    Raises:
        RatingError: a mean outside the levels' range, a negative deviation.
        AMHPError: shapes that differ, levels that do not rise.
    """
    levels, mean = check_rising(level_values, 'level values'), _to_numbers(mean)
    if mean.ndim != 1:
        raise AMHPError(f'means of shape {mean.shape}: expected (N,)')
    std = np.full(mean.shape, np.nan) if std is None else _to_numbers(std)
    if std.shape != mean.shape:
        raise AMHPError(f'{mean.shape} means but {std.shape} deviations: expected as many')
    if default_std is not None:
        std = np.where(np.isnan(std), float(default_std), std)
    _check_rows(
        ~((mean >= levels[0]) & (mean <= levels[-1])),
        lambda i: f'mean score {mean[i]:g}: expected {levels[0]:g} to {levels[-1]:g}',
    )
    _check_rows(std < 0, lambda i: f'standard deviation {std[i]:g}: expected 0 or more')
    result = _nearest_two(mean, levels)
    spread = (std > 0) & (mean > levels[0]) & (mean < levels[-1])
    if spread.any():
        result[spread] = _tilted_normal(mean[spread], std[spread], levels)
    return result


def expected_score(dist: ArrayLike, level_values: ArrayLike) -> np.ndarray:
    """Compute scores ``(N,)``: the mean of the level values under each distribution ``(N, k)``.

    Raises:
        AMHPError: another number of levels.
    """
    dist, values = np.asarray(dist, dtype=np.float64), np.asarray(level_values, dtype=np.float64)
    if dist.ndim != 2 or dist.shape[1] != len(values):
        raise AMHPError(f'distributions of shape {dist.shape}: expected (N, {len(values)})')
    return dist @ values


def merge_levels(dist: ArrayLike, k: int) -> np.ndarray:
    """Merge distributions ``(N, m)`` to ``(N, k)`` by groups of ``m / k`` neighbours.

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


def check_rising(values: ArrayLike, what: str) -> np.ndarray:
    """Convert to float64 and check that there are at least two finite numbers that rise."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if (
        array.ndim != 1
        or len(array) < 2
        or not np.isfinite(array).all()
        or (array[1:] <= array[:-1]).any()
    ):
        given = values.tolist() if isinstance(values, np.ndarray) else values
        raise AMHPError(f'{what} {given}: expected at least two finite numbers, rising')
    return array


def _check_rows(bad: np.ndarray, reason: Callable[[int], str]) -> None:
    """Raise an error for the first bad row, if there is one."""
    if bad.any():
        row = int(np.argmax(bad))
        raise RatingError(row, reason(row))


def _to_numbers(values: ArrayLike) -> np.ndarray:
    """Convert to float64; raise a ``RatingError`` for the first entry that is not a number."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        for row, entry in enumerate(np.asarray(values, dtype=object).tolist()):
            try:
                np.asarray(entry, dtype=np.float64)
            except (TypeError, ValueError):
                raise RatingError(row, f'{entry!r}: expected numbers') from None
        raise AMHPError('ratings: expected rows of equal length') from None


def _enclosing(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the index of the lower of the two levels that enclose each value, ``(N,)``."""
    return np.clip(np.searchsorted(levels, values, side='right') - 1, 0, len(levels) - 2)


def _nearest_two(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Split each value between the two levels that enclose it, ``(N, k)``; the mean is kept."""
    lower, rows = _enclosing(values, levels), np.arange(len(values))
    share = (values - levels[lower]) / (levels[lower + 1] - levels[lower])
    result = np.zeros((len(values), len(levels)))
    result[rows, lower] = 1 - share
    result[rows, lower + 1] = share
    return result


def _tilted_normal(mean: np.ndarray, std: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Compute normal densities at the levels, tilted to the given means, ``(N, k)``.

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
    # The start is exact for two levels, and for a normal that neither end cuts off.
    two, free = np.log(to_a / to_b), (gap / std) * ((mean - a) / std - (b - mean) / std) / 2
    t = np.clip(np.where(np.abs(two) < np.abs(free), two, free), low, high)
    rows = np.arange(len(mean))  # not yet solved
    for iteration in range(400):
        p = _softmax(base[rows] + t[rows, None] * slope[rows])
        error = p @ levels - mean[rows]
        high[rows] = np.where(error > 0, t[rows], high[rows])
        low[rows] = np.where(error < 0, t[rows], low[rows])
        unsolved = np.abs(error) > 1e-12 * (levels[-1] - levels[0])
        unsolved &= high[rows] - low[rows] > 1e-15 * (1 + np.abs(t[rows]))
        if not unsolved.any():
            break
        rows, p = rows[unsolved], p[unsolved]
        newton = t[rows] + gap[rows] * _logit_step(p, mean[rows], levels)
        # Bisection where Newton leaves the bracket, and every fourth time, so that it converges.
        inside = (newton > low[rows]) & (newton < high[rows]) & (iteration % 4 != 3)
        t[rows] = np.where(inside, newton, (low[rows] + high[rows]) / 2)
    return _softmax(base + t[:, None] * slope)


def _logit_step(p: np.ndarray, mean: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Compute Newton's step for the tilt, on the logit of the mean between the outer levels.

    On that scale the curve is a straight line for two levels, and nearly straight for more.
    """
    above, below = np.maximum(p @ (levels - levels[0]), 1e-300), p @ (levels[-1] - levels)
    below = np.maximum(below, 1e-300)
    variance = (p * (levels - (p @ levels)[:, None]) ** 2).sum(axis=1)
    off = np.log((mean - levels[0]) / (levels[-1] - mean)) - np.log(above / below)
    return off * above * below / (np.maximum(variance, 1e-300) * (levels[-1] - levels[0]))


def _softmax(log: np.ndarray) -> np.ndarray:
    weights = np.exp(log - log.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
