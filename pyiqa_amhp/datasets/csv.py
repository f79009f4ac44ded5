"""Read a CSV with a header line; errors name the file, the line and the column."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pyiqa_amhp.errors import AMHPError

FIRST_ROW = 2  # as an editor counts: line 1 is the header
MISSING = (
    '', '#N/A', '#N/A N/A', '#NA', '-1.#IND', '-1.#QNAN', '-NaN', '-nan', '1.#IND', '1.#QNAN',
    '<NA>', 'N/A', 'NA', 'NULL', 'NaN', 'None', 'n/a', 'nan', 'null',
)  # fmt: skip
"""Missing values in columns of numbers and of labels: those of pandas."""


def read_csv(file: str, text_columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV; the index of the table is the line on which each row begins.

    Lines are counted as an editor counts them: blank ones too, from 1, which is the header.

    Args:
        file: path of the CSV; ``~`` is expanded.
        text_columns: see ``parse_csv``.

    Raises:
        AMHPError: no such file, not a CSV, or no rows in it.
    """
    if not Path(file).expanduser().exists():
        raise AMHPError(f'{file}: no such file; check meta_info_file')
    table = parse_csv(file, text_columns, skip_blank_lines=False)
    if table.empty:
        raise AMHPError(f'{file}: a header but no rows')
    line_breaks = np.zeros(len(table), int)  # within the quoted values of each row
    for name in table:
        if not pd.api.types.is_numeric_dtype(table[name]):
            line_breaks += table[name].fillna('').astype(str).str.count('\n').to_numpy(int)
    table.index = FIRST_ROW + np.arange(len(table)) + np.cumsum(line_breaks) - line_breaks
    return table


def parse_csv(file: str | Path, text_columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """Read a CSV with pandas, and refuse rows that are longer than the header.

    Args:
        file: path of the CSV; ``~`` is expanded.
        text_columns: columns that are read as they are written: 0001 is not 1, and "NA" and
            "None" are words (our choice). An empty cell is ``''``. In other columns
            ``MISSING`` marks missing values, as in pandas.
        options: further arguments of ``pandas.read_csv``.

    Raises:
        AMHPError: an empty file, or one that cannot be read as CSV.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', pd.errors.ParserWarning)  # pandas would cut long rows
            path, options = os.path.expanduser(file), {'index_col': False, **options}
            if text_columns:
                columns = pd.read_csv(path, nrows=0, **options).columns
                # The last key is the position of a column without a name, after a last comma.
                others = [*(name for name in columns if name not in text_columns), len(columns)]
                options |= {'dtype': dict.fromkeys(text_columns, str), 'keep_default_na': False}
                options |= {'na_values': dict.fromkeys(others, MISSING)}
            return pd.read_csv(path, **options)
    except pd.errors.EmptyDataError:
        raise AMHPError(f'{file}: the file is empty; expected a CSV with a header line') from None
    except pd.errors.ParserWarning:
        raise AMHPError(
            f'{file}, row {FIRST_ROW}: more values than the header has columns; put a text with '
            'commas in double quotes'
        ) from None
    except (OSError, ValueError) as error:  # a ParserError is a ValueError
        raise AMHPError(f'{file}: cannot be read as CSV ({str(error).strip()})') from error


def get_column(table: pd.DataFrame, name: str, file: str) -> pd.Series:
    """Return a column of a table that was read from ``file``.

    Raises:
        AMHPError: no such column.
    """
    if name not in table:
        raise AMHPError(
            f'{file}: no column {name!r}; the columns are {", ".join(map(str, table.columns))}'
        )
    return table[name]


def to_numbers(column: pd.Series, file: str, missing_ok: bool = False) -> np.ndarray:
    """Convert a column to finite numbers, ``(N,)`` float64.

    Args:
        column: cells, indexed by their line in the file.
        file: path of the CSV, for messages.
        missing_ok: whether a cell may be empty; it becomes NaN.

    Raises:
        AMHPError: a cell that is no finite number.
    """
    values = pd.to_numeric(column, errors='coerce').to_numpy(np.float64, na_value=np.nan)
    if column.dtype in (bool, object):  # True and False would be 1 and 0
        values[[isinstance(cell, bool | np.bool_) for cell in column]] = np.nan
    bad = np.isinf(values) | (np.isnan(values) & ~(missing_ok & column.isna().to_numpy()))

    def problem(row: int) -> str:
        cell = column.iloc[row]
        return f'{"empty" if pd.isna(cell) else repr(str(cell))}, expected a number'

    check_cells(column, bad, file, problem)
    return values


def check_cells(
    column: pd.Series, bad: ArrayLike, file: str, problem: Callable[[int], str]
) -> None:
    """Raise an error for the first bad cell of a column, if there is one.

    Args:
        column: cells, indexed by their line in the file.
        bad: which cells are bad, ``(N,)``.
        file: path of the CSV.
        problem: gives what is wrong with the cell at a position, 0 to N - 1.
    """
    bad = np.asarray(bad, bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise bad_cell(file, column.index[row], str(column.name), problem(row))


def bad_cell(file: str, line: int, column: str, problem: str) -> AMHPError:
    """Build the error that names a cell."""
    return AMHPError(f'{file}, row {line}, column {column!r}: {problem}')


# Absolute, of a drive or a home folder; ``..`` as a part of the path; a NUL byte.
_ESCAPES = r'^(?:[/\\~]|[A-Za-z]:)|(?:^|(?s:.*)[/\\])\.\.(?:[/\\]|$)|(?s:.*)\x00'


def escapes_root(names: pd.Series) -> pd.Series:
    """Find the names that are no path below a root folder, by their characters alone.

    Returns:
        ``(N,)`` bool: names that are absolute, begin with a drive or ``~``, climb with ``..`` or
        hold a NUL byte.
    """
    return names.str.match(_ESCAPES)


def stays_within(root: str, name: str) -> bool:
    """Whether no link in the path ``root/name`` leads out of ``root``.

    Looks at the disk once for each part of the name. ``root`` may be a link itself.

    Args:
        root: path of a folder.
        name: path below it that passes ``escapes_root``.
    """
    path = root
    for part in Path(name).parts:
        path = os.path.join(path, part)
        if os.path.islink(path):
            real, top = os.path.realpath(os.path.join(root, name)), os.path.realpath(root)
            return real.startswith(os.path.join(top, ''))
    return True
