"""Records of the training and the tests of weights; records of other weights do not count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.record import TESTING, TRAINING, read_record


@dataclass
class Evidence:
    """What records say about some weights.

    Attributes:
        training: the record of their training, if there is one.
        iteration: number of iterations after which they were saved.
        measured: results measured on exactly these weights, tests first, each data set once, with
            the options of the metrics (``metric_options``).
        notes: records that were missing or not used, with the reason.
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
    """Find the records of weights.

    Args:
        file: the weights. The record of their training is expected in the same folder, or beside
            the folder ``models`` that they are in, unless ``experiment`` is given.
        digest: digest of the weights (``weights_digest``). A record counts only if it has it.
        experiment: ``experiments/<name>``, or the record in it.
        results: folders ``results/<name>`` of ``amhp test``, or the records in them.

    Raises:
        AMHPError: a given record that does not exist or is about other weights.
    """
    found = Evidence()
    for place in results:
        path, record = _read_given(place, TESTING)
        rows = _measured_on(record, digest)
        if not rows:
            raise AMHPError(f'{path}: its results were measured on other weights than {file}')
        found.measured += tuple(rows)
    if experiment is not None:
        path, record = _read_given(experiment, TRAINING)
        _add_training(found, path, record, digest)
        if found.training is None:
            raise AMHPError(found.notes[0])
    else:
        path_beside = _find_training_record(Path(file))
        record_beside = read_record(path_beside) if path_beside else None
        if path_beside and record_beside:
            _add_training(found, path_beside, record_beside, digest)
        else:
            found.notes += (f'no {TRAINING} beside {file}; --experiment says where it is',)
    last_of_each = {_data_key(row): row for row in found.measured}
    found.measured = tuple(last_of_each.values())
    return found


def _add_training(found: Evidence, path: Path, record: dict[str, Any], digest: str) -> None:
    """Add the record of a training, or a note that it is about other weights."""
    checkpoints = record['checkpoints']
    saved = [row for row in checkpoints.values() if row.get('weights') == digest]
    measured = _measured_on(record, digest)
    if not (saved or measured):
        known = ', '.join(
            f'{name} of iteration {row.get("iteration")}' for name, row in checkpoints.items()
        )
        found.notes += (
            f'{path} is about other weights and was not used (it knows {known or "none"})',
        )
        return
    iteration = (saved or measured)[0].get('iteration')
    found.training = record
    found.iteration = iteration if isinstance(iteration, int) else None
    found.measured += tuple(measured)


def _measured_on(record: dict[str, Any], digest: str) -> list[dict[str, Any]]:
    """Return the results that were measured on some weights, with the options of the metrics."""
    options = record['validation'].get('metrics')
    rows = (row for row in record['measured'] if row.get('weights') == digest)
    return [{**row, 'metric_options': options} for row in rows]


def _read_given(place: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Read a record that the user gave, by its path or by its folder."""
    path = place / name if place.is_dir() else place
    record = read_record(path)
    if record is None:
        command = 'train' if name == TRAINING else 'test'
        raise AMHPError(f'{path}: expected the {name} that `amhp {command}` writes')
    return path, record


def _find_training_record(file: Path) -> Path | None:
    folders = [file.parent, *([file.parent.parent] if file.parent.name == 'models' else [])]
    return next((f / TRAINING for f in folders if (f / TRAINING).is_file()), None)


def _data_key(row: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the split of the data that a result was measured on."""
    data = row.get('data')
    data = data if isinstance(data, dict) else {}
    return str(data.get('name')), str(data.get('split'))
