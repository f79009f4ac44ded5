"""Published results as rows that can stand beside measured ones; the data is ``published.yml``."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.measures import MEASURES, Value
from pyiqa_amhp.evaluation.tables import Row

FILE = Path(__file__).with_name('published.yml')
NOT_STATED = 'not stated'


def published_tables() -> dict[str, str]:
    """List the published tables: their captions by name."""
    return {name: table['caption'] for name, table in _read()['tables'].items()}


def published_data(name: str) -> str:
    """Return the data set (ava, para, aadb) of a published table."""
    return _table(name)['data']


def published_rows(name: str) -> list[Row]:
    """Read the rows of a published table, in its order, each with its source in ``origin``.

    Args:
        name: ``table1`` .. ``table5`` (the paper's) or ``newer``.

    Raises:
        AMHPError: there is no such table.
    """
    table = _table(name)
    return [_row(row, table) for row in table['rows']]


def _table(name: str) -> dict[str, Any]:
    tables = _read()['tables']
    if name not in tables:
        raise AMHPError(f'published results {name!r}: expected {", ".join(tables)}')
    return tables[name]


def _row(row: dict[str, Any], table: dict[str, Any]) -> Row:
    # A row with its own source is not at the place in the table's source.
    where = row.get('where', '' if 'source' in row else table.get('where', ''))
    source = _read()['sources'][row.get('source', table['source'])]
    return Row(
        method=row['method'],
        origin=f'published ({source["name"]}{f", {where}" if where else ""})',
        text_source=row.get('text', table.get('text', NOT_STATED)),
        values={key: _value(key, row[key]) for key, _, _ in MEASURES if key in row},
        kind='published',
        source=f'{source["name"]}: {source["title"]}',
    )


def _value(key: str, printed: float | str) -> Value:
    """Convert a number as printed, or a bound such as ``>0.9``; ACC is printed in percent."""
    bound = printed[0] if isinstance(printed, str) else ''
    number = float(printed[1:] if isinstance(printed, str) else printed)
    return Value(round(number / 100, 6) if key == 'acc' else number, bound=bound)


@cache
def _read() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding='utf-8'))
