"""What is known of how weights came about: from the records that belong to them, and no others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.record import TESTING, TRAINING, read_record


@dataclass
class Evidence:
    """What records say of some weights.

    Attributes:
        training: the record of their training, if there is one.
        iteration: after how many iterations they were saved.
        measured: what was measured on these very weights, tests first, each data set once, with
            the options of the metrics (``metric_options``).
        notes: what was found and not used, with the reason.
    """

    training: dict[str, Any] | None = None
    iteration: int | None = None
    measured: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def find_evidence(
    file: str | Path,
    digest: str,
    experiment: Path | None = None,
    results: Sequence[Path] = (),
) -> Evidence:
    """The records of weights.

    Args:
        file: where the weights are; the record of their training lies beside them, or beside
            the folder ``models`` that they are in, unless ``experiment`` says where.
        digest: of the weights (``weights_digest``). A record counts only if it knows it.
        experiment: ``experiments/<name>``, or the record in it.
        results: folders ``results/<name>`` of ``amhp test``, or the records in them.

    Raises:
        AMHPError: a record that is named but is not there, or is of other weights.
    """
    found = Evidence()
    for place in results:
        path, record = _named(place, TESTING)
        rows = _rows_of(record, digest)
        if not rows:
            raise AMHPError(f'{path}: what was measured there are other weights than {file}')
        found.measured += tuple(rows)
    if experiment is not None:
        _take_training(found, *_named(experiment, TRAINING), digest)
        if found.training is None:
            raise AMHPError(found.notes[0])
    else:
        path = _beside(Path(file))
        record = path and read_record(path)
        if record:
            _take_training(found, path, record, digest)
        else:
            found.notes += (f'no {TRAINING} beside {file}; --experiment says where it is',)
    rows = {_which(row): row for row in found.measured}  # the last of each data set
    found.measured = tuple(rows.values())
    return found


def _take_training(found: Evidence, path: Path, record: dict[str, Any], digest: str) -> None:
    known = record['checkpoints']
    same = [row for row in known.values() if row.get('weights') == digest]
    measured = _rows_of(record, digest)
    if not (same or measured):
        has = ', '.join(
            f'{name} of iteration {row.get("iteration")}' for name, row in known.items()
        )
        found.notes += (f'{path} is of other weights and was not used (it knows {has or "none"})',)
        return
    iteration = (same or measured)[0].get('iteration')
    found.training = record
    found.iteration = iteration if isinstance(iteration, int) else None
    found.measured += tuple(measured)


def _rows_of(record: dict[str, Any], digest: str) -> list[dict[str, Any]]:
    """What was measured on some weights, with the options of the metrics."""
    options = record['validation'].get('metrics')
    rows = (row for row in record['measured'] if row.get('weights') == digest)
    return [{**row, 'metric_options': options} for row in rows]


def _named(place: Path, name: str) -> tuple[Path, dict[str, Any]]:
    path = place / name if place.is_dir() else place
    record = read_record(path)
    if record is None:
        command = 'train' if name == TRAINING else 'test'
        raise AMHPError(f'{path}: expected the {name} that `amhp {command}` writes')
    return path, record


def _beside(file: Path) -> Path | None:
    folders = [file.parent, *([file.parent.parent] if file.parent.name == 'models' else [])]
    return next((f / TRAINING for f in folders if (f / TRAINING).is_file()), None)


def _which(row: dict[str, Any]) -> tuple[str, str]:
    data = row.get('data')
    data = data if isinstance(data, dict) else {}
    return str(data.get('name')), str(data.get('split'))
