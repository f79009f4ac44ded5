"""Attribute labels to sentences: the attribute prompt of images with labels but no comments."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError

TEMPLATE = 'A photo with {level} {attribute}.'
"""The paper's template for one attribute (section 4.1)."""

_FIELD = re.compile(r'\{(\w+)\}')


def attribute_levels(
    values: ArrayLike, lo: float, hi: float, levels: Sequence[str] = LEVELS
) -> list[str]:
    """Convert numeric labels to level words, by bins of equal width over ``[lo, hi]``.

    Equal widths are our choice; the paper does not say.

    Args:
        values: labels, ``(N,)``; NaN for a missing label.
        lo: lower end of the labels' scale.
        hi: upper end of the labels' scale.
        levels: level words, worst first.

    Returns:
        ``N`` level words, '' for a missing label.

    Raises:
        AMHPError: a value outside the scale, or ``lo`` not below ``hi``.
    """
    if not lo < hi:
        raise AMHPError(f'attribute range [{lo}, {hi}]: expected two rising numbers')
    values = np.asarray(values, dtype=np.float64)
    outside = (values < lo) | (values > hi)
    if outside.any():
        row = int(np.argmax(outside))
        raise AMHPError(f'row {row}: attribute value {values[row]:g} is outside [{lo:g}, {hi:g}]')
    bins = np.floor((np.nan_to_num(values, nan=lo) - lo) / (hi - lo) * len(levels)).astype(int)
    return _level_words(values, np.minimum(bins, len(levels) - 1), levels)


def levels_by_cuts(values: ArrayLike, cuts: ArrayLike, levels: Sequence[str] = LEVELS) -> list[str]:
    """Convert numeric labels to level words: the first level whose cut is not exceeded.

    Args:
        values: labels, ``(N,)``; NaN for a missing label.
        cuts: upper ends of all levels but the last, rising.
        levels: level words, worst first.

    Returns:
        ``N`` level words, '' for a missing label.

    Raises:
        AMHPError: not exactly one cut less than levels, or cuts that do not rise.
    """
    cuts = np.asarray(cuts, dtype=np.float64)
    if cuts.shape != (len(levels) - 1,) or not (np.diff(cuts) > 0).all():
        raise AMHPError(f'attr_cuts {cuts.tolist()}: expected {len(levels) - 1} rising numbers')
    values = np.asarray(values, dtype=np.float64)
    return _level_words(values, np.searchsorted(cuts, np.nan_to_num(values)), levels)


def _level_words(values: np.ndarray, bins: np.ndarray, levels: Sequence[str]) -> list[str]:
    return ['' if np.isnan(v) else levels[b] for v, b in zip(values, bins, strict=True)]


def template_fields(template: str) -> list[str]:
    """List the attributes that a template names, in order.

    A template for one attribute, with ``{level}`` or ``{attribute}``, names none.
    """
    fields = list(dict.fromkeys(_FIELD.findall(template)))
    return [] if {'level', 'attribute'} & set(fields) else fields


def check_template(template: str, attributes: Iterable[str]) -> None:
    """Check that a template is one of the two kinds and names exactly these attributes.

    The two kinds are those of ``attribute_sentences``.

    Raises:
        AMHPError: a template of neither kind, or one that names other attributes.
    """
    fields, attributes = template_fields(template), list(attributes)
    if not fields and not ('{level}' in template and '{attribute}' in template):
        raise AMHPError(
            f'attr_template {template!r}: expected {{level}} and {{attribute}} in it, or names of '
            'attributes in braces, each of which becomes its level'
        )
    if fields and (other := set(fields) ^ set(attributes)):
        name = sorted(other)[0]
        what = 'is not among the attributes' if name in fields else 'is not in it'
        raise AMHPError(
            f'attr_template {template!r}: {name!r} {what}; give a template that names exactly '
            f'{", ".join(attributes)}, or other attributes'
        )


def attribute_sentences(levels: Mapping[str, str], template: str = TEMPLATE) -> str:
    """Write the levels of attributes as a text.

    Args:
        levels: maps attribute names to level words; '' for a missing level.
        template: one of two kinds. A sentence for one attribute has the fields ``{level}`` and
            ``{attribute}``; it is repeated for each attribute that has a level, in their order,
            joined by blanks; underscores in names become blanks. A sentence that names the
            attributes, such as ``{light} light and {color} color``, is used once; each field
            becomes the level of its attribute.

    Returns:
        The text; '' if no attribute has a level, or if one that a sentence names has none.

    Raises:
        AMHPError: a template of neither kind, or one that names other attributes.
    """
    if not levels:
        return ''
    check_template(template, levels)
    if template_fields(template):
        if not all(levels.values()):
            return ''
        return _FIELD.sub(lambda field: levels[field[1]], template)
    return ' '.join(
        template.replace('{level}', level).replace('{attribute}', name.replace('_', ' '))
        for name, level in levels.items()
        if level
    )
