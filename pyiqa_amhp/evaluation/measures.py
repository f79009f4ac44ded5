"""How well predicted scores agree with rated ones: every measure with its interval, or the reason
why there is none. Never a silent NaN.

Our choices: 95 % percentile bootstrap over images, 1,000 resamples, seed 0; no interval under 10
images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pyiqa_amhp.datasets.ratings import merge_levels
from pyiqa_amhp.errors import AMHPError

# Key, name, whether more is better.
MEASURES = (
    ('acc', 'ACC', True), ('srcc', 'SRCC', True), ('plcc', 'PLCC', True), ('krcc', 'KRCC', True),
    ('mse', 'MSE', False), ('emd1', 'EMD1', False), ('emd2', 'EMD2', False),
)  # fmt: skip
RESAMPLES, CONFIDENCE = 1000, 0.95
FEWEST_FOR_INTERVAL = 10
MAX_UNDEFINED = 0.05  # share of resamples without a value (all predictions equal, say)


@dataclass(frozen=True)
class Value:
    """One measure of one method.

    Attributes:
        value: None where there is none. ACC is a share in [0, 1], MSE on the scale of the ratings.
        low, high: the ends of the interval, None where there is none.
        reason: why there is no value, or else why there is no interval.
        mapped: measured after a linear mapping to the scale of the ratings.
        bound: ``>`` or ``<`` where only a bound was published.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ''
    mapped: bool = False
    bound: str = ''


@dataclass(frozen=True)
class LinearMap:
    """``slope * score + offset``, and ``label``, which says what is mapped to what."""

    slope: float
    offset: float
    label: str

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return self.slope * scores + self.offset


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        images: how many were compared.
        left_out: how many were not, since their score is NaN or infinite.
        values: by the keys of ``MEASURES``; every key is there.
        mapping: what was mapped to what before ACC and MSE; '' where nothing was.
        notes: what a reader of the numbers has to know.
    """

    images: int
    left_out: int
    values: dict[str, Value]
    mapping: str = ''
    notes: list[str] = field(default_factory=list)


def evaluate(
    predicted: ArrayLike,
    rated: ArrayLike,
    predicted_dist: ArrayLike | None = None,
    rated_dist: ArrayLike | None = None,
    *,
    threshold: float,
    lower_better: bool = False,
    mapping: LinearMap | str | None = None,
    no_dist: str = 'no distributions',
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compare predicted scores with rated ones.

    Args:
        predicted: ``(N,)`` or ``(N, 1)``. A score that is not finite leaves its image out of
            every measure, and is counted.
        rated: ``(N,)``, finite.
        predicted_dist: ``(N, m)``, rows sum to 1; ``m`` is ``k`` or a multiple of it, whose
            neighbours are then merged. None: no EMD.
        rated_dist: ``(N, k)``. None: no EMD.
        threshold: a score above it is "high" in ACC.
        lower_better: correlations are those of the negated scores, as in pyiqa's own benchmark,
            so that 1 is always the best.
        mapping: None: both are on one scale. A map: ACC and MSE are those of the mapped scores,
            and marked; EMD is withheld. Text: why there is no map, hence no ACC, MSE and EMD.
        no_dist: the reason that is given where a distribution is None.
        resamples: 0: no intervals.
        seed: of the resamples; methods with as many images get the same ones.

    Raises:
        AMHPError: shapes that do not fit, or ratings that are not finite.
    """
    x, y = (np.asarray(scores, np.float64).reshape(-1) for scores in (predicted, rated))
    dists = [None if d is None else np.asarray(d, np.float64) for d in (predicted_dist, rated_dist)]
    _check(x, y, dists)
    keep = np.isfinite(x)
    x, y = x[keep], y[keep]
    p, q = (None if d is None else d[keep] for d in dists)
    left_out = int((~keep).sum())
    notes = [f'{left_out} of {len(keep)} scores are NaN or infinite; left out'] * bool(left_out)
    if not len(x):
        reason = 'no image with a finite score' if left_out else 'no image'
        values = {key: Value(reason=reason) for key, _, _ in MEASURES}
        return Evaluation(0, left_out, values, notes=notes)

    with np.errstate(all='ignore'):  # what is not finite gets a reason
        values = _values(x, y, p, q, threshold, lower_better, mapping, no_dist, resamples, seed)
    return Evaluation(
        images=len(x),
        left_out=left_out,
        values={key: values[key] for key, _, _ in MEASURES},
        mapping=mapping.label if isinstance(mapping, LinearMap) else '',
        notes=notes,
    )


def _values(
    x, y, p, q, threshold, lower_better, mapping, no_dist, resamples, seed
) -> dict[str, Value]:
    values = _correlations(-x if lower_better else x, y, resamples, seed)
    no_emd = no_dist if p is None or q is None else _unlike(p, q)
    if isinstance(mapping, str):
        no_emd = no_emd or mapping
        values |= {key: Value(reason=mapping) for key in ('acc', 'mse')}
        means = {}
    else:
        if mapping is not None:
            no_emd = no_emd or 'another scale: distributions are not mapped'
        scores = x if mapping is None else mapping(x)
        means = {'acc': (scores > threshold) == (y > threshold), 'mse': (scores - y) ** 2}
    if no_emd:
        values |= {key: Value(reason=no_emd) for key in ('emd1', 'emd2')}
    else:
        means |= {'emd1': emd_per_image(p, q, 1), 'emd2': emd_per_image(p, q, 2)}
    if means:
        values |= _means(means, resamples, seed, mapping is not None)
    return values


def range_map(
    scale: Sequence[float] | None, rated_scale: Sequence[float], lower_better: bool = False
) -> LinearMap | str | None:
    """What brings scores to the scale of the ratings: range to range, by the stated ends.

    Our choice. A least-squares fit to the ratings would learn from the very images it is tested
    on, and its MSE could never exceed the variance of the ratings, however poor the metric.

    Args:
        scale: the ends of the metric's scale as it is documented; None: not stated.
        rated_scale: those of the ratings.
        lower_better: the mapping turns the scale round.

    Returns:
        None where both are the same, a map, or the reason why there is none.
    """
    (to_low, to_high) = map(float, rated_scale)
    if scale is None:
        return 'the metric states no range: no mapping'
    low, high = map(float, scale)
    if not (np.isfinite([low, high]).all() and low < high):
        return f'the stated range {low:g}..{high:g} has no two ends: no mapping'
    if (low, high) == (to_low, to_high) and not lower_better:
        return None
    slope = (to_high - to_low) / (high - low)
    label = f'{low:g}..{high:g} to {to_low:g}..{to_high:g}'
    if lower_better:
        return LinearMap(-slope, to_high + slope * low, f'{label}, turned round')
    return LinearMap(slope, to_low - slope * low, label)


def emd_per_image(p: np.ndarray, q: np.ndarray, r: float) -> np.ndarray:
    """The distance in Eq. 8 for each image ``(N,)``; ``p (N, m)`` is merged to ``q``'s levels."""
    difference = np.abs(merge_levels(p, q.shape[1]).cumsum(axis=1) - q.cumsum(axis=1))
    return np.mean(difference**r, axis=1) ** (1 / r)


def _check(x: np.ndarray, y: np.ndarray, dists: list[np.ndarray | None]) -> None:
    if len(x) != len(y):
        raise AMHPError(f'{len(x)} predicted and {len(y)} rated scores: expected as many')
    if not np.isfinite(y).all():
        raise AMHPError(f'the rated score of image {int(np.argmin(np.isfinite(y)))} is not finite')
    for what, d in zip(('predicted', 'rated'), dists, strict=True):
        if d is not None and (d.ndim != 2 or len(d) != len(y)):
            raise AMHPError(f'{what} distributions of shape {d.shape}: expected ({len(y)}, k)')


def _unlike(p: np.ndarray, q: np.ndarray) -> str:
    """Why two sets of distributions cannot be compared; '' if they can."""
    if p.shape[1] % q.shape[1]:
        return f'{p.shape[1]} bins cannot be merged to {q.shape[1]} levels'
    for what, d in (('predicted', p), ('rated', q)):
        bad = ~(np.abs(d.sum(axis=1) - 1) < 1e-3) | (d < -1e-6).any(axis=1)  # NaN is bad too
        if bad.any():
            return f'{what} distributions of {bad.sum()} images do not sum to 1'
    return ''


def _means(
    per_image: dict[str, np.ndarray], resamples: int, seed: int, mapped: bool
) -> dict[str, Value]:
    columns = np.stack([np.asarray(v, np.float64) for v in per_image.values()], axis=1)

    def mean(rows):
        return columns[rows].mean(axis=0)

    values = _with_intervals(mean, len(columns), [''] * len(per_image), resamples, seed, mapped)
    return dict(zip(per_image, values, strict=True))


def _correlations(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> dict[str, Value]:
    n = len(x)
    reason = ''
    if n < 2:
        reason = 'one image: a correlation needs two'
    elif np.ptp(x) == 0:
        reason = 'all predictions are equal'
    elif np.ptp(y) == 0:
        reason = 'all ratings are equal'
    reasons = [reason] * 3
    if not reason and min(_spread(x), _spread(y)) < 1e-13:
        reasons[1] = 'the scores are equal but for rounding'
    keys = ('srcc', 'plcc', 'krcc')
    if reason:
        return {key: Value(reason=reason) for key in keys}
    ranks = [np.unique(scores, return_inverse=True)[1] for scores in (x, y)]
    scaled = [(scores - scores.mean()) / np.abs(scores).max() for scores in (x, y)]

    def correlations(rows):
        a, b = ranks[0][rows], ranks[1][rows]
        if a.min() == a.max() or b.min() == b.max():
            return np.full(3, np.nan)
        srcc = _pearson(_mid_ranks(a), _mid_ranks(b))
        plcc = _pearson(scaled[0][rows], scaled[1][rows])
        return np.array([srcc, plcc, stats.kendalltau(a, b).statistic])

    values = _with_intervals(correlations, n, reasons, resamples, seed)
    return dict(zip(keys, values, strict=True))


def _spread(scores: np.ndarray) -> float:
    """The deviation beside the size of the numbers, whose 16 digits are all there is."""
    return float(np.std(scores / np.abs(scores).max()))


def _mid_ranks(dense: np.ndarray) -> np.ndarray:
    """Ranks of integers ``0..G``, the mean rank where they are tied; up to a constant."""
    counts = np.bincount(dense)
    return (np.cumsum(counts) - counts / 2)[dense]


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / size, -1, 1)) if size > 0 else np.nan


def _with_intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    n: int,
    reasons: list[str],
    resamples: int,
    seed: int,
    mapped: bool = False,
) -> list[Value]:
    """``statistic`` of rows gives as many numbers as there are ``reasons``."""
    point, spread = statistic(np.arange(n)), np.empty((0, len(reasons)))
    if n >= FEWEST_FOR_INTERVAL and resamples:
        rng = np.random.default_rng(seed)
        spread = np.stack([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    values = []
    for number, reason, column in zip(point, reasons, spread.T, strict=True):
        if not reason and not np.isfinite(number):
            reason = 'not finite: the scores are too large to compute with'
        if reason:
            values.append(Value(reason=reason))
            continue
        low = high = None
        finite = column[np.isfinite(column)]
        if n < FEWEST_FOR_INTERVAL:
            reason = f'no interval under {FEWEST_FOR_INTERVAL} images ({n} here)'
        elif len(finite) < (1 - MAX_UNDEFINED) * resamples:
            reason = f'undefined in {resamples - len(finite)} of {resamples} resamples: no interval'
        elif resamples:
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(finite, [tail, 1 - tail]).tolist()
        values.append(Value(float(number), low, high, reason, mapped))
    return values
