"""What a job has to score: its inputs as parts of some rows each, written down before it begins.

A part is what is scored, written and done again as one. The plan lies beside the results, so that
a job that goes on has the same parts, whatever has become of the inputs meanwhile.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.storage import Files, hidden, scheme_of

FOLDER, PLAN = '_plan', 'plan.json'
PARTS_A_FILE = 64  # of the plan
MAX_ROWS, LEAST_ROWS, SHARES = 1000, 32, 64
"""Rows of a part: a 64th of the job, but no more and no fewer than these (our choice)."""

SCHEMA = pa.schema([
    ('path', pa.string()), ('text', pa.string()), ('table', pa.string()),
    ('row_group', pa.int32()), ('first', pa.int64()), ('rows', pa.int64()),
])  # fmt: skip
"""A row is an image, or (``table`` ..) a run of rows of a table that holds images itself."""

PATH_COLUMNS = ('path', 'img_name')
COLUMNS = ('path', 'text', 'image')
"""What tables hold: an image's path (``path`` or ``img_name``), its ``text`` and, in Parquet, the
bytes of the ``image``; ``columns`` gives them other names."""


@dataclass
class Source:
    """Inputs as the user gave them.

    Attributes:
        files: their file systems.
        inputs: names of images, folders, globs, tables (``.csv``, ``.parquet``).
        text: said about every image. texts: ``TextLookup``, by name.
        columns: the names of columns, by those of ``COLUMNS``.
        part_rows: of a part; None: see ``SHARES``.
    """

    files: Files
    inputs: list[str]
    text: str | None = None
    texts: Any = None
    columns: dict[str, str] | None = None
    part_rows: int | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, lazily. An image comes once even if several inputs lead to it."""
        seen: set[bytes] | None = set() if len(self.inputs) > 1 else None
        images = 0
        first = ''
        for name in self.inputs:
            if hidden(name).lower().endswith(('.csv', '.parquet')):
                for table in self.files.matching(name):
                    yield from self._table(table)
                continue
            for image in self.files.images(name):
                if seen is not None:
                    key = hashlib.blake2b(self._place(image).encode(), digest_size=8).digest()
                    if key in seen:
                        continue
                    seen.add(key)
                images += 1
                first = first or image
                said = self.texts.find(_as_path(image)) if self.texts else self.text
                yield _row(path=image, text=said)
        if self.texts and images:
            self.texts.check_matches(images, _as_path(first))

    def _place(self, image: str) -> str:
        return image if scheme_of(image) else self.files.at(image)[1]

    def _table(self, name: str) -> Iterator[dict[str, Any]]:
        if name.lower().endswith('.csv'):
            yield from self._csv(name)
            return
        columns = ParquetTable(self.files, name, self.columns)
        if columns.image:
            yield from columns.slices(self.part_rows)
            return
        for record in columns.records():
            yield self._listed(name, record)

    def _csv(self, name: str) -> Iterator[dict[str, Any]]:
        try:
            filesystem, path = self.files.at(name)
            with filesystem.open_input_stream(path) as file:
                text = io.TextIOWrapper(file, encoding='utf-8-sig', newline='')
                reader = csv.DictReader(text, strict=True)
                names = _columns(name, reader.fieldnames or [], self.columns)
                for record in reader:
                    if None in record or None in record.values():
                        raise AMHPError(
                            f'{name}: line {reader.line_num} has not as many values as the header'
                        )
                    row = {key: record[column] for key, column in names.items()}
                    yield self._listed(name, row, reader.line_num)
        except FileNotFoundError as error:
            raise AMHPError(f'{name}: no such file') from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AMHPError(f'{name}: cannot be read as CSV ({error})') from error

    def _listed(
        self, table: str, record: dict[str, Any], line: int | None = None
    ) -> dict[str, Any]:
        """A row of a list of paths, which are relative to the list's own folder."""
        path = record['path']
        if not path:
            raise AMHPError(f'{table}: no path in {f"line {line}" if line else "a row"}')
        if not scheme_of(path) and not path.startswith('/') and '/' in table:
            path = f'{table.rpartition("/")[0]}/{path}'
        return _row(path=path, text=record.get('text') or self.text)


def _as_path(name: str) -> str | Path:
    return name if scheme_of(name) else Path(name)


def _row(**values) -> dict[str, Any]:
    return {name: values.get(name) for name in SCHEMA.names}


def _columns(
    name: str, there: Iterable[str], wanted: dict[str, str] | None, needs_path: bool = True
) -> dict[str, str]:
    """Which column is the path, which the text."""
    there = list(there)
    columns = dict(wanted or {})
    if missing := [column for key, column in columns.items() if column not in there]:
        raise AMHPError(f'{name}: no column {", ".join(missing)}; there are {", ".join(there)}')
    columns.pop('image', None)
    for key, usual in (('path', PATH_COLUMNS), ('text', ('text',))):
        if key not in columns and (found := next((c for c in usual if c in there), None)):
            columns[key] = found
    if needs_path and 'path' not in columns:
        raise AMHPError(
            f'{name}: no column {" or ".join(PATH_COLUMNS)}; there are {", ".join(there)} (say '
            'which one holds the paths: --column path=NAME)'
        )
    return columns


class ParquetTable:
    """A Parquet file of paths, or of images.

    Attributes:
        image: the column of images' bytes, '' where it lists paths.
    """

    def __init__(self, files: Files, name: str, columns: dict[str, str] | None):
        self.name = name
        filesystem, path = files.at(name)
        try:
            # A buffer: else a whole column of a row group is read at once.
            self._file = pq.ParquetFile(filesystem.open_input_file(path), buffer_size=2**20)
        except FileNotFoundError as error:
            raise AMHPError(f'{name}: no such file') from error
        except (OSError, pa.ArrowInvalid) as error:
            raise AMHPError(f'{name}: cannot be read as Parquet ({error})') from error
        schema = self._file.schema_arrow
        self.image = _image_column(name, schema, (columns or {}).get('image'))
        self._columns = _columns(name, schema.names, columns, needs_path=not self.image)

    def records(self) -> Iterator[dict[str, Any]]:
        """The rows of a list of paths."""
        for batch in self._file.iter_batches(MAX_ROWS, columns=list(self._columns.values())):
            for record in batch.to_pylist():
                yield {
                    key: None if (value := record[column]) is None else str(value)
                    for key, column in self._columns.items()
                }

    def slices(self, part_rows: int | None) -> Iterator[dict[str, Any]]:
        """Rows of the plan for images that lie in the table."""
        metadata = self._file.metadata
        most = part_rows or rows_of_a_part(metadata.num_rows)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for first in range(0, rows, most):
                count = min(most, rows - first)
                yield _row(table=self.name, row_group=group, first=first, rows=count)

    def read(self, row_group: int, first: int, rows: int) -> Iterator[tuple[str, str, bytes]]:
        """Path, text and bytes of the images of a slice, one by one."""
        before = sum(self._file.metadata.row_group(i).num_rows for i in range(row_group))
        columns = [self.image, *self._columns.values()]
        at = 0
        for batch in self._file.iter_batches(64, row_groups=[row_group], columns=columns):
            start, end = max(first - at, 0), min(first + rows - at, batch.num_rows)
            for i, record in enumerate(batch.slice(start, max(end - start, 0)).to_pylist(), start):
                content = record[self.image]
                path = None
                if isinstance(content, dict):
                    path, content = content.get('path'), content.get('bytes')
                column = self._columns.get('path')
                path = record[column] if column else path
                text = record.get(self._columns.get('text', ''))
                number = before + at + i
                name = str(path or f'{self.name}#{number}')
                yield name, '' if text is None else str(text), content or b''
            at += batch.num_rows
            if at >= first + rows:
                return


def _image_column(name: str, schema: pa.Schema, wanted: str | None) -> str:
    """The column of images: binary, or a struct with ``bytes`` as Hugging Face writes them."""
    if wanted and wanted not in schema.names:
        raise AMHPError(f'{name}: no column {wanted}; there are {", ".join(schema.names)}')
    found = [column.name for column in schema if _holds_bytes(column.type)]
    if wanted:
        if wanted not in found:
            raise AMHPError(f'{name}: column {wanted} holds no bytes')
        return wanted
    if len(found) > 1:
        raise AMHPError(
            f'{name}: {", ".join(found)} hold bytes; say which are the images: --column image=NAME'
        )
    return found[0] if found else ''


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(part.name == 'bytes' and _holds_bytes(part.type) for part in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def rows_of_a_part(rows: int) -> int:
    """How many rows each part gets of so many."""
    return min(MAX_ROWS, max(LEAST_ROWS, -(-rows // SHARES)))


@dataclass(frozen=True)
class Plan:
    """Parts on disk.

    Attributes:
        folder: of the results.
        settings: what the scores depend on. parts, rows: how many.
        columns: the names of columns in tables, where the user gave them.
    """

    folder: str
    settings: dict[str, Any]
    parts: int
    rows: int
    columns: dict[str, str] | None = None

    def part(self, files: Files, number: int) -> list[dict[str, Any]]:
        """The rows of a part."""
        name = _file_of(self.folder, number // PARTS_A_FILE)
        filesystem, path = files.at(name)
        with pq.ParquetFile(filesystem.open_input_file(path)) as file:
            return file.read_row_group(number % PARTS_A_FILE).to_pylist()


def read_plan(files: Files, folder: str) -> Plan | None:
    """The plan of an earlier job in this folder, if it was written to its end.

    Raises:
        AMHPError: something else lies there.
    """
    name = f'{folder}/{FOLDER}/{PLAN}'
    if not files.exists(name):
        return None
    try:
        found = json.loads(files.read(name))
        settings, columns = dict(found['settings']), found['columns'] and dict(found['columns'])
        return Plan(folder, settings, int(found['parts']), int(found['rows']), columns)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AMHPError(f'{hidden(name)}: not the plan of a job; delete it') from error


def write_plan(source: Source, folder: str, settings: dict[str, Any]) -> Plan:
    """List the inputs, in constant memory, and write down which row is in which part.

    Raises:
        AMHPError: inputs that cannot be listed, or without an image.
    """
    parts = rows = 0
    chunks = _parts(source.rows(), source.part_rows)
    while several := list(islice(chunks, PARTS_A_FILE)):
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA) as file:
            for part in several:
                file.write_table(pa.Table.from_pylist(part, SCHEMA))
                rows += sum(1 if row['rows'] is None else row['rows'] for row in part)
        source.files.write(_file_of(folder, parts // PARTS_A_FILE), buffer.getvalue())
        parts += len(several)
    if not parts:
        raise AMHPError(f'{" ".join(map(hidden, source.inputs))}: no images in these inputs')
    plan = Plan(folder, settings, parts, rows, source.columns)
    content = {key: value for key, value in asdict(plan).items() if key != 'folder'}
    source.files.write(f'{folder}/{FOLDER}/{PLAN}', json.dumps(content, indent=1).encode())
    return plan


def _parts(rows: Iterator[dict[str, Any]], size: int | None) -> Iterator[list[dict[str, Any]]]:
    """Rows in parts, in their order; a slice of a table is a part of its own."""
    first = [] if size else list(islice(rows, MAX_ROWS * SHARES))
    size = size or rows_of_a_part(len(first))
    part: list[dict[str, Any]] = []
    for row in chain(first, rows):
        if row['table'] is not None:
            yield from filter(None, (part, [row]))
            part = []
            continue
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def part_name(number: int) -> str:
    """The file of a part's scores."""
    return f'part-{number:06d}.parquet'


def _file_of(folder: str, number: int) -> str:
    return f'{folder}/{FOLDER}/{number:06d}.parquet'
