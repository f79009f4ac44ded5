"""Scores of image files, which threads read ahead and the metric scores in batches."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer

MAX_WORKERS = 16  # more threads only wait for Python's lock


def score_images(
    paths: Iterable[str | Path],
    texts: Iterable[str | None] | None = None,
    metric: str | torch.nn.Module | Scorer = 'amhp',
    batch_size: int = 8,
    with_bins: bool = False,
    exact: bool = False,
    workers: int | None = None,
    max_pixels: int | None = None,
    open_image: Callable[[str], str | IO[bytes]] | None = None,
    prompt_source: str | None = None,
) -> Iterator[ScoreResult]:
    """Score image files in their order, in constant memory.

    Threads read ahead. For AMHP they also resize the images, so that images of any size share a
    batch. They decode large JPEGs at a fraction of their size, which changes scores slightly (see
    ``exact``).

    Args:
        paths: image files, any iterable. A file that cannot be read gets a result with an error.
        texts: a text for each path, None or ``''`` for no text. Only AMHP reads them.
        metric: a name, a metric that ``pyiqa.create_metric`` returned, or a ``Scorer``.
        batch_size: images in a batch of AMHP. Other metrics get one image at a time, in its own
            size.
        with_bins: whether to ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        exact: whether to decode and resize as a metric call does, for equal scores to 1e-5.
        workers: threads that read images. None: one for each core, at most 16.
        max_pixels: limit of the pixels of an image, see ``read_image``.
        open_image: opens a path that is not a local file. Reading threads call it, and it may
            raise ``ImageReadError``.
        prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.

    Yields:
        A result for each path.

    Raises:
        AMHPError: there are not as many texts as paths, or the batch size or the number of
            workers is below 1.
    """
    if batch_size < 1:
        raise AMHPError(f'batch size {batch_size}: expected 1 or more')
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    if workers < 1:
        raise AMHPError(f'{workers} workers: expected 1 or more')
    if isinstance(paths, Sized) and isinstance(texts, Sized) and len(paths) != len(texts):
        raise AMHPError(f'{len(texts)} texts for {len(paths)} images: give one for each')
    scorer = metric if isinstance(metric, Scorer) else Scorer(metric)
    # The input of AMHP is small, but a whole photograph may take 100 MB and more.
    read: Callable[..., Any]
    if scorer.amhp and not exact:
        read, ahead = scorer.amhp.preprocess.view_file, workers + batch_size
    else:
        read, ahead = read_image, 2 * workers
    read = partial(read, max_pixels=max_pixels)
    size = batch_size if scorer.amhp else 1
    images = _read_ahead(
        read if open_image is None else lambda path: read(open_image(path)),
        _pairs(paths, texts),
        workers,
        ahead,
    )
    return _score_in_batches(images, scorer, size, prompt_source, with_bins)


def _pairs(
    paths: Iterable[str | Path], texts: Iterable[str | None] | None
) -> Iterator[tuple[str, str]]:
    """Pair each path with its text, ``''`` for no text."""
    if texts is None:
        yield from ((os.fspath(path), '') for path in paths)
        return
    try:
        for path, text in zip(paths, texts, strict=True):
            yield os.fspath(path), (text or '').strip()
    except ValueError as error:
        raise AMHPError(f'not as many texts as images ({error}): give one for each') from error


def _score_in_batches(
    images: Iterable[tuple[tuple[str, str], Any, str]],
    scorer: Scorer,
    size: int,
    prompt_source: str | None,
    with_bins: bool,
) -> Iterator[ScoreResult]:
    """Score images in batches of ``size``, to which unreadable images count too."""
    images = iter(images)
    while True:
        results: list[ScoreResult] = []
        inputs: list[torch.Tensor] = []
        texts: list[str] = []
        for (path, text), image, error in islice(images, size):
            results.append(ScoreResult(path, error=error))
            if not error:
                inputs.append(scorer.to_input(image))  # at once: photographs are large
                texts.append(text)
        if not results:
            return
        readable = [result for result in results if not result.error]
        scorer.fill_scores(readable, inputs, texts, prompt_source, with_bins)
        yield from results


def _read_ahead(
    read: Callable[[str], Any], pairs: Iterable[tuple[str, str]], workers: int, ahead: int
) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """Yield ``(path, text), image, error`` in order, and read up to ``ahead`` images in advance."""

    def attempt(path: str) -> tuple[Any, str]:
        try:
            return read(path), ''
        except ImageReadError as error:
            return None, str(error)

    pool = ThreadPoolExecutor(workers, thread_name_prefix='amhp-read')
    waiting: deque[tuple[tuple[str, str], Future]] = deque()
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
