"""Agreement between predicted and rated scores: each measure with its confidence interval.

A measure that cannot be computed has a reason in place of its value; it is never a silent NaN.

Our choices: 95 % percentile bootstrap over images, 1,000 resamples, seed 0; no interval under 10
images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.metrics import emd_per_image

# Key, name, whether a higher value is better.
MEASURES = (
    ('acc', 'ACC', True), ('srcc', 'SRCC', True), ('plcc', 'PLCC', True), ('krcc', 'KRCC', True),
    ('mse', 'MSE', False), ('emd1', 'EMD1', False), ('emd2', 'EMD2', False),
)  # fmt: skip
RESAMPLES, CONFIDENCE = 1000, 0.95
MIN_IMAGES_FOR_INTERVAL = 10
MAX_UNDEFINED = 0.05  # share of resamples without a value (all predictions equal, say)


@dataclass(frozen=True)
class Value:
    """Value of one measure for one method.

    Attributes:
        value: the number, or None if there is none. ACC is a share in [0, 1], MSE is on the scale
            of the ratings.
        low, high: ends of the confidence interval, or None if there is no interval.
        reason: why there is no value, or, with a value, why there is no interval.
        mapped: whether scores were mapped linearly to the scale of the ratings first.
        bound: ``>`` or ``<`` if a publication gives a bound only.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ''
    mapped: bool = False
    bound: str = ''


@dataclass(frozen=True)
class LinearMap:
    """Linear map ``slope * score + offset``, with a label such as ``0..100 to 1..10``."""

    slope: float
    offset: float
    label: str

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return self.slope * scores + self.offset


@dataclass(frozen=True)
class Evaluation:
    """Result of ``evaluate``.

    Attributes:
        images: number of images that were compared.
        left_out: number of images left out because their score is NaN or infinite.
        values: one ``Value`` for every key of ``MEASURES``.
        mapping: label of the linear map used for ACC and MSE; '' without a map.
        notes: remarks for the reader of the table.
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
    """Compare predicted scores with rated scores.

    Args:
        predicted: predicted scores, ``(N,)`` or ``(N, 1)``. An image whose score is not finite is
            left out of every measure, and is counted.
        rated: rated scores, ``(N,)``, finite.
        predicted_dist: predicted distributions, ``(N, m)``, each row summing to 1. ``m`` is ``k``
            or a multiple of it; neighbouring bins are then merged. None: no EMD.
        rated_dist: rated distributions, ``(N, k)``. None: no EMD.
        threshold: threshold of ACC; a score above it is "high".
        lower_better: whether a lower score is better. Correlations are then computed from the
            negated scores, as in pyiqa's own benchmark, so that 1 is always the best.
        mapping: None if both scores are on one scale. With a map, ACC and MSE are computed from
            the mapped scores and marked, and EMD is not computed. A text is the reason why there
            is no map; ACC, MSE and EMD are then not computed.
        no_dist: reason to report for EMD if a distribution is None.
        resamples: number of bootstrap resamples; 0 for no intervals.
        seed: seed of the resamples. Methods with the same number of images get the same resamples.

    Raises:
        AMHPError: the shapes do not match, or a rating is not finite.
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

    with np.errstate(all='ignore'):  # a value that is not finite is replaced by a reason
        values = _correlations(-x if lower_better else x, y, resamples, seed)
        no_emd = no_dist if p is None or q is None else _dist_problem(p, q)
        per_image: dict[str, np.ndarray] = {}
        if isinstance(mapping, str):
            no_emd = no_emd or mapping
            values |= {key: Value(reason=mapping) for key in ('acc', 'mse')}
        else:
            if mapping is not None:
                no_emd = no_emd or 'another scale: distributions are not mapped'
            scores = x if mapping is None else mapping(x)
            per_image['acc'] = (scores > threshold) == (y > threshold)
            per_image['mse'] = (scores - y) ** 2
        if p is None or q is None or no_emd:
            values |= {key: Value(reason=no_emd) for key in ('emd1', 'emd2')}
        else:
            per_image |= {'emd1': emd_per_image(p, q, 1), 'emd2': emd_per_image(p, q, 2)}
        values |= _means(per_image, resamples, seed, mapping is not None)
    return Evaluation(
        images=len(x),
        left_out=left_out,
        values={key: values[key] for key, _, _ in MEASURES},
        mapping=mapping.label if isinstance(mapping, LinearMap) else '',
        notes=notes,
    )


def range_map(
    scale: Sequence[float] | None, rated_scale: Sequence[float], lower_better: bool = False
) -> LinearMap | str | None:
    """Map a metric's stated range linearly to the range of the ratings.

    Our choice. A least-squares fit to the ratings would learn from the very images it is tested
    on, and its MSE could never exceed the variance of the ratings, however poor the metric.

    Args:
        scale: lowest and highest score that the metric documents; None if it documents no range.
        rated_scale: lowest and highest possible rating.
        lower_better: whether a lower score is better; the map is then reversed.

    Returns:
        The map, None if both ranges are the same, or the reason why there is no map.
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
        return LinearMap(-slope, to_high + slope * low, f'{label}, reversed')
    return LinearMap(slope, to_low - slope * low, label)


def _check(x: np.ndarray, y: np.ndarray, dists: list[np.ndarray | None]) -> None:
    if len(x) != len(y):
        raise AMHPError(f'{len(x)} predicted and {len(y)} rated scores: expected as many')
    if not np.isfinite(y).all():
        raise AMHPError(f'the rated score of image {int(np.argmin(np.isfinite(y)))} is not finite')
    for name, d in zip(('predicted', 'rated'), dists, strict=True):
        if d is not None and (d.ndim != 2 or len(d) != len(y)):
            raise AMHPError(f'{name} distributions of shape {d.shape}: expected ({len(y)}, k)')


def _dist_problem(p: np.ndarray, q: np.ndarray) -> str:
    """Explain why two sets of distributions cannot be compared; '' if they can."""
    if p.shape[1] % q.shape[1]:
        return f'{p.shape[1]} bins cannot be merged to {q.shape[1]} levels'
    for name, d in (('predicted', p), ('rated', q)):
        bad = ~(np.abs(d.sum(axis=1) - 1) < 1e-3) | (d < -1e-6).any(axis=1)  # True for NaN too
        if bad.any():
            return f'{name} distributions of {bad.sum()} images do not sum to 1'
    return ''


def _means(
    per_image: dict[str, np.ndarray], resamples: int, seed: int, mapped: bool
) -> dict[str, Value]:
    """Average measures that have one value ``(N,)`` for each image."""
    if not per_image:
        return {}
    columns = np.stack([np.asarray(v, np.float64) for v in per_image.values()], axis=1)

    def mean(rows: np.ndarray) -> np.ndarray:
        return columns[rows].mean(axis=0)

    values = _with_intervals(mean, len(columns), [''] * len(per_image), resamples, seed, mapped)
    return dict(zip(per_image, values, strict=True))


def _correlations(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> dict[str, Value]:
    n = len(x)
    keys = ('srcc', 'plcc', 'krcc')
    reason = ''
    if n < 2:
        reason = 'one image: a correlation needs two'
    elif np.ptp(x) == 0:
        reason = 'all predictions are equal'
    elif np.ptp(y) == 0:
        reason = 'all ratings are equal'
    if reason:
        return {key: Value(reason=reason) for key in keys}
    reasons = [''] * 3
    if min(_relative_deviation(x), _relative_deviation(y)) < 1e-13:
        reasons[1] = 'the scores are equal but for rounding'
    ranks = [np.unique(scores, return_inverse=True)[1] for scores in (x, y)]
    scaled = [(scores - scores.mean()) / np.abs(scores).max() for scores in (x, y)]

    def correlations(rows: np.ndarray) -> np.ndarray:
        a, b = ranks[0][rows], ranks[1][rows]
        if a.min() == a.max() or b.min() == b.max():
            return np.full(3, np.nan)
        srcc = _pearson(_mid_ranks(a), _mid_ranks(b))
        plcc = _pearson(scaled[0][rows], scaled[1][rows])
        return np.array([srcc, plcc, stats.kendalltau(a, b).statistic])

    values = _with_intervals(correlations, n, reasons, resamples, seed)
    return dict(zip(keys, values, strict=True))


def _relative_deviation(scores: np.ndarray) -> float:
    """Compute the standard deviation relative to the largest score; float64 has 16 digits."""
    return float(np.std(scores / np.abs(scores).max()))


def _mid_ranks(dense: np.ndarray) -> np.ndarray:
    """Rank integers ``0..G``, ties by their mean rank, up to a constant."""
    counts = np.bincount(dense)
    return (np.cumsum(counts) - counts / 2)[dense]


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / norm, -1, 1)) if norm > 0 else np.nan


def _with_intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    n: int,
    reasons: list[str],
    resamples: int,
    seed: int,
    mapped: bool = False,
) -> list[Value]:
    """Compute statistics of ``n`` images and their bootstrap intervals.

    Args:
        statistic: computes one number for each of ``reasons`` from the indices of images.
        reasons: why a number must not be reported; '' if it may.
    """
    point, resampled = statistic(np.arange(n)), np.empty((0, len(reasons)))
    if n >= MIN_IMAGES_FOR_INTERVAL and resamples:
        rng = np.random.default_rng(seed)
        resampled = np.stack([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    values = []
    for number, reason, column in zip(point, reasons, resampled.T, strict=True):
        if not reason and not np.isfinite(number):
            reason = 'not finite: the scores are too large to compute with'
        if reason:
            values.append(Value(reason=reason))
            continue
        low = high = None
        finite = column[np.isfinite(column)]
        if n < MIN_IMAGES_FOR_INTERVAL:
            reason = f'no interval under {MIN_IMAGES_FOR_INTERVAL} images ({n} here)'
        elif len(finite) < (1 - MAX_UNDEFINED) * resamples:
            reason = f'undefined in {resamples - len(finite)} of {resamples} resamples: no interval'
        elif resamples:
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(finite, [tail, 1 - tail]).tolist()
        values.append(Value(float(number), low, high, reason, mapped))
    return values
