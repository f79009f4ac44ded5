"""What the paper reports beside pyiqa's SRCC, PLCC and KRCC: ACC, MSE, EMD1 and EMD2.

pyiqa calls a metric with predictions, ratings and all options that the YAML file gives it;
``better`` is one that pyiqa reads itself and passes on.
"""

import numpy as np

from pyiqa_amhp.errors import AMHPError


def _pair(x, y, dims: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if dims == 1:
        x, y = x.reshape(-1), y.reshape(-1)
    if x.shape != y.shape or x.ndim != dims or x.size == 0:
        raise AMHPError(f'{what}: expected two equal non-empty arrays, got {x.shape} and {y.shape}')
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise AMHPError(f'{what}: the predictions or the ratings hold NaN or infinite values')
    return x, y


def calculate_acc(x, y, threshold: float = 5.0, better: str = '') -> float:
    """ACC: the share of images put on the right side of ``threshold``, in [0, 1].

    Args:
        x, y: predicted and rated scores, ``(N,)``, on the same scale.
        threshold: a score above it is "high". AVA 5 (the paper's convention), PARA 3, AADB 0.5.
    """
    x, y = _pair(x, y, 1, 'calculate_acc')
    return float(np.mean((x > threshold) == (y > threshold)))


def calculate_mse(x, y, better: str = '') -> float:
    """MSE of scores ``(N,)`` on the data set's own scale, as in the paper's Table 1."""
    x, y = _pair(x, y, 1, 'calculate_mse')
    return float(np.mean((x - y) ** 2))


def calculate_emd(x, y, r: float = 1, better: str = '') -> float:
    """EMD1 (``r=1``) or EMD2 (``r=2``): the mean over images of the distance in Eq. 8.

    Args:
        x, y: predicted and rated level distributions, ``(N, k)``. ``AMHPModel`` gives these to
            this metric; pyiqa's other model classes have scores only, which is an error.
    """
    x, y = _pair(x, y, 2, 'calculate_emd (it needs level distributions; use AMHPModel)')
    difference = np.abs(x.cumsum(axis=1) - y.cumsum(axis=1))
    return float(np.mean(np.mean(difference**r, axis=1) ** (1 / r)))
