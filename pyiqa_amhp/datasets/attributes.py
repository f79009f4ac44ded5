"""Attribute labels to sentences: the first-level prompt where there are labels but no comments."""

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


def levels_by_cuts(
    values: ArrayLike, cuts: Sequence[float], levels: Sequence[str] = LEVELS
) -> list[str]:
    """Numeric labels to level words: the first level whose cut the value does not exceed.

    Args:
        values: ``(N,)``; NaN where there is no label.
        cuts: the upper ends of all levels but the last, rising.
        levels: worst first.

    Returns:
        N words, '' where there is no label.

    Raises:
        AMHPError: not one cut fewer than levels, or cuts that do not rise.
    """
    cuts = np.asarray(cuts, dtype=np.float64)
    if cuts.shape != (len(levels) - 1,) or not (np.diff(cuts) > 0).all():
        raise AMHPError(f'attr_cuts {cuts.tolist()}: expected {len(levels) - 1} rising numbers')
    values = np.asarray(values, dtype=np.float64)
    bins = np.searchsorted(cuts, np.nan_to_num(values))
    return ['' if np.isnan(v) else levels[b] for v, b in zip(values, bins, strict=True)]


def template_fields(template: str) -> list[str]:
    """The attributes that a sentence names, in order; none for a template of one attribute."""
    fields = list(dict.fromkeys(_FIELD.findall(template)))
    return [] if {'level', 'attribute'} & set(fields) else fields


def check_template(template: str, attributes: Iterable[str]) -> None:
    """See that a template is of one of the two kinds and uses these attributes and no others.

    Raises:
        AMHPError: it is not or does not; says what to do.
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
    """Attributes in words.

    Args:
        levels: attribute name to level word, '' where there is none.
        template: either a sentence for one attribute, with the fields ``{level}`` and
            ``{attribute}``: one for each attribute that has a level, in the given order, joined
            by blanks, with blanks for the underscores in names. Or a sentence that names the
            attributes, as in ``{light} light and {color} color``: each field becomes its level,
            and where one has none there is no sentence.

    Raises:
        AMHPError: a template of neither kind, or one that does not name these attributes.
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
