"""Read the texts of a table of rated images: comments, or labels of attributes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.attributes import (
    TEMPLATE,
    attribute_levels,
    check_template,
    levels_by_cuts,
    template_fields,
)
from pyiqa_amhp.datasets.csv import check_cells, get_column, to_numbers
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.options import flag
from pyiqa_amhp.utils.text import given_text

TEXT_SOURCES = ('comments', 'labels', 'none')


def read_text_columns(
    table: pd.DataFrame, file: str, opt: Mapping[str, Any]
) -> tuple[np.ndarray | None, dict[str, np.ndarray] | None]:
    """Read the comments or the labels of a table, as ``text_source`` says.

    Args:
        table: rows of a CSV, indexed by line.
        file: path of the CSV, for messages.
        opt: options as in ``read_table``. If ``attribute_labels`` is true, labels are read
            beside comments.

    Returns:
        The comments ``(N,)``, and the level words ``(N,)`` by attribute; None for what is not
        read.

    Raises:
        AMHPError: an unknown ``text_source``, a missing column, or a label that cannot be used.
    """
    column = opt.get('text_column') or 'text'
    attributes = {c.removeprefix('attr_'): c for c in table.columns if c.startswith('attr_')}
    source = opt.get('text_source')
    if source is None:  # what the file has; a column that an option names must be there
        has_comments = opt.get('text_column') or column in table
        has_labels = attributes or opt.get('attributes')
        source = 'comments' if has_comments else 'labels' if has_labels else 'none'
    if source not in TEXT_SOURCES:
        raise AMHPError(f'text_source={source!r}: expected {", ".join(TEXT_SOURCES)}')
    if source == 'none':
        return None, None
    if source == 'comments':
        # Python strings in an object array: pyiqa's collate function keeps them as they are.
        comments = np.array([*map(given_text, get_column(table, column, file))], dtype=object)
        wanted = flag(opt, 'attribute_labels')
        return comments, _read_labels(table, attributes, file, opt) if wanted else None
    labels = _read_labels(table, attributes, file, opt)
    check_template(opt.get('attr_template') or TEMPLATE, labels)
    return None, labels


def _read_labels(
    table: pd.DataFrame, columns: Mapping[str, str], file: str, opt: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Read the level words ``(N,)`` of the chosen attributes.

    Args:
        table: rows of a CSV, indexed by line.
        columns: maps attribute names to their columns.
        file: path of the CSV.
        opt: options as in ``read_table``.
    """
    template = opt.get('attr_template') or TEMPLATE
    chosen = list(opt.get('attributes') or template_fields(template) or columns)
    if not chosen or (missing := [name for name in chosen if name not in columns]):
        what = f'attr_{missing[0]}' if chosen else 'attr_<name>'
        raise AMHPError(
            f'{file}: no column {what!r}; attributes there: {list(columns)}; choose from them '
            'with attributes, or text_source: none'
        )
    levels = tuple(opt.get('levels') or LEVELS)
    labels = {}
    for name in chosen:
        column = table[columns[name]]
        if pd.api.types.is_numeric_dtype(column) and not column.isna().all():
            lo_hi = _for_attribute(opt, 'attr_range', name, file)
            cuts = _for_attribute(opt, 'attr_cuts', name, file)
            labels[name] = _numbers_to_levels(column, lo_hi, cuts, levels, file)
        else:
            labels[name] = _read_words(column, levels, file)
    return labels


def _read_words(column: pd.Series, levels: Sequence[str], file: str) -> np.ndarray:
    """Read a column of level words, ``(N,)``; '' for empty cells."""
    words = column.astype(object).fillna('').astype(str).to_numpy(object)
    bad = ~np.isin(words, np.array(['', *levels], dtype=object))
    expected = f'expected a number or one of {", ".join(levels)}'
    check_cells(column, bad, file, lambda row: f'{words[row]!r}, {expected}')
    return words


def _numbers_to_levels(
    column: pd.Series,
    lo_hi: Sequence[float] | None,
    cuts: Sequence[float] | None,
    levels: Sequence[str],
    file: str,
) -> np.ndarray:
    """Convert a column of numbers to level words ``(N,)``, by ``cuts`` if they are given.

    Raises:
        AMHPError: neither a range nor cuts, or a number outside the range.
    """
    values = to_numbers(column, file, missing_ok=True)
    if lo_hi is not None:
        lo, hi = lo_hi
        attribute_levels([], lo, hi, levels)  # checks the range
        expected = f'expected {lo:g} to {hi:g} (attr_range)'
        outside = (values < lo) | (values > hi)
        check_cells(column, outside, file, lambda row: f'{values[row]:g}, {expected}')
    if cuts is not None:
        return np.array(levels_by_cuts(values, cuts, levels), dtype=object)
    if lo_hi is None:
        raise AMHPError(f'{file}: column {column.name!r} has numbers; give attr_range: [lo, hi]')
    return np.array(attribute_levels(values, lo, hi, levels), dtype=object)


def _for_attribute(opt: Mapping[str, Any], key: str, name: str, file: str) -> Any:
    """Return an option that is one list for all attributes, or a list for each name."""
    value = opt.get(key)
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise AMHPError(f'{file}: {key} has {", ".join(value)} but not {name!r}; add it')
    return value[name]
