"""Speed of metrics of pyiqa, in images a second (``amhp benchmark --speed``)."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pyiqa_amhp.datasets.images import find_images, read_image
from pyiqa_amhp.datasets.raw import Progress
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.evaluation.benchmark import find_metrics, quiet
from pyiqa_amhp.evaluation.network import bounded_downloads, reason_for
from pyiqa_amhp.evaluation.speed_tables import SpeedRow, write_speed
from pyiqa_amhp.evaluation.untrained import create_untrained
from pyiqa_amhp.model.config import IMAGENET, LITE
from pyiqa_amhp.scoring.device import default_precision
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.scorer import Scorer, arch_of, create_metric
from pyiqa_amhp.utils.environment import check_device, usable_cores, version_of
from pyiqa_amhp.utils.files import check_folder
from pyiqa_amhp.weights.hub import is_hub_id

METRICS = ('amhp', 'nima', 'musiq-ava', 'topiq_iaa', 'clipiqa', 'laion_aes')
"""The metrics that are measured unless others are named: those of aesthetics (our choice)."""
ROUNDS = 3  # our choice, as are the following
SECONDS = 3.0  # that a measurement takes at least
FILE_FACTOR = {'cuda': 5}  # how much longer files are read: processes may start for a GPU
MAX_BATCH = {'cpu': 64, 'cuda': 512}
GAIN = 1.03  # a batch twice as large has to be so much faster
MAX_PHOTOGRAPHS = 64
SIDES: dict[str, Callable[[Any], int]] = {
    'AMHP': lambda net: net.preprocess.size,
    'NIMA': lambda net: net.base_model.default_cfg['input_size'][-1],
    'LAIONAes': lambda net: net.clip_model[0].visual.input_resolution,
}
"""Side of the square that an arch resizes its images to; others read images in their own size."""


@dataclass(frozen=True)
class Speed:
    """Results of ``measure_speed``.

    Attributes:
        title: title of the table.
        rows: the metrics, in the order that was asked for.
        notes: how and on what machine they were measured.
        files: the written files.
    """

    title: str
    rows: list[SpeedRow]
    notes: list[str]
    files: list[Path]


@dataclass
class _Task:
    """A call that is measured, and the images a second of its rounds.

    Attributes:
        call: what is measured; it is called ``repeats`` times in a round.
        images: the number of images of a call.
    """

    call: Callable[[], object]
    images: int
    repeats: int = 1
    rates: list[float] = field(default_factory=list)

    def measure(self, wait: Callable[[], object]) -> float:
        """Measure a round in images a second; ``wait`` waits for the device."""
        wait()
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.call()
        wait()
        return self.images * self.repeats / (time.perf_counter() - start)

    def prepare(self, wait: Callable[[], object], seconds: float) -> float:
        """Warm up, and set ``repeats`` so that a round takes ``seconds``; return the rate."""
        self.measure(wait)
        rate = self.measure(wait)
        self.repeats = max(1, math.ceil(seconds * rate / self.images))
        return rate


@dataclass
class _Candidate:
    """A metric to measure: its row, and its tasks by the names of the fields of ``SpeedRow``."""

    row: SpeedRow
    scorer: Scorer | None = None
    tasks: dict[str, _Task] = field(default_factory=dict)


def measure_speed(
    metrics: Sequence[str],
    images: Sequence[str | Path] | str | Path,
    out: Path,
    weights: dict[str, str] | None = None,
    device: str | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
    progress: Progress = lambda items, total, what: items,
) -> Speed:
    """Measure the images a second of metrics, on ready tensors and from files.

    The network alone runs on random tensors of its own input size, one by one, and for AMHP in
    batches of the size that is fastest. From files it is what ``score_images`` does, with its
    defaults. Each figure is the median over rounds in which all metrics take turns, after a
    warm-up. A metric whose weights cannot be had is measured with random ones.

    Args:
        metrics: names or patterns as for ``benchmark``; none: ``METRICS``. ``amhp`` without weights
            of its own is measured with ViT-B/16 and with EfficientNet-Lite0.
        images: image files, folders or globs, of which the first 64 are read.
        out: folder for ``speed.csv`` and ``speed.md``.
        weights: checkpoints by name of the metric.
        device: a device of torch; None: a GPU if there is one.
        rounds: number of rounds; None: 3.
        seconds: how long a measurement takes at least; None: 3.
        progress: shows the progress, as ``tqdm`` does.

    Raises:
        AMHPError: an unknown metric, weights of a metric that is not measured, no image that can be
            read, no such device, or a folder that cannot be written.
    """
    out, weights = check_folder(out), dict(weights or {})
    check_device(device)
    rounds, seconds = rounds or ROUNDS, seconds or SECONDS
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    names = find_metrics(metrics or METRICS, weights)
    paths, sizes = _readable(images)
    kind = torch.device(device).type
    wait = _wait_for(device)
    with bounded_downloads() as problem, quiet():
        planned = [plan for name in names for plan in _plans(name, weights.get(name))]
        candidates = []
        for plan in progress(planned, len(planned), 'Warm-up'):
            candidate = _build(plan, device, problem)
            candidates.append(candidate)
            with _failures(candidate):
                _prepare(candidate, device, paths, _middle(sizes), seconds, wait)
        turns = [(c, task) for _ in range(rounds) for c in candidates for task in c.tasks.values()]
        for candidate, task in progress(turns, len(turns), 'Rounds'):
            if not candidate.row.error:
                with _failures(candidate):
                    task.rates.append(task.measure(wait))
    for candidate in candidates:
        if not candidate.row.error:
            for name, task in candidate.tasks.items():
                setattr(candidate.row, name, median(task.rates))
    rows = [candidate.row for candidate in candidates]
    notes = _notes(device, kind, len(paths), _middle(sizes), rounds)
    title = f'Images a second on {_processor(device)}'
    return Speed(title, rows, notes, write_speed(rows, out / 'speed', title, notes))


@contextmanager
def _failures(candidate: _Candidate) -> Iterator[None]:
    """Turn an exception into the error of a row: other people's metrics fail in many ways."""
    try:
        yield
    except Exception as error:
        candidate.row.error = reason_for(error, '')
        candidate.scorer = None  # frees its memory
        candidate.tasks.clear()


def _readable(images: Any) -> tuple[list[Path], list[tuple[int, int]]]:
    """Find the first images that can be read, and their width and height."""
    paths, sizes, errors = [], [], []
    for path in find_images(images):
        try:
            sizes.append(read_image(path).size)
            paths.append(path)
        except ImageReadError as error:
            errors.append(str(error))
        if len(paths) == MAX_PHOTOGRAPHS:
            break
    if not paths:
        raise AMHPError(f'no image can be read; the first one: {errors[0]}')
    return paths, sizes


def _middle(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the median width and height."""
    return round(median(w for w, _ in sizes)), round(median(h for _, h in sizes))


Plan = tuple[str, str, str | None, dict[str, Any]]  # label, metric, weights, options


def _plans(name: str, weights: str | None) -> list[Plan]:
    """List the rows of a metric."""
    if name != 'amhp' or weights:
        source = weights and (weights if is_hub_id(weights) else Path(weights).name)
        return [(f'{name} ({source})' if source else name, name, weights, {})]
    small = {'backbone': LITE, 'clip_weights': IMAGENET, 'pretrained': 'clip'}
    return [('amhp, ViT-B-16', name, None, {}), (f'amhp, {LITE}', name, None, small)]


def _build(plan: Plan, device: str, problem: str) -> _Candidate:
    """Build a metric with its weights, or with random ones if they cannot be had."""
    label, name, weights, options = plan
    row = SpeedRow(label, 'its own')
    precision = default_precision(arch_of(name), device)  # as `amhp score` chooses it
    extra = {'precision': precision} if precision else {}
    if options:
        row.weights = 'ImageNet'
    try:
        return _Candidate(row, Scorer(create_metric(name, weights, device, **options, **extra)))
    except Exception as error:
        row.error = reason_for(error, problem)
        if weights:
            return _Candidate(row)
    try:
        bare = {key: value for key, value in options.items() if key == 'backbone'}
        scorer = Scorer(create_untrained(name, device, **bare, **extra))
    except Exception as error:
        row.error = f'{row.error}; without weights: {reason_for(error, problem)}'
        return _Candidate(row)
    row.weights, row.note, row.error = 'random', row.error, ''
    return _Candidate(row, scorer)


def _prepare(
    candidate: _Candidate,
    device: str,
    paths: Sequence[Path],
    size: tuple[int, int],
    seconds: float,
    wait: Callable[[], object],
) -> None:
    """Warm a metric up, and find out how often each of its tasks has to be called in a round."""
    scorer, row = candidate.scorer, candidate.row
    if scorer is None:
        return
    if side := SIDES.get(type(scorer.net).__name__):
        size = (side(scorer.net),) * 2
    width, height = size
    row.width, row.height = size
    kind = torch.device(device).type

    def network(batch: int) -> _Task:
        x = torch.rand(batch, 3, height, width, device=device)
        task = {'task_': scorer.task} if scorer.task else {}

        def call() -> None:
            with torch.inference_mode():
                if scorer.amhp:
                    scorer.amhp.predict(x, [''] * batch)
                else:
                    scorer.net(x, **task)

        return _Task(call, batch)

    candidate.tasks['one'] = network(1)
    rate = best = candidate.tasks['one'].prepare(wait, seconds)
    batch = 2
    while scorer.amhp and batch <= MAX_BATCH.get(kind, MAX_BATCH['cpu']):
        task = network(batch)
        try:
            rate = task.prepare(wait, seconds)
        except torch.cuda.OutOfMemoryError:
            break
        if rate < GAIN * best:
            break
        best, row.batch, candidate.tasks['batches'] = rate, batch, task
        batch *= 2

    # At first as many files as a batch of tensors takes, then as many as fill the time.
    def files(count: int) -> _Task:
        chosen = list(islice(cycle(paths), count))
        return _Task(lambda: _check_scored(score_images(chosen, None, scorer)), count)

    rate = files(min(len(paths), max(8, math.ceil(best)))).prepare(wait, seconds)
    seconds *= FILE_FACTOR.get(kind, 1)
    candidate.tasks['files'] = files(max(8, math.ceil(seconds * rate)))


def _check_scored(results: Any) -> None:
    """Score all files; raise the error of the first one that the metric fails on."""
    for result in results:
        if result.error:
            raise AMHPError(result.error)


def _notes(
    device: str, kind: str, photographs: int, size: tuple[int, int], rounds: int
) -> list[str]:
    """Say how the figures were measured."""
    threads = f', threads of torch: {torch.get_num_threads()}' if kind == 'cpu' else ''
    precision = default_precision('AMHP', device) or 'fp32'
    return [
        f'Device {device}: {_processor(device)}{threads}, torch {version_of("torch")}, '
        f'pyiqa {version_of("pyiqa")}.',
        f'Network: on random tensors. From files: {photographs:,} photographs, median '
        f'{size[0]} x {size[1]}, with the defaults of amhp score (AMHP in {precision}), without '
        'texts.',
        f'Median of {rounds} rounds in turns, after a warm-up.',
    ]


def _wait_for(device: str) -> Callable[[], object]:
    """Return a function that waits until a device has done what it was asked for."""
    kind = torch.device(device).type
    if kind == 'cuda':
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if kind == 'mps' else lambda: None


def _processor(device: str) -> str:
    """Name the GPU, or the processor and the cores that this process may use."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if os.path.exists('/proc/cpuinfo'):
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        name = next((x.partition(': ')[2] for x in lines if x.startswith('model name')), name)
    return f'{usable_cores()} cores of {name}'
