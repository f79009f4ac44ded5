"""Attribute labels to sentences: the first-level prompt where there are labels but no comments."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.data.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError

TEMPLATE = 'A photo with {level} {attribute}.'
"""The paper's template for one attribute (section 4.1)."""


def attribute_levels(
    values: ArrayLike, lo: float, hi: float, levels: Sequence[str] = LEVELS
) -> list[str]:
    """Numeric labels to level words, by bins of equal width over ``[lo, hi]`` (our choice).

    Args:
        values: ``(N,)``; NaN where there is no label.
        lo, hi: the ends of the labels' scale.
        levels: worst first.

    Returns:
        N words, '' where there is no label.

    Raises:
        AMHPError: a value outside the scale, or a scale that is empty.
    """
    if not lo < hi:
        raise AMHPError(f'attribute range [{lo}, {hi}]: expected two rising numbers')
    values = np.asarray(values, dtype=np.float64)
    outside = (values < lo) | (values > hi)
    if outside.any():
        row = int(np.argmax(outside))
        raise AMHPError(f'row {row}: attribute value {values[row]:g} is outside [{lo:g}, {hi:g}]')
    bins = np.floor((np.nan_to_num(values, nan=lo) - lo) / (hi - lo) * len(levels)).astype(int)
    bins = np.minimum(bins, len(levels) - 1)
    return ['' if np.isnan(v) else levels[b] for v, b in zip(values, bins, strict=True)]


def attribute_sentences(levels: Mapping[str, str], template: str = TEMPLATE) -> str:
    """One sentence for each attribute that has a level, in the given order, joined by blanks.

    Args:
        levels: attribute name to level word; '' leaves the attribute out. Underscores in names
            become blanks.
        template: with the fields ``{level}`` and ``{attribute}``.

    Raises:
        AMHPError: a template without these fields.
    """
    if not ('{level}' in template and '{attribute}' in template):
        raise AMHPError(f'attr_template {template!r}: expected {{level}} and {{attribute}} in it')
    return ' '.join(
        template.replace('{level}', level).replace('{attribute}', name.replace('_', ' '))
        for name, level in levels.items()
        if level
    )
