"""Tables of scores. Results go to a partial file as they come, so that a run can resume."""

import csv
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.result import ScoreResult, table_columns, to_record
from pyiqa_amhp.utils.files import check_output, write_atomically, write_text
from pyiqa_amhp.utils.journal import Journal

if TYPE_CHECKING:
    from pyiqa_amhp.scoring.scorer import Scorer

CHUNK_ROWS = 10_000  # rows in a group of a Parquet file, which is built in memory

logger = logging.getLogger('pyiqa_amhp')


def run_settings(
    inputs: Sequence[str], scorer: 'Scorer', options: dict[str, Any]
) -> dict[str, Any]:
    """Collect all that the scores of a run depend on, for ``ScoreFile``.

    Args:
        inputs: the files, folders and globs as they were given.
        scorer: the metric.
        options: options of the run, see ``plain_options``.

    Raises:
        OSError: a file among the options cannot be read.
    """
    return {
        'inputs': describe_inputs(inputs),
        'metric': scorer.name,
        'weights': scorer.fingerprint,
        **scorer.changes,
        **plain_options(options),
    }


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Select the options that are set, with a digest of the content in place of a file."""
    return {
        name: short_digest(value.read_bytes()) if isinstance(value, Path) else value
        for name, value in options.items()
        if value
    }


def describe_inputs(inputs: Sequence[str]) -> str:
    """Describe the inputs of a run in about 200 characters at most."""
    words = ' '.join(inputs)
    return (
        words if len(words) <= 200 else f'{len(inputs)} paths, {short_digest(os.fsencode(words))}'
    )


def short_digest(data: bytes) -> str:
    """Return a digest of 16 characters."""
    return blake2b(data, digest_size=8).hexdigest()


def check_settings(
    before: dict[str, Any], now: dict[str, Any], run: str | Path, deletable: str
) -> None:
    """Refuse to resume an interrupted run with other settings.

    Args:
        before: the settings of the interrupted run.
        now: the settings of this run.
        run: name of the run in the message.
        deletable: what the user can delete to start again.

    Raises:
        AMHPError: the settings differ; the message lists the differences.
    """
    before, now = _without_fp32(before), _without_fp32(now)
    if before == now:
        return
    changes = [
        f'{name} was {before.get(name)!r} and is {now.get(name)!r}'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    reason = ''
    if now.get('color_profiles') and not before.get('color_profiles'):
        reason = (
            '. It began without converting colour profiles to sRGB, as in version 0.1.0: '
            '--no-color-profiles resumes it'
        )
    precisions = [settings.get('precision') or 'fp32' for settings in (before, now)]
    if precisions[0] != precisions[1]:
        reason += (
            f'. It began in {precisions[0]}, and this is in {precisions[1]}, which may be the '
            f'default of the device: --precision {precisions[0]} resumes it'
        )
    raise AMHPError(
        f'{run}: made with other settings ({"; ".join(changes)}); give the same ones, or delete '
        f'{deletable} to start again{reason}'
    )


def _without_fp32(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out the precision fp32 where it is the default, so that naming it makes no difference.

    OpenVINO's default depends on the processor.
    """
    is_default = settings.get('precision') == 'fp32' and settings.get('engine') != 'openvino'
    return {k: v for k, v in settings.items() if not (is_default and k == 'precision')}


class ScoreFile:
    """Results of a run. Until the run ends they are JSON lines in ``FILE.partial.jsonl``.

    Args:
        path: the file to write at the end. Its suffix selects the format, see ``WRITERS``.
        settings: all that the scores depend on. A run resumes only with the same settings.
        resume: whether to resume an interrupted run, if there is one.

    Attributes:
        partial: the partial file.
        done: paths of the images that an interrupted run has scored.
        count: number of results in the partial file.

    Raises:
        AMHPError: the suffix is unknown, or the path is a folder; there are results of an
            interrupted run but ``resume`` is False, or they were made with other settings.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], resume: bool = False):
        self.path = check_output(path, WRITERS)
        self.partial = self.path.with_name(self.path.name + '.partial.jsonl')
        self._journal = Journal(self.partial)
        self.done: set[str] = set()
        self.count = 0
        settings = json.loads(json.dumps(settings))
        if not self.partial.exists():
            write_text(self.partial, json.dumps({'settings': settings}) + '\n')
        elif resume:
            self._resume(settings)
        else:
            raise AMHPError(
                f'{self.partial}: an interrupted run left its results here; resume it '
                '(--resume), or delete the file to start again'
            )

    def _resume(self, settings: dict[str, Any]) -> None:
        """Check the settings of the interrupted run, and read its results."""
        first = next(self._journal.read(), None)
        before = first.get('settings') if isinstance(first, dict) else None
        if not isinstance(before, dict):
            raise AMHPError(f'{self.partial}: not the results of an interrupted run; delete it')
        check_settings(before, settings, self.partial, 'the file')
        renamed = False
        for line in islice(self._journal.repair(_is_line), 1, None):
            self.done.add(line['path'])
            self.count += 1
            renamed |= 'text_source' in line
        if renamed:
            logger.warning('%s: its text_source is called prompt_source now', self.partial)

    def append(self, results: Iterable[ScoreResult]) -> Iterator[ScoreResult]:
        """Pass results on, each after it has been written to the partial file."""
        # Not dataclasses.asdict, whose deep copies take longer than all the rest.
        for line in self._journal.append(map(vars, results)):
            self.count += 1
            yield ScoreResult(**line)

    def discard(self) -> None:
        """Delete the partial file."""
        self._journal.delete()

    def results(self) -> Iterator[ScoreResult]:
        """Read all results from the partial file, in their order."""
        for line in islice(self._journal.read(), 1, None):
            result = ScoreResult.from_dict(line)
            if result is not None:
                yield result

    def finish(self, levels: Iterable[str], note: str = '') -> Path:
        """Write the table atomically, and delete the partial file.

        Args:
            levels: words of the quality levels, for the columns ``p_<level>``; empty for metrics
                other than AMHP.
            note: note of the weights, for the column ``note``; '' for no such column.
        """
        write = WRITERS[self.path.suffix.lower()]
        columns = table_columns(levels, note)
        write_atomically(self.path, lambda file: write(self._records(columns, note), columns, file))
        self.discard()
        return self.path

    def _records(self, columns: list[str], note: str) -> Iterator[dict[str, Any]]:
        for result in self.results():
            record = to_record(result, note)
            if other := record.keys() - set(columns):
                raise AMHPError(
                    f'{self.partial}: the result of {record["path"]} has {min(other)!r}, which is '
                    'none of these levels; delete the file to start again'
                )
            yield record


def _is_line(value: Any) -> bool:
    """Return whether a line of a partial file holds settings or a result."""
    if not isinstance(value, dict):
        return False
    return 'settings' in value or ScoreResult.from_dict(value) is not None


Records = Iterator[dict[str, Any]]


def to_csv(results: Iterable[ScoreResult], levels: Iterable[str], note: str = '') -> str:
    """Format results as the table that ``amhp score --out FILE.csv`` writes."""
    file = io.StringIO(newline='')
    records = (to_record(result, note) for result in results)
    _write_rows(records, table_columns(levels, note), file)
    return file.getvalue()


def _write_rows(records: Iterable[dict[str, Any]], columns: list[str], file: IO[str]) -> None:
    table = csv.DictWriter(file, columns, lineterminator='\n')
    table.writeheader()
    table.writerows(records)


def _write_csv(records: Records, columns: list[str], path: Path) -> None:
    with path.open('w', encoding='utf-8', newline='') as file:
        _write_rows(records, columns, file)


def _json_lines(records: Records, columns: list[str]) -> Iterator[str]:
    for record in records:
        values = {name: record.get(name) for name in columns}
        if values['score'] is not None and not math.isfinite(values['score']):
            values['score'] = None  # JSON has no NaN and no infinity
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
    """Return the schema of a table of scores for pyarrow."""
    import pyarrow as pa

    words = ('path', 'prompt_source', 'note', 'error')
    return pa.schema([(name, pa.string() if name in words else pa.float64()) for name in columns])


def _write_parquet(records: Records, columns: list[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table_schema(columns)
    with pq.ParquetWriter(path, schema) as file:
        while chunk := list(islice(records, CHUNK_ROWS)):
            file.write_table(pa.Table.from_pylist(chunk, schema))


WRITERS: dict[str, Callable[[Records, list[str], Path], None]] = {
    '.csv': _write_csv,
    '.json': _write_json,
    '.jsonl': _write_jsonl,
    '.parquet': _write_parquet,
}
