"""Whether ratings fit the scale that the options give them; all rules here are our choice.

Training on the wrong scale ends without an error, in scores that mean nothing. So ratings are
refused that lie outside the scale, or leave far more room at one of its ends than at the other, as
ratings of 1..5 or 1..7 do on AVA's levels (1.5 to 9.5). Sets that are skewed by nature (the best
photographs of a contest, say) need the option ``narrow_ratings: true``.
"""

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.datasets.ratings import default_level_values
from pyiqa_amhp.errors import AMHPError

# The largest difference between the free parts of the scale at its two ends, from so many images
# on. Of random sets of 40 images of AVA 1 in 200 is refused; of OASIS (522 images, rated 1..7), on
# AVA's levels, the whole set and 9 of 10 sets of 40. A difference of 1/2 puts all in one half.
MAX_SKEW = {10: 1 / 2, 40: 1 / 4}
MIN_SPREAD = 1 / 10  # the smallest part of the scale that the ratings of 10 images or more take up
NEAR_END = 0.15  # of the scale; ratings as near to both ends leave no doubt about it
SCALES_IN_USE = ((0, 1), (1, 5), (1, 7), (0, 10), (1, 10), (0, 100))  # those that messages propose


def narrow_problem(ratings: ArrayLike, levels: np.ndarray, images: int) -> str:
    """Say what is wrong with ratings that take up a part of their scale only; '' if nothing is.

    Args:
        ratings: mean scores, or the votes that were given.
        levels: scores of the levels, ``(k,)``, rising.
        images: the number of images with these ratings.
    """
    values = np.asarray(ratings, np.float64)
    low, high, span = float(values.min()), float(values.max()), levels[-1] - levels[0]
    below, above = max(0.0, low - levels[0]) / span, max(0.0, levels[-1] - high) / span
    max_skew = min((skew for least, skew in MAX_SKEW.items() if images >= least), default=np.inf)
    is_narrow = images >= min(MAX_SKEW) and 1 - above - below < MIN_SPREAD
    if abs(above - below) <= max_skew and not is_narrow:
        return ''
    return (
        f'all ratings lie between {low:g} and {high:g}, in a part of the scale from '
        f'{levels[0]:g} to {levels[-1]:g}'
    )


def impossible_deviations(mean: np.ndarray, std: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Find the standard deviations that no ratings on a scale can have, ``(N,)`` bool.

    With ends a and b it is at most ``sqrt((mean - a) (b - mean))``. The ends are half a level
    beyond the outer levels, which may be means of bins; and the deviation of a sample of two raters
    is larger by the square root of two.

    Args:
        mean: mean scores ``(N,)``.
        std: standard deviations ``(N,)``, NaN if unknown.
        levels: scores of the levels, ``(k,)``, rising.
    """
    low = levels[0] - (levels[1] - levels[0]) / 2
    high = levels[-1] + (levels[-1] - levels[-2]) / 2
    return std > np.sqrt(2 * np.maximum(0, (mean - low) * (high - mean)))


def fitting_scale(ratings: ArrayLike, images: int) -> tuple[float, float]:
    """Propose the ends of a scale that fits the ratings of so many images."""
    low, high = float(np.min(ratings)), float(np.max(ratings))
    for scale in SCALES_IN_USE:
        holds_all = scale[0] <= low and high <= scale[1]
        if holds_all and not narrow_problem(ratings, np.array(scale), images):
            return scale
    low, high = float(np.floor(low)), float(np.ceil(high))
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))


def fitting_levels(ratings: ArrayLike, images: int, k: int) -> tuple[float, ...]:
    """Propose values of ``k`` levels whose scale fits the ratings of so many images."""
    ends = fitting_scale(ratings, images)
    return default_level_values(ends, k) if k > 2 else ends


def infer_scale(ratings: ArrayLike, images: int) -> tuple[float, float]:
    """Find the ends of the scale that ratings were given on.

    It is the smallest of ``SCALES_IN_USE`` that fits them, if they nearly reach both of its ends
    (``NEAR_END``), or if no other one of them holds them.

    Args:
        ratings: mean scores.
        images: the number of images with these ratings.

    Raises:
        AMHPError: several scales are possible, or none; the message names them.
    """
    values = np.asarray(ratings, np.float64)
    low, high = float(values.min()), float(values.max())
    known = sorted(SCALES_IN_USE, key=lambda scale: scale[1] - scale[0])
    holding = [scale for scale in known if scale[0] <= low and high <= scale[1]]
    fitting = [s for s in holding if not narrow_problem(values, np.array(s, np.float64), images)]
    found = f'the ratings lie between {low:g} and {high:g}'
    if not fitting:
        ends = fitting_scale(values, images)
        raise AMHPError(
            f'{found}, and none of the usual scales fits them '
            f'({", ".join(map(scale_text, SCALES_IN_USE))}); give their scale, such as --scale '
            f'{scale_text(ends)}'
        )
    first = fitting[0]
    margin = NEAR_END * (first[1] - first[0])
    is_clear = low - first[0] <= margin and first[1] - high <= margin
    if len(holding) > 1 and not is_clear:
        raise AMHPError(
            f'{found}, and may be on several scales: {", ".join(map(scale_text, holding))}; give '
            f'the one that they were given on, such as --scale {scale_text(first)}'
        )
    return first


def scale_text(scale: tuple[float, float]) -> str:
    """Write the ends of a scale as ``1..7``."""
    return f'{scale[0]:g}..{scale[1]:g}'


def parse_scale(text: str) -> tuple[float, float]:
    """Read the ends of a scale that are written as ``1..7``.

    Raises:
        AMHPError: another text, or ends that do not rise.
    """
    low, dots, high = text.partition('..')
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = np.nan, np.nan
    if not (dots and np.isfinite(ends).all() and ends[0] < ends[1]):
        raise AMHPError(f'--scale {text}: expected LOW..HIGH, such as 1..5 or 0..100')
    return ends
