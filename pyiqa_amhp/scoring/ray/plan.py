"""Plan of a job: the images of its inputs, split into shards and written down before it begins.

A shard is some rows that are scored together and written to one file, ``part-000000.parquet``. The
plan lies beside these files, so that a job that resumes has the same shards even if the inputs have
changed meanwhile.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pyiqa_amhp.datasets.texts import TextLookup
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.storage import Storage, redact, scheme_of
from pyiqa_amhp.scoring.result import MIRROR
from pyiqa_amhp.utils.text import given_text, writable

FOLDER, PLAN = '_plan', 'plan.json'
SHARDS_PER_FILE = 64  # of the plan, a row group each
MIN_ROWS, MAX_ROWS, SHARDS_PER_JOB = 32, 1000, 64
"""Rows of a shard: a 64th of the job within these limits (our choice)."""

SCHEMA = pa.schema([
    ('path', pa.string()), ('text', pa.string()), ('table', pa.string()),
    ('row_group', pa.int32()), ('first', pa.int64()), ('rows', pa.int64()),
])  # fmt: skip
"""A row of the plan is an image (``path``, ``text``), or a slice of a table that holds images
itself (``table``, its ``row_group``, the ``first`` row in the group and the number of ``rows``)."""

PATH_COLUMNS = ('path', 'img_name')


@dataclass
class Source:
    """Inputs of a job as the user gave them.

    Attributes:
        storage: the file systems of the inputs.
        inputs: names of images, folders, globs and tables (``.csv``, ``.parquet``).
        text: a text for every image.
        texts: texts of images by their names.
        columns: the user's names for the columns ``path``, ``text`` and ``image`` (bytes, in
            Parquet only) of tables. Without them the path is in ``path`` or ``img_name``, the text
            in ``text``, and the image in the only column of bytes.
        shard_rows: rows of a shard; None: see ``choose_shard_rows``.
    """

    storage: Storage
    inputs: list[str]
    text: str | None = None
    texts: TextLookup | None = None
    columns: dict[str, str] | None = None
    shard_rows: int | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the plan. An image counts once even if several inputs contain it.

        Raises:
            AMHPError: inputs that cannot be listed, or ``texts`` that fit none of the images.
        """
        seen: set[bytes] | None = set() if len(self.inputs) > 1 else None
        images = 0
        first = ''
        for name in self.inputs:
            if redact(name).lower().endswith(('.csv', '.parquet')):
                for table in self.storage.find_tables(name):
                    yield from self._table_rows(table)
                continue
            for image in self.storage.find_images(name):
                if seen is not None:
                    key = self._image_key(image)
                    if key in seen:
                        continue
                    seen.add(key)
                images += 1
                first = first or image
                text = self.texts.find(_local_path(image)) if self.texts else self.text
                yield _plan_row(path=writable(image), text=text)
        if self.texts and images:
            self.texts.check_matches(images, _local_path(first))

    def _image_key(self, image: str) -> bytes:
        """Eight bytes that are the same for all names of an image."""
        path = image if scheme_of(image) else self.storage.resolve(image)[1]
        return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()

    def _table_rows(self, name: str) -> Iterator[dict[str, Any]]:
        if name.lower().endswith('.csv'):
            yield from self._csv_rows(name)
            return
        table = ParquetTable(self.storage, name, self.columns)
        if table.image:
            yield from table.slices(self.shard_rows)
            return
        for record in table.records():
            yield self._listed_row(name, record)

    def _csv_rows(self, name: str) -> Iterator[dict[str, Any]]:
        try:
            with self.storage.open(name) as file:
                text = io.TextIOWrapper(file, encoding='utf-8-sig', newline='')
                reader = csv.DictReader(text, strict=True)
                columns = _find_columns(name, reader.fieldnames or [], self.columns)
                for record in reader:
                    if None in record or None in record.values():
                        raise AMHPError(
                            f'{name}: line {reader.line_num} has not as many values as the header'
                        )
                    values = {key: record[column] for key, column in columns.items()}
                    yield self._listed_row(name, values, reader.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AMHPError(f'{name}: cannot be read as CSV ({error})') from error

    def _listed_row(
        self, table: str, record: dict[str, Any], line: int | None = None
    ) -> dict[str, Any]:
        """Make a row for a path in a table; relative paths start at the table's own folder."""
        path = '' if record['path'] is None else str(record['path'])
        if not path:
            raise AMHPError(f'{table}: no path in {f"line {line}" if line else "a row"}')
        if not scheme_of(path) and not path.startswith('/') and '/' in table:
            path = f'{table.rpartition("/")[0]}/{path}'
        return _plan_row(path=path, text=given_text(record.get('text')) or self.text)


def _local_path(name: str) -> str | Path:
    """A local name as a path, an address as it is."""
    return name if scheme_of(name) else Path(name)


def _plan_row(**values) -> dict[str, Any]:
    return {name: values.get(name) for name in SCHEMA.names}


def _find_columns(
    table: str, names: Iterable[str], given: dict[str, str] | None, needs_path: bool = True
) -> dict[str, str]:
    """Find the columns of a table that hold the ``path`` and the ``text``.

    Raises:
        AMHPError: a given column does not exist, or no column holds paths.
    """
    names = list(names)
    columns = dict(given or {})
    if missing := [column for column in columns.values() if column not in names]:
        raise AMHPError(f'{table}: no column {", ".join(missing)}; there are {", ".join(names)}')
    columns.pop('image', None)
    for key, usual in (('path', PATH_COLUMNS), ('text', ('text',))):
        if key not in columns and (found := next((c for c in usual if c in names), None)):
            columns[key] = found
    if needs_path and 'path' not in columns:
        raise AMHPError(
            f'{table}: no column {" or ".join(PATH_COLUMNS)}; there are {", ".join(names)} (name '
            'the column of the paths: --column path=NAME)'
        )
    return columns


class ParquetTable:
    """A Parquet file of paths or of images.

    Args:
        storage: its file system.
        name: its path or address.
        columns: see ``Source``.

    Attributes:
        image: the column with the bytes of images; ``''`` in a table of paths.

    Raises:
        AMHPError: no such file, not Parquet, or columns that are missing or ambiguous.
    """

    def __init__(self, storage: Storage, name: str, columns: dict[str, str] | None):
        self.name = name
        try:
            # A buffer, without which a whole column of a row group is read at once.
            self._file = pq.ParquetFile(storage.open(name), buffer_size=2**20)
        except (OSError, pa.ArrowInvalid) as error:
            raise AMHPError(f'{name}: cannot be read as Parquet ({error})') from error
        schema = self._file.schema_arrow
        self.image = _find_image_column(name, schema, (columns or {}).get('image'))
        self._columns = _find_columns(name, schema.names, columns, needs_path=not self.image)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table of paths: ``path`` and, where there is one, ``text``."""
        for batch in self._file.iter_batches(MAX_ROWS, columns=list(self._columns.values())):
            for record in batch.to_pylist():
                yield {key: record[column] for key, column in self._columns.items()}

    def slices(self, shard_rows: int | None) -> Iterator[dict[str, Any]]:
        """Yield the rows of the plan for a table of images: slices of its row groups."""
        metadata = self._file.metadata
        size = shard_rows or choose_shard_rows(metadata.num_rows)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for first in range(0, rows, size):
                count = min(size, rows - first)
                yield _plan_row(table=self.name, row_group=group, first=first, rows=count)

    def read(self, row_group: int, first: int, rows: int) -> Iterator[tuple[str, str, bytes]]:
        """Yield path, text and bytes of the images of a slice, one by one.

        An image without a path is called by its table and its row: ``x.parquet#17``.
        """
        rows_before = sum(self._file.metadata.row_group(i).num_rows for i in range(row_group))
        columns = [self.image, *self._columns.values()]
        position = 0  # in the row group
        for batch in self._file.iter_batches(64, row_groups=[row_group], columns=columns):
            start = max(first - position, 0)
            end = min(first + rows - position, batch.num_rows)
            records = batch.slice(start, max(end - start, 0)).to_pylist()
            for number, record in enumerate(records, rows_before + position + start):
                content, path = record[self.image], None
                if isinstance(content, dict):
                    path, content = content.get('path'), content.get('bytes')
                if 'path' in self._columns:
                    path = record[self._columns['path']]
                text = record.get(self._columns.get('text', ''))
                name = str(path or f'{self.name}#{number}')
                yield name, given_text(text), content or b''
            position += batch.num_rows
            if position >= first + rows:
                return


def _find_image_column(table: str, schema: pa.Schema, given: str | None) -> str:
    """Find the column of images: bytes, or a struct with ``bytes`` as Hugging Face writes them.

    Returns:
        Its name; ``''`` where no column holds bytes.

    Raises:
        AMHPError: the given column does not exist or holds no bytes; or none is given and several
            hold bytes.
    """
    if given and given not in schema.names:
        raise AMHPError(f'{table}: no column {given}; there are {", ".join(schema.names)}')
    found = [column.name for column in schema if _holds_bytes(column.type)]
    if given:
        if given not in found:
            raise AMHPError(f'{table}: column {given} holds no bytes')
        return given
    if len(found) > 1:
        raise AMHPError(
            f'{table}: {", ".join(found)} hold bytes; name the column of the images: '
            '--column image=NAME'
        )
    return found[0] if found else ''


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == 'bytes' and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def choose_shard_rows(rows: int) -> int:
    """Choose how many rows each shard gets in a job of ``rows`` rows."""
    return min(MAX_ROWS, max(MIN_ROWS, -(-rows // SHARDS_PER_JOB)))


@dataclass(frozen=True)
class ShardPlan:
    """A plan that was written.

    Attributes:
        folder: the folder of the results.
        settings: what the scores depend on.
        shards: number of shards.
        rows: number of images in all shards.
        columns: see ``Source``.
        mirror: the rule of ``Scorer.changes`` for the metrics that mirror images; ``''`` in plans
            of version 0.1.0. The settings, which are made without the metric, cannot have it.
    """

    folder: str
    settings: dict[str, Any]
    shards: int
    rows: int
    columns: dict[str, str] | None = None
    mirror: str = MIRROR

    def read_shard(self, storage: Storage, number: int) -> list[dict[str, Any]]:
        """Read the rows of a shard, see ``SCHEMA``."""
        name = _plan_file(self.folder, number // SHARDS_PER_FILE)
        with storage.open(name) as source, pq.ParquetFile(source) as file:
            return file.read_row_group(number % SHARDS_PER_FILE).to_pylist()


def read_plan(storage: Storage, folder: str) -> ShardPlan | None:
    """Read the plan of an earlier job in this folder; None if there is none, or half of one.

    Raises:
        AMHPError: a file of that name is no plan.
    """
    name = f'{folder}/{FOLDER}/{PLAN}'
    if not storage.exists(name):
        return None
    try:
        content = json.loads(storage.read(name))
        columns = content['columns'] and dict(content['columns'])
        shards, rows = int(content['parts']), int(content['rows'])
        mirror = str(content.get('mirror', ''))
        return ShardPlan(folder, dict(content['settings']), shards, rows, columns, mirror)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AMHPError(f'{redact(name)}: not the plan of a job; delete it') from error


def write_plan(source: Source, folder: str, settings: dict[str, Any]) -> ShardPlan:
    """List the inputs and write down the rows of each shard, in constant memory.

    Args:
        source: the inputs.
        folder: the folder of the results.
        settings: what the scores depend on.

    Raises:
        AMHPError: inputs that cannot be listed, or without an image.
    """
    shards = rows = 0
    all_shards = _split(source.rows(), source.shard_rows)
    while chunk := list(islice(all_shards, SHARDS_PER_FILE)):
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA) as file:
            for shard in chunk:
                file.write_table(pa.Table.from_pylist(shard, SCHEMA))
                rows += sum(1 if row['rows'] is None else row['rows'] for row in shard)
        source.storage.write(_plan_file(folder, shards // SHARDS_PER_FILE), buffer.getvalue())
        shards += len(chunk)
    if not shards:
        raise AMHPError(f'{" ".join(map(redact, source.inputs))}: no images in these inputs')
    plan = ShardPlan(folder, settings, shards, rows, source.columns)
    content = {'settings': settings, 'parts': shards, 'rows': rows, 'columns': plan.columns}
    content['mirror'] = plan.mirror
    source.storage.write(f'{folder}/{FOLDER}/{PLAN}', json.dumps(content, indent=1).encode())
    return plan


def _split(rows: Iterator[dict[str, Any]], size: int | None) -> Iterator[list[dict[str, Any]]]:
    """Split rows into shards, in their order; a slice of a table is a shard of its own."""
    head = [] if size else list(islice(rows, MAX_ROWS * SHARDS_PER_JOB))
    size = size or choose_shard_rows(len(head))
    shard: list[dict[str, Any]] = []
    for row in chain(head, rows):
        if row['table'] is not None:
            yield from filter(None, (shard, [row]))
            shard = []
            continue
        shard.append(row)
        if len(shard) == size:
            yield shard
            shard = []
    if shard:
        yield shard


def part_name(shard: int) -> str:
    """The name of the file with the scores of a shard."""
    return f'part-{shard:06d}.parquet'


def _plan_file(folder: str, number: int) -> str:
    return f'{folder}/{FOLDER}/{number:06d}.parquet'
