"""The metrics that the paper reports beside pyiqa's SRCC, PLCC and KRCC: ACC, MSE, EMD1 and EMD2.

pyiqa calls a metric with the predictions, the ratings and all options that the YAML file gives it.
``better`` is one of those options: pyiqa reads it, and passes it on.
"""

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.datasets.ratings import merge_levels
from pyiqa_amhp.errors import AMHPError

# Metrics of pyiqa that have no value if all predictions, or all ratings, are equal.
CORRELATIONS = ('calculate_srcc', 'calculate_plcc', 'calculate_krcc')


def emd_per_image(p: np.ndarray, q: np.ndarray, r: float) -> np.ndarray:
    """Compute the earth mover's distance of Eq. 8 for each image, before the mean over images.

    Args:
        p: predicted distributions, ``(N, m)``. ``m`` is ``k`` or a multiple of it; neighbouring
            bins are then merged.
        q: rated distributions, ``(N, k)``.
        r: the exponent of Eq. 8: 1 gives EMD1, 2 gives EMD2.

    Returns:
        The distances, ``(N,)``, each in [0, 1].

    Raises:
        AMHPError: ``m`` is not a multiple of ``k``.
    """
    difference = np.abs(merge_levels(p, q.shape[1]).cumsum(axis=1) - q.cumsum(axis=1))  # (N, k)
    return np.mean(difference**r, axis=1) ** (1 / r)


def calculate_acc(x: ArrayLike, y: ArrayLike, threshold: float = 5.0, better: str = '') -> float:
    """Compute ACC: the share of images on the right side of ``threshold``, in [0, 1].

    Args:
        x, y: predicted and rated scores, ``(N,)``, on the same scale.
        threshold: a score above it is "high". AVA 5 (the paper's convention), PARA 3, AADB 0.5.
    """
    x, y = _pair(x, y, 1, 'calculate_acc')
    return float(np.mean((x > threshold) == (y > threshold)))


def calculate_mse(x: ArrayLike, y: ArrayLike, better: str = '') -> float:
    """Compute MSE of scores ``(N,)`` on the data set's own scale, as in the paper's Table 1."""
    x, y = _pair(x, y, 1, 'calculate_mse')
    return float(np.mean((x - y) ** 2))


def calculate_emd(x: ArrayLike, y: ArrayLike, r: float = 1, better: str = '') -> float:
    """Compute EMD1 (``r=1``) or EMD2 (``r=2``): the mean over images of the distance in Eq. 8.

    Args:
        x, y: predicted and rated level distributions, ``(N, k)``. ``AMHPModel`` passes these to
            this metric. pyiqa's other model classes pass scores, and scores are an error here.
    """
    x, y = _pair(x, y, 2, 'calculate_emd (it needs level distributions; use AMHPModel)')
    return float(np.mean(emd_per_image(x, y, r)))


def no_correlation(x: np.ndarray, y: np.ndarray) -> str:
    """Say why the correlation of scores ``x`` with ratings ``y`` has no value; '' if it has one."""
    if len(y) < 2:
        return 'there is one image only'
    if np.ptp(y) == 0:
        return f'all {len(y)} ratings are {y[0]:g}'
    return f'all {len(x)} predictions are {x[0]:g}' if np.ptp(x) == 0 else ''


def _pair(x: ArrayLike, y: ArrayLike, dims: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Check predictions and ratings, and return them as arrays of float64."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if dims == 1:
        x, y = x.reshape(-1), y.reshape(-1)
    if x.shape != y.shape or x.ndim != dims or x.size == 0:
        raise AMHPError(
            f'{metric}: expected two equal non-empty arrays, got {x.shape} and {y.shape}'
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise AMHPError(f'{metric}: the predictions or the ratings hold NaN or infinite values')
    return x, y
