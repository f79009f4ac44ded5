"""Published results, as rows that can stand beside those measured here. Data: ``published.yml``."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.measures import MEASURES, Value
from pyiqa_amhp.evaluation.tables import Row

FILE = Path(__file__).with_name('published.yml')
KEYS = tuple(key for key, _, _ in MEASURES)
TEXTS = ('none', 'comments', 'labels', 'predicted')
NOT_STATED = 'not stated'
ROW_KEYS = {'method', 'text', 'source', 'where', *KEYS}
TABLE_KEYS = {'caption', 'data', 'source', 'where', 'text', 'rows'}


def published_tables(file: str | Path = FILE) -> dict[str, str]:
    """Names of the tables that there are, and what each is about."""
    return {name: table['caption'] for name, table in _read(file)['tables'].items()}


def published_data(name: str, file: str | Path = FILE) -> str:
    """The data set (ava, para, aadb) of a published table."""
    return _table(name, file)['data']


def published_rows(name: str, file: str | Path = FILE) -> list[Row]:
    """The rows of a published table, in its order, each with its source in ``origin``.

    Args:
        name: ``table1`` .. ``table5`` (the paper's) or ``newer``.
        file: in the form of ``published.yml``.

    Raises:
        AMHPError: no such table; or a file of another form, by table and row.
    """
    table = _table(name, file)
    return [_row(row, table, _read(file)['sources']) for row in table['rows']]


def _table(name: str, file: str | Path) -> dict[str, Any]:
    tables = _read(file)['tables']
    if name not in tables:
        raise AMHPError(f'published results {name!r}: expected {", ".join(tables)}')
    return tables[name]


def _row(row: dict[str, Any], table: dict[str, Any], sources: dict[str, Any]) -> Row:
    source = sources[row.get('source', table['source'])]
    where = row.get('where') if 'source' in row else row.get('where', table.get('where'))
    return Row(
        method=row['method'],
        origin=f'published ({source["name"]}{f", {where}" if where else ""})',
        text_source=row.get('text', table.get('text', NOT_STATED)),
        values={key: _value(key, row[key]) for key in KEYS if key in row},
        kind='published',
        source=f'{source["name"]}: {source["title"]}',
    )


def _value(key: str, given: float | str) -> Value:
    """A number as printed, or a bound such as ``>0.9``. ACC is printed in percent."""
    bound, number = '', given
    if isinstance(given, str) and given[:1] in '<>':
        bound, number = given[0], given[1:]
    number = float(number)
    return Value(round(number / 100, 6) if key == 'acc' else number, bound=bound)


@cache
def _read(file: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AMHPError(f'{file}: cannot be read ({" ".join(str(error).split())})') from error
    if not isinstance(content, dict) or not {'sources', 'tables'} <= content.keys():
        raise AMHPError(f'{file}: expected the keys sources and tables')
    for name, source in content['sources'].items():
        if not isinstance(source, dict) or source.keys() != {'name', 'title'}:
            raise AMHPError(f'{file}, source {name}: expected name and title')
    for name, table in content['tables'].items():
        _check_table(f'{file}, {name}', table, content['sources'])
    return content


def _check_table(place: str, table: Any, sources: dict[str, Any]) -> None:
    if not isinstance(table, dict):
        raise AMHPError(f'{place}: expected a mapping with {", ".join(sorted(TABLE_KEYS))}')
    _check_keys(place, table, TABLE_KEYS, ('caption', 'data', 'source', 'rows'))
    _check_words(place, table, sources)
    methods = set()
    for i, row in enumerate(table['rows'], 1):
        at = f'{place}, row {i}'
        if not isinstance(row, dict):
            raise AMHPError(f'{at}: {row!r}, expected a mapping')
        _check_keys(at, row, ROW_KEYS, ('method',))
        _check_words(at, row, sources)
        if row['method'] in methods:
            raise AMHPError(f'{at}: {row["method"]!r} is there already')
        methods.add(row['method'])
        measured = [key for key in KEYS if key in row]
        if not measured:
            raise AMHPError(f'{at}: no result; expected some of {", ".join(KEYS)}')
        for key in measured:
            _check_number(f'{at}: {key}={row[key]!r}', key, row[key])


def _check_keys(place: str, given: dict, known: set[str], needed: Sequence[str]) -> None:
    if missing := [key for key in needed if key not in given]:
        raise AMHPError(f'{place}: no {" and no ".join(missing)}')
    if unknown := given.keys() - known:
        raise AMHPError(f'{place}: unknown {sorted(unknown)[0]!r}; known: {sorted(known)}')


def _check_words(place: str, given: dict, sources: dict[str, Any]) -> None:
    for key, allowed in (('source', sources), ('text', TEXTS)):
        if key in given and given[key] not in allowed:
            raise AMHPError(f'{place}: {key}={given[key]!r}, expected one of {", ".join(allowed)}')


def _check_number(what: str, key: str, given: Any) -> None:
    try:
        value = _value(key, given).value
    except (TypeError, ValueError):
        raise AMHPError(f'{what}, expected a number or a bound such as ">0.9"') from None
    low, high = {'acc': (0.01, 1), 'mse': (0, float('inf'))}.get(key, (-1, 1))
    if isinstance(given, bool) or not low <= value <= high:
        unit = ' (in percent)' if key == 'acc' else ''
        raise AMHPError(f'{what}: outside what it can be{unit}')
