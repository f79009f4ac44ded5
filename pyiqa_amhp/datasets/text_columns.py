"""What is said about images in a table of rated images: comments, or labels of attributes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.attributes import (
    TEMPLATE,
    attribute_levels,
    check_template,
    levels_by_cuts,
    template_fields,
)
from pyiqa_amhp.datasets.csv import bad_row, get_column, numbers
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError

TEXT_SOURCES = ('comments', 'labels', 'none')


def text_columns(table: pd.DataFrame, file: str, opt: dict):
    """Comments or labels, whichever ``text_source`` says; labels too if ``attribute_labels``."""
    column = opt.get('text_column') or 'text'
    attributes = {c.removeprefix('attr_'): c for c in table.columns if c.startswith('attr_')}
    source = opt.get('text_source')
    if source is None:  # what the file has; what an option names must be there
        labels = attributes or opt.get('attributes')
        comments = opt.get('text_column') or column in table
        source = 'comments' if comments else 'labels' if labels else 'none'
    if source not in TEXT_SOURCES:
        raise AMHPError(f'text_source={source!r}: expected {", ".join(TEXT_SOURCES)}')
    if source == 'comments':
        labels = _all_labels(table, attributes, file, opt) if opt.get('attribute_labels') else None
        # plain Python strings in an array: what a sample gives goes through the collate function
        return get_column(table, column, file).fillna('').astype(str).to_numpy(object), labels
    if source == 'none':
        return None, None
    labels = _all_labels(table, attributes, file, opt)
    check_template(opt.get('attr_template') or TEMPLATE, labels)
    return None, labels


def _all_labels(table, attributes: dict[str, str], file: str, opt: dict) -> dict[str, np.ndarray]:
    """The level words of each attribute that counts."""
    template = opt.get('attr_template') or TEMPLATE
    chosen = list(opt.get('attributes') or template_fields(template) or attributes)
    if not chosen or (missing := [name for name in chosen if name not in attributes]):
        what = f'attr_{missing[0]}' if chosen else 'attr_<name>'
        raise AMHPError(
            f'{file}: no column {what!r}; attributes there: {list(attributes)}; choose from them '
            'with attributes, or text_source: none'
        )
    return {name: _labels(table[attributes[name]], name, file, opt) for name in chosen}


def _labels(column: pd.Series, name: str, file: str, opt: dict) -> np.ndarray:
    """Level words: as they are in the file, or from numbers."""
    levels = tuple(opt.get('levels') or LEVELS)
    if not pd.api.types.is_numeric_dtype(column) or column.isna().all():
        words = column.astype(object).fillna('').astype(str).to_numpy(object)
        bad = ~np.isin(words, np.array(['', *levels], dtype=object))
        if bad.any():
            row = int(np.argmax(bad))
            problem = f'{words[row]!r}, expected a number or one of {", ".join(levels)}'
            raise bad_row(file, column.index[row], str(column.name), problem)
        return words
    bounds, cuts = (_of_attribute(opt, key, name, file) for key in ('attr_range', 'attr_cuts'))
    if bounds is None and cuts is None:
        raise AMHPError(f'{file}: column {column.name!r} has numbers; give attr_range: [lo, hi]')
    values = numbers(column, file, missing_ok=True)
    if bounds is not None:
        lo, hi = bounds
        attribute_levels([], lo, hi, levels)  # checks the range
        outside = (values < lo) | (values > hi)
        if outside.any():
            row = int(np.argmax(outside))
            problem = f'{values[row]:g}, expected {lo:g} to {hi:g} (attr_range)'
            raise bad_row(file, column.index[row], str(column.name), problem)
    if cuts is not None:
        return np.array(levels_by_cuts(values, cuts, levels), dtype=object)
    return np.array(attribute_levels(values, lo, hi, levels), dtype=object)


def _of_attribute(opt: dict, key: str, name: str, file: str):
    """An option that is one list for all attributes or has one for each name."""
    value = opt.get(key)
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise AMHPError(f'{file}: {key} has {", ".join(value)} but not {name!r}; add it')
    return value[name]
