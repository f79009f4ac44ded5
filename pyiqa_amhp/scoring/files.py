"""Scores of image files, which threads or processes read ahead and the metric scores in batches."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.inputs import ImageInput, one_or_many, one_text_each, to_batch
from pyiqa_amhp.scoring.processes import (
    MAX_PROCESSES,
    Batch,
    Pair,
    Reader,
    choose_processes,
    read_in_processes,
)
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.utils.environment import usable_cores
from pyiqa_amhp.utils.text import given_text
from pyiqa_amhp.weights.checkpoint import weights_at_rest

MAX_WORKERS = 16  # more threads only wait for Python's lock


def score_images(
    paths: ImageInput | Iterable[ImageInput],
    texts: str | Iterable[str | None] | None = None,
    metric: str | torch.nn.Module | Scorer = 'amhp',
    batch_size: int | None = None,
    with_bins: bool = False,
    exact: bool = False,
    workers: int | None = None,
    open_image: Callable[[str], str | IO[bytes]] | None = None,
    prompt_source: str | None = None,
    processes: bool | None = None,
    **reading: Any,
) -> Iterator[ScoreResult]:
    """Score images in their order, in constant memory.

    Threads read ahead. For AMHP they also resize the images, so that images of any size share a
    batch. They decode large JPEGs at a fraction of their size, which changes scores slightly (see
    ``exact``). For an AMHP on a GPU and many files, processes read in the place of threads.

    Args:
        paths: images, any iterable, in any mixture: paths, bytes, open binary files, Pillow
            images, or tensors ``(3, H, W)`` or ``(1, 3, H, W)`` with values in [0, 1]; or a tensor
            ``(N, 3, H, W)``. One of them that is not in an iterable is one image. An image that
            cannot be read gets a result with an error.
        texts: a text for each image, None or ``''`` for no text; a string for one image. Only AMHP
            reads them.
        metric: a name, a metric that ``pyiqa.create_metric`` returned, or a ``Scorer``.
        batch_size: images in a batch of AMHP; None: 8, and 256 on a GPU. Other metrics get one
            image at a time, in its own size.
        with_bins: whether to ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        exact: whether to decode and resize as a metric call does, for equal scores to 1e-5.
        workers: threads or processes that read images. None: one for each core, at most 16 threads
            or 32 processes.
        open_image: opens a path that is not a local file. Reading threads call it, and it may
            raise ``ImageReadError``.
        prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.
        processes: whether processes read the images, which must be paths, for an AMHP. None: on a
            GPU, for a list of 512 paths or more, where processes can be forked (Linux).
        **reading: options of ``read_image``: ``max_pixels`` (a limit on the pixels of an image) and
            ``color_profiles`` (None: as ``metric`` says).

    Yields:
        A result for each image. ``path`` is that of its file, ``''`` for images in memory.

    Raises:
        AMHPError: there are not as many texts as images, the batch size or the number of workers
            is below 1, processes cannot read these images, or the GPU has too little memory.
        TypeError: something that is no image, or an unknown option.
    """
    if unknown := reading.keys() - {'max_pixels', 'color_profiles'}:
        raise TypeError(f'score_images: unknown option {", ".join(sorted(unknown))}')
    if batch_size is not None and batch_size < 1:
        raise AMHPError(f'batch size {batch_size}: expected 1 or more')
    if workers is not None and workers < 1:
        raise AMHPError(f'{workers} workers: expected 1 or more')
    images = one_or_many(paths)
    count = len(images) if isinstance(images, Sized) else None
    texts = one_text_each(texts, count)
    if count is not None and isinstance(texts, Sized) and count != len(texts):
        raise AMHPError(f'{len(texts)} texts for {count} images: give one for each')
    scorer = metric if isinstance(metric, Scorer) else Scorer(metric)
    if reading.get('color_profiles') is None:
        reading['color_profiles'] = scorer.color_profiles
    size = (batch_size or scorer.batch_size) if scorer.amhp else 1
    pairs = _pairs(images, texts)
    batches: Generator[Batch]
    if number := _processes(images, scorer, exact, workers, processes, open_image, reading):
        reader = _reader(scorer, exact, reading)
        batches = read_in_processes(pairs, reader, size, number, scorer.on_gpu)
    else:
        workers = workers or min(os.cpu_count() or 1, MAX_WORKERS)
        batches = _read_in_threads(pairs, scorer, size, workers, exact, open_image, reading)
    return _score_batches(batches, scorer, prompt_source, with_bins)


def _reader(scorer: Scorer, exact: bool, reading: dict[str, Any]) -> Reader:
    assert scorer.amhp
    return Reader.on_cpu(scorer.amhp.preprocess, exact, reading)


def _processes(
    images: Iterable[ImageInput],
    scorer: Scorer,
    exact: bool,
    workers: int | None,
    wanted: bool | None,
    open_image: object,
    reading: dict[str, Any],
) -> int:
    """Return how many processes read images; 0: threads read them."""
    if wanted and (scorer.amhp is None or open_image is not None):
        what = 'open_image' if scorer.amhp else f'metric {scorer.name!r}'
        raise AMHPError(f'processes=True: not with {what}; processes read files for AMHP')
    if wanted:
        return workers or min(usable_cores(), MAX_PROCESSES)
    if wanted is False or scorer.amhp is None or open_image is not None:
        return 0
    device = scorer.amhp.logit_scale.device
    return choose_processes(images, _reader(scorer, exact, reading), device, workers)


def _pairs(images: Iterable[ImageInput], texts: Iterable[str | None] | None) -> Iterator[Pair]:
    """Pair each image with its text, ``''`` for no text."""
    if texts is None:
        yield from ((image, '') for image in images)
        return
    try:
        for image, text in zip(images, texts, strict=True):
            yield image, given_text(text)
    except ValueError as error:
        raise AMHPError(f'not as many texts as images ({error}): give one for each') from error


def _score_batches(
    batches: Generator[Batch], scorer: Scorer, prompt_source: str | None, with_bins: bool
) -> Iterator[ScoreResult]:
    """Score batches. Results of a GPU are read one batch late, while it computes the next one."""
    waiting: deque[tuple[list[ScoreResult], Callable[[], None]]] = deque()
    samples: dict[tuple, bytes] = {}

    def finish() -> list[ScoreResult]:
        results, fill = waiting.popleft()
        fill()
        return results

    try:
        for pairs, inputs, errors in batches:
            results, texts = [], []
            for (source, text), error in zip(pairs, errors, strict=True):
                path = os.fspath(source) if isinstance(source, str | Path) else ''
                results.append(ScoreResult(path, error=error))
                texts += [] if error else [text]
            readable = [result for result in results if not result.error]
            with weights_at_rest(samples) if scorer.on_gpu else nullcontext():
                fill = scorer.start_scores(readable, inputs, texts, prompt_source, with_bins)
            waiting.append((results, fill))
            if not scorer.on_gpu or len(waiting) > 1:
                yield from finish()
    except Exception:  # of a later batch: the one before it is complete
        while waiting:
            yield from finish()
        raise
    finally:
        batches.close()  # at once, also while the traceback of an error holds it
    while waiting:
        yield from finish()


def _read_in_threads(
    pairs: Iterable[Pair],
    scorer: Scorer,
    size: int,
    workers: int,
    exact: bool,
    open_image: Callable[[str], str | IO[bytes]] | None,
    reading: dict[str, Any],
) -> Generator[Batch]:
    """Read images in batches of ``size``, to which unreadable images count too."""
    # The input of AMHP is small, but a whole photograph may take 100 MB and more.
    read_file: Callable[..., Any]
    if scorer.amhp and not exact:
        read_file, ahead = scorer.amhp.preprocess.view_file, workers + size
    else:
        read_file, ahead = read_image, 2 * workers

    def read(image: ImageInput) -> Any:
        if isinstance(image, torch.Tensor):
            return to_batch(image)
        if open_image is not None and isinstance(image, str | Path):
            image = open_image(os.fspath(image))
        return read_file(image, **reading)

    images = _read_ahead(read, pairs, workers, ahead)
    while True:
        batch: Batch = [], [], []
        for pair, image, error in islice(images, size):
            batch[0].append(pair)
            batch[2].append(error)
            if not error:
                batch[1].append(scorer.to_input(image))  # at once: photographs are large
        if not batch[0]:
            return
        yield batch


def _read_ahead(
    read: Callable[[ImageInput], Any],
    pairs: Iterable[Pair],
    workers: int,
    ahead: int,
) -> Iterator[tuple[Pair, Any, str]]:
    """Yield ``(source, text), image, error`` in order, and read up to ``ahead`` images early."""

    def attempt(source: ImageInput) -> tuple[Any, str]:
        try:
            return read(source), ''
        except ImageReadError as error:
            return None, str(error)

    pool = ThreadPoolExecutor(workers, thread_name_prefix='amhp-read')
    waiting: deque[tuple[Pair, Future]] = deque()
    try:
        for pair in pairs:
            waiting.append((pair, pool.submit(attempt, pair[0])))
            if len(waiting) > ahead:
                pair, future = waiting.popleft()
                yield pair, *future.result()
        while waiting:
            pair, future = waiting.popleft()
            yield pair, *future.result()
    finally:
        pool.shutdown(cancel_futures=True)
