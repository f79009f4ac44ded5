"""Scores of image files: read ahead in threads, judged in batches, rows as they come."""

import inspect
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import torch
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.scoring.result import Score
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.weights.checkpoint import digest_tensor, safe_load

OUR_ARCHS = ('AMHP', 'TANet')  # they read weights without running anything
MAX_WORKERS = 16  # more threads only wait for each other: Python runs one at a time


def create_metric(
    name: str = 'amhp', weights: str | None = None, device: str | None = None, **options
):
    """``pyiqa.create_metric`` for a no-reference metric, with errors that say what to do.

    Args:
        name: any no-reference metric of pyiqa, ours among them.
        weights: a checkpoint, for ``pretrained_model_path``.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        **options: of AMHP; those that are None are left out.

    Raises:
        AMHPError: no such metric, one that needs a reference image or has no such options, or
            weights that do not load or, for pyiqa's metrics too, that could run code.
    """
    import pyiqa

    known = pyiqa.list_models('NR')
    if name not in known:
        reason = 'needs a reference image' if name in pyiqa.list_models() else 'is not known'
        raise AMHPError(f'metric {name!r} {reason}; no-reference metrics: {", ".join(known)}')
    options = {key: value for key, value in options.items() if value is not None}
    if options and arch_of(name) != 'AMHP':
        raise AMHPError(f'metric {name!r} has no {", ".join(options)}; only AMHP has')
    if weights is not None:
        if arch_of(name) not in OUR_ARCHS and Path(weights).suffix != '.mat':
            safe_load(weights, by_torch=True)  # pyiqa would run code that is in it
        options['pretrained_model_path'] = str(weights)
    return pyiqa.create_metric(name, device=device, **options)


def arch_of(name: str) -> str | None:
    """The arch behind a metric of pyiqa; None for a name that it does not know."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    return DEFAULT_CONFIGS[name]['metric_opts']['type'] if name in DEFAULT_CONFIGS else None


def score_scale(metric) -> str:
    """The ends of the metric's scale: of the votes, or of levels that are the user's own."""
    config = getattr(metric.net, 'config', None)
    if not isinstance(config, AMHPConfig):
        return str(metric.score_range or 'not stated').replace(', ', '..')
    low, high = scale_ends(metric)
    return f'{low:g}..{high:g}'


def scale_ends(metric) -> tuple[float, float] | None:
    """The same as numbers; None where an end is open or not stated. pyiqa's ``~1`` is 1."""
    config = getattr(metric.net, 'config', None)
    if isinstance(config, AMHPConfig):
        scale, values = SCALES[config.dataset], config.level_values
        ends = scale.vote_values if values == scale.level_values else values
        return ends[0], ends[-1]
    number = r'~?(-?\d+(?:\.\d+)?)'
    stated = re.fullmatch(rf'{number}, *{number}', str(metric.score_range))
    return stated and (float(stated[1]), float(stated[2]))


def level_words(metric) -> tuple[str, ...]:
    """The words of AMHP's quality levels, worst first; none for another metric."""
    config = getattr(metric.net, 'config', None)
    return config.levels if isinstance(config, AMHPConfig) else ()


def score_images(
    paths: Iterable[str | Path],
    texts: Iterable[str | None] | None = None,
    metric='amhp',
    batch_size: int = 8,
    with_bins: bool = False,
    exact: bool = False,
    workers: int | None = None,
    max_pixels: int | None = None,
    open_image: Callable[[str], str | IO[bytes]] | None = None,
) -> Iterator[Score]:
    """Score image files one after the other, in their order, in constant memory.

    Threads read ahead. For AMHP they also resize, images of any sizes go through the encoders in
    one batch, and large JPEGs are decoded at a fraction of their size, which moves a score by
    a little (see ``exact``).

    Args:
        paths: image files; any iterable. One that cannot be read gives a row with an error.
        texts: one for each path, None or '' where there is none. Only AMHP reads them.
        metric: a name, or what ``pyiqa.create_metric`` gave.
        batch_size: images for each pass through AMHP; other metrics get one image at a time,
            at its own size.
        with_bins: ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        exact: decode and resize as a metric call does: the same scores to 1e-5.
        workers: threads that read images; None: as many as the machine has cores, 16 at most.
        max_pixels: of an image; see ``read_image``.
        open_image: what to read for a path, where it is not the name of a local file: called in
            the reading threads, may raise ``ImageReadError``.

    Yields:
        A ``Score`` for each path.

    Raises:
        AMHPError: not as many texts as paths, or a batch size or workers below 1.
    """
    if batch_size < 1:
        raise AMHPError(f'batch size {batch_size}: expected 1 or more')
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    if workers < 1:
        raise AMHPError(f'{workers} workers: expected 1 or more')
    if isinstance(paths, Sized) and isinstance(texts, Sized) and len(paths) != len(texts):
        raise AMHPError(f'{len(texts)} texts for {len(paths)} images: give one for each')
    if isinstance(metric, str):
        metric = create_metric(metric)
    judge = _Judge(metric, with_bins, exact, max_pixels, open_image)
    return _scores(_pairs(paths, texts), judge, batch_size, workers)


def _pairs(paths, texts) -> Iterator[tuple[str, str]]:
    if texts is None:
        yield from ((os.fspath(path), '') for path in paths)
        return
    try:
        for path, text in zip(paths, texts, strict=True):
            yield os.fspath(path), (text or '').strip()
    except ValueError as error:
        raise AMHPError(f'not as many texts as images ({error}): give one for each') from error


def _scores(work, judge: '_Judge', batch_size: int, workers: int) -> Iterator[Score]:
    size = batch_size if judge.in_batches else 1
    # A view is small; a whole photograph may take 100 MB and more.
    ahead = workers + (size if judge.quick else workers)
    rows, views, texts = [], [], []
    for (path, text), image, error in _read_ahead(judge.read, work, workers, ahead):
        rows.append(Score(path, error=error))
        if not error:
            views.append(judge.prepare(image))
            texts.append(text)
        if len(rows) == size:
            yield from judge.judged(rows, views, texts)
            rows, views, texts = [], [], []
    yield from judge.judged(rows, views, texts)


def _read_ahead(read: Callable[[str], Any], work, workers: int, ahead: int) -> Iterator[tuple]:
    """``(path, text), image, error`` in their order, up to ``ahead`` of them read before."""

    def attempt(path: str):
        try:
            return read(path), ''
        except ImageReadError as error:
            return None, str(error)

    pool = ThreadPoolExecutor(workers, thread_name_prefix='amhp-read')
    try:
        waiting = deque()
        for item in work:
            waiting.append((item, pool.submit(attempt, item[0])))
            if len(waiting) > ahead:
                item, done = waiting.popleft()
                yield item, *done.result()
        while waiting:
            item, done = waiting.popleft()
            yield item, *done.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Judge:
    """How a metric's images are read, and judged."""

    def __init__(self, metric, with_bins: bool, exact: bool, max_pixels: int | None, open_image):
        self.metric, self.net = metric, metric.net
        self.in_batches = hasattr(self.net, 'attribute_prompt')  # AMHP
        self.quick = self.in_batches and not exact
        read = self.net.preprocess.quick_view if self.quick else read_image
        read = partial(read, max_pixels=max_pixels)
        self.read = (lambda path: read(open_image(path))) if open_image else read
        self.with_bins = (
            with_bins and 'return_dist' in inspect.signature(self.net.forward).parameters
        )

    def prepare(self, image) -> torch.Tensor:
        """What was read, as a tensor that can be stacked (AMHP) or judged (other metrics)."""
        if self.quick:
            return torch.from_numpy(image)
        tensor = to_tensor(image)[None]
        if self.in_batches:
            device = next(self.net.parameters()).device
            return self.net.preprocess(tensor.to(device))[0]
        return tensor

    def judged(self, rows: list[Score], views: list[torch.Tensor], texts: list[str]) -> list[Score]:
        """The rows, those without an error with their scores."""
        readable = [row for row in rows if not row.error]
        if not readable:
            return rows
        if self.in_batches:
            self._judge_amhp(readable, torch.stack(views), texts)
        else:
            for row, view in zip(readable, views, strict=True):
                self._judge_other(row, view)
        return rows

    def _judge_amhp(self, rows: list[Score], x: torch.Tensor, texts: list[str]) -> None:
        """One pass for all images of the batch, whatever their sizes were."""
        net = self.net
        if self.quick:
            x = x.to(next(net.parameters()).device).permute(0, 3, 1, 2)
            x = net.preprocess.normalised(x.float() / 255)
        with torch.inference_mode():
            mos, dist = net.predict(x, texts)
        for row, source, score, levels in zip(
            rows, net.prompt_sources(texts), mos[:, 0].tolist(), dist.tolist(), strict=True
        ):
            row.score, row.text_source = score, source
            row.levels = dict(zip(net.config.levels, levels, strict=True))

    def _judge_other(self, row: Score, image: torch.Tensor) -> None:
        if not self.with_bins:
            row.score = float(self.metric(image))
            return
        mos, dist = self.metric(image, return_mos=True, return_dist=True)
        row.score, bins = float(mos), dist.flatten().tolist()
        if len(bins) > 1 and min(bins) >= 0 and abs(sum(bins) - 1) < 1e-3:
            row.bins = tuple(bins)  # else it is one number, or no probabilities


def fingerprint(metric) -> str:
    """What a metric's scores depend on: its name, options, versions, and weights.

    Of each tensor some 4,096 numbers, evenly spaced, count: training changes them all.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = DEFAULT_CONFIGS.get(metric.metric_name, {}).get('metric_opts', {})
    digest = blake2b(digest_size=16)
    versions = [version_of(package) for package in ('pyiqa', 'pyiqa-amhp', 'torch')]
    digest.update(json.dumps([metric.metric_name, versions, options], default=str).encode())
    for name, value in metric.net.state_dict().items():
        digest_tensor(digest, name, value)
    return digest.hexdigest()
