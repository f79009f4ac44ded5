"""A CSV with a header, and its columns: by name, with errors that name file, row and column."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.errors import AMHPError

FIRST_ROW = 2  # as an editor counts: line 1 is the header


def read_csv(file: str, text_columns: tuple[str, ...]) -> pd.DataFrame:
    """The table, indexed by the line on which each row begins, as an editor counts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', pd.errors.ParserWarning)  # it would cut long rows
            table = pd.read_csv(
                os.path.expanduser(file),
                skip_blank_lines=False,
                index_col=False,
                dtype=dict.fromkeys(text_columns, str),  # 0001 is a name, not 1
            )
    except FileNotFoundError:
        raise AMHPError(f'{file}: no such file; check meta_info_file') from None
    except pd.errors.EmptyDataError:
        raise AMHPError(f'{file}: the file is empty; expected a CSV with a header line') from None
    except pd.errors.ParserWarning:
        raise AMHPError(
            f'{file}, row {FIRST_ROW}: more values than the header has columns; put a text with '
            'commas in double quotes'
        ) from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise AMHPError(f'{file}: cannot be read as CSV ({str(error).strip()})') from error
    if table.empty:
        raise AMHPError(f'{file}: a header but no rows')
    breaks = np.zeros(len(table), int)  # within quoted values
    for name in table:
        if not pd.api.types.is_numeric_dtype(table[name]):
            breaks += table[name].fillna('').astype(str).str.count('\n').to_numpy(int)
    table.index = FIRST_ROW + np.arange(len(table)) + np.cumsum(breaks) - breaks
    return table


def get_column(table: pd.DataFrame, name: str, file: str) -> pd.Series:
    """A column that must be there."""
    if name not in table:
        raise AMHPError(
            f'{file}: no column {name!r}; the columns are {", ".join(map(str, table.columns))}'
        )
    return table[name]


def bad_row(file: str, line: int, column: str, problem: str) -> AMHPError:
    """The error that names a cell."""
    return AMHPError(f'{file}, row {line}, column {column!r}: {problem}')


def numbers(column: pd.Series, file: str, missing_ok: bool = False) -> np.ndarray:
    """A column as finite numbers ``(N,)``, NaN where a cell is empty and may be."""
    values = pd.to_numeric(column, errors='coerce').to_numpy(np.float64, na_value=np.nan)
    bad = np.isinf(values) | (np.isnan(values) & ~(missing_ok & column.isna().to_numpy()))
    if bad.any():
        row = int(np.argmax(bad))
        given = column.iloc[row]
        what = 'empty' if pd.isna(given) else repr(str(given))
        raise bad_row(file, column.index[row], str(column.name), f'{what}, expected a number')
    return values


OUTSIDE = r'^(?:[/\\~]|[A-Za-z]:)|(?:^|.*[/\\])\.\.(?:[/\\]|$)'


def escapes_root(names: pd.Series) -> pd.Series:
    """Which names ``(N,)`` are absolute, of a drive or home, or climb with ``..``."""
    return names.str.match(OUTSIDE)


def stays_within(root: str, name: str) -> bool:
    """Whether ``name``, which does not lead outside as it is written, follows no link outside.

    One look at the disk for each folder in the name; the links of ``root`` itself do not count.
    """
    path = root
    for part in Path(name).parts:
        path = os.path.join(path, part)
        if os.path.islink(path):
            real, top = os.path.realpath(os.path.join(root, name)), os.path.realpath(root)
            return real.startswith(os.path.join(top, ''))
    return True
