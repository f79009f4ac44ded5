"""Tables of scores on disk: rows are kept as they come, and an interrupted run goes on."""

import csv
import heapq
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.result import Score, table_columns, to_record
from pyiqa_amhp.utils.files import write_atomically, writing_to

ROWS_AT_ONCE = 10_000  # of a Parquet file: what is in memory while it is written


def settings(inputs: Sequence[str], metric, options: dict[str, Any]) -> dict[str, Any]:
    """What the scores of a run depend on, for ``ScoreFile``.

    Args:
        inputs: the files, folders and globs as they were given.
        metric: what ``pyiqa.create_metric`` gave.
        options: of the run; those that are None or False are left out, of a file the content
            counts.

    Raises:
        OSError: a file among the options that cannot be read.
    """
    from pyiqa_amhp.scoring.scorer import fingerprint  # imports torch

    return {
        'inputs': named(inputs),
        'metric': metric.metric_name,
        'weights': fingerprint(metric),
        **plain_options(options),
    }


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those that are set; a digest in place of a file, of which the content counts."""
    return {
        name: digest(value.read_bytes()) if isinstance(value, Path) else value
        for name, value in options.items()
        if value
    }


def named(inputs: Sequence[str]) -> str:
    """The inputs of a run, for its settings."""
    words = ' '.join(inputs)
    return words if len(words) <= 200 else f'{len(inputs)} paths, {digest(words.encode())}'


def digest(data: bytes) -> str:
    """A short text for any bytes."""
    return blake2b(data, digest_size=8).hexdigest()


class ScoreFile:
    """The rows of a run, one JSON line each in ``FILE.partial.jsonl`` until the run is over.

    Args:
        path: the file to be; its suffix, one of ``WRITERS``, says in which form.
        settings: what the scores depend on. A run goes on only with the same.
        resume: go on with what an interrupted run left, if there is anything.

    Attributes:
        partial: the file that takes the rows. done: the paths whose rows were there already.
        count: how many rows there are.

    Raises:
        AMHPError: a suffix that is not known; a folder of that name; an interrupted run's rows
            where ``resume`` is not asked for, or made with other settings.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], resume: bool = False):
        self.path = check_output(path)
        self.partial = self.path.with_name(self.path.name + '.partial.jsonl')
        self.done: set[str] = set()
        self.count = 0
        self._settings = json.loads(json.dumps(settings))
        if not self.partial.exists():
            first = json.dumps({'settings': self._settings}) + '\n'
            write_atomically(self.partial, lambda file: file.write_text(first, 'utf-8'))
        elif resume:
            self._go_on()
        else:
            raise AMHPError(
                f'{self.partial}: an interrupted run left its rows here; go on with it '
                '(--resume), or delete the file to begin anew'
            )

    def _go_on(self) -> None:
        """Check the settings, drop a line that the interruption cut, note what is there."""
        with self.partial.open('rb+') as file:
            first = file.readline()
            self._check_settings(_parsed(first).get('settings'))
            kept = len(first)  # bytes of whole lines
            for line in file:
                if (row := _row(_parsed(line))) is None:
                    break
                self.done.add(row.path)
                self.count += 1
                kept += len(line)
            file.truncate(kept)

    def _check_settings(self, before: dict[str, Any] | None) -> None:
        if not isinstance(before, dict):
            raise AMHPError(f'{self.partial}: not the rows of an interrupted run; delete it')
        check_settings(before, self._settings, self.partial, 'the file')

    def keep(self, rows: Iterable[Score]) -> Iterator[Score]:
        """Pass rows on, each after its line has been written."""
        with writing_to(self.partial), self.partial.open('a', encoding='utf-8') as file:
            for row in rows:
                file.write(json.dumps(asdict(row), ensure_ascii=False) + '\n')
                file.flush()
                self.count += 1
                yield row

    def discard(self) -> None:
        """Remove the partial file."""
        self.partial.unlink(missing_ok=True)

    def rows(self) -> Iterator[Score]:
        """All rows that are there, in the order in which they came."""
        with self.partial.open(encoding='utf-8') as file:
            for line in islice(file, 1, None):
                yield _row(json.loads(line))

    def finish(self, levels: Iterable[str]) -> Path:
        """Write the table, whole or not at all, and remove the partial file.

        Args:
            levels: the words of the quality levels, a column ``p_<level>`` each; none for other
                metrics.
        """
        write = WRITERS[self.path.suffix.lower()]
        columns = table_columns(levels)
        rows = self._records(columns)
        write_atomically(self.path, lambda file: write(rows, columns, file))
        self.discard()
        return self.path

    def _records(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        for record in map(to_record, self.rows()):
            if other := record.keys() - set(columns):
                raise AMHPError(
                    f'{self.partial}: the row of {record["path"]} has {min(other)!r}, which is '
                    'none of these levels; delete the file to begin anew'
                )
            yield record


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as it was written; {} where it was cut or is something else."""
    try:
        entry = json.loads(line) if line.endswith(b'\n') else None
    except (ValueError, RecursionError):
        entry = None
    return entry if isinstance(entry, dict) else {}


def _row(entry: dict[str, Any]) -> Score | None:
    """A row as it was written; None where the line holds something else."""
    try:
        row = Score(**{**entry, 'bins': tuple(entry['bins'])})
        numbers = [*row.levels.values(), *row.bins, *([] if row.score is None else [row.score])]
    except (KeyError, TypeError, AttributeError):
        return None
    words = (row.path, row.text_source, row.error)
    good = all(type(word) is str for word in words) and {*map(type, numbers)} <= {int, float}
    return row if good else None


Records = Iterator[dict[str, Any]]


def _write_csv(records: Records, columns: list[str], path: Path) -> None:
    with path.open('w', encoding='utf-8', newline='') as file:
        table = csv.DictWriter(file, columns, lineterminator='\n')
        table.writeheader()
        table.writerows(records)


def _json_lines(records: Records, columns: list[str]) -> Iterator[str]:
    for record in records:
        values = {name: record.get(name) for name in columns}
        if values['score'] is not None and not math.isfinite(values['score']):
            values['score'] = None  # JSON has no word for it
        yield json.dumps(values, ensure_ascii=False)


def _write_jsonl(records: Records, columns: list[str], path: Path) -> None:
    with path.open('w', encoding='utf-8') as file:
        file.writelines(line + '\n' for line in _json_lines(records, columns))


def _write_json(records: Records, columns: list[str], path: Path) -> None:
    with path.open('w', encoding='utf-8') as file:
        file.write('[')
        for number, line in enumerate(_json_lines(records, columns)):
            file.write((',\n' if number else '\n') + line)
        file.write('\n]\n')


def table_schema(columns: Iterable[str]):
    """The types of a table of scores, for pyarrow."""
    import pyarrow as pa

    words = ('path', 'text_source', 'error')
    return pa.schema([(name, pa.string() if name in words else pa.float64()) for name in columns])


def _write_parquet(records: Records, columns: list[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table_schema(columns)
    with pq.ParquetWriter(path, schema) as file:
        while chunk := list(islice(records, ROWS_AT_ONCE)):
            file.write_table(pa.Table.from_pylist(chunk, schema))


WRITERS: dict[str, Callable[[Records, list[str], Path], None]] = {
    '.csv': _write_csv,
    '.json': _write_json,
    '.jsonl': _write_jsonl,
    '.parquet': _write_parquet,
}


def check_output(path: str | Path) -> Path:
    """The output's path, before any work is done for it.

    Raises:
        AMHPError: a suffix that is not one of ``WRITERS``, or a folder of that name.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in WRITERS:
        raise AMHPError(f'{path}: expected a name that ends in {", ".join(WRITERS)}')
    if path.is_dir():
        raise AMHPError(f'{path}: is a folder, expected a file')
    return path


def check_settings(
    before: dict[str, Any], now: dict[str, Any], where: str | Path, what: str
) -> None:
    """Refuse to go on with an interrupted run under other settings.

    Args:
        where, what: the run's name for a user, and what it is that may be deleted.

    Raises:
        AMHPError: names the settings that differ.
    """
    if before == now:
        return
    changes = [
        f'{name} was {before.get(name)!r} and is {now.get(name)!r}'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    raise AMHPError(
        f'{where}: made with other settings ({"; ".join(changes)}); give the same ones, or delete '
        f'{what} to begin anew'
    )


@dataclass
class Summary:
    """What a table of scores comes to.

    Attributes:
        rows, failed: how many rows, and how many of them without a score.
        best: rows, best first; failed ones follow where all were asked for.
        errors: the first few reasons.
    """

    rows: int = 0
    failed: int = 0
    best: list[Score] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def summarise(rows: Iterable[Score], best: int | None, lower_better: bool = False) -> Summary:
    """Count, and find the best rows, in one pass: memory is that of ``best`` rows (None: all)."""
    found = Summary()
    unscored: list[Score] = []

    def scored() -> Iterator[Score]:
        for row in rows:
            found.rows += 1
            if row.score is not None:
                yield row
                continue
            found.failed += 1
            if len(found.errors) < 5:
                found.errors.append(row.error)
            if best is None or len(unscored) < best:
                unscored.append(row)

    def rank(row: Score) -> float:
        if math.isnan(row.score):
            return math.inf
        return row.score if lower_better else -row.score

    ranked = sorted(scored(), key=rank) if best is None else heapq.nsmallest(best, scored(), rank)
    found.best = (ranked + unscored)[:best]
    return found
