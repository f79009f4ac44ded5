"""Scores of image files: read ahead in threads, scored in batches, results as they come."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer

MAX_WORKERS = 16  # more threads only wait for each other: Python runs one at a time


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
    prompt_source: str | None = None,
) -> Iterator[ScoreResult]:
    """Score image files one after the other, in their order, in constant memory.

    Threads read ahead. For AMHP they also resize, images of any sizes go through the encoders in
    one batch, and large JPEGs are decoded at a fraction of their size, which changes a score a
    little (see ``exact``).

    Args:
        paths: image files; any iterable. A file that cannot be read gives a result with an error.
        texts: one for each path, None or ``''`` where there is none. Only AMHP reads them.
        metric: a name, what ``pyiqa.create_metric`` returned, or a ``Scorer``.
        batch_size: images for each pass through AMHP; other metrics get one image at a time,
            in its own size.
        with_bins: ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        exact: decode and resize as a metric call does: the same scores to 1e-5.
        workers: threads that read images; None: as many as the machine has cores, 16 at most.
        max_pixels: images with more are not read; see ``read_image``.
        open_image: what to read for a path that is not the name of a local file: called in the
            reading threads, may raise ``ImageReadError``.
        prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.

    Yields:
        A ``ScoreResult`` for each path.

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
    scorer = metric if isinstance(metric, Scorer) else Scorer(metric)
    quick = scorer.amhp is not None and not exact
    read: Callable = scorer.amhp.preprocess.view_file if scorer.amhp and quick else read_image
    read = partial(read, max_pixels=max_pixels)
    size = batch_size if scorer.amhp else 1
    # What AMHP sees is small; a whole photograph may take 100 MB and more.
    ahead = workers + (size if quick else workers)
    images = _read_ahead(
        read if open_image is None else lambda path: read(open_image(path)),
        _pairs(paths, texts),
        workers,
        ahead,
    )
    return _score_in_batches(images, scorer, size, prompt_source, with_bins)


def _pairs(paths, texts) -> Iterator[tuple[str, str]]:
    """Pairs of path and text, ``''`` for no text."""
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
    results, inputs, texts = [], [], []
    for (path, text), image, error in images:
        results.append(ScoreResult(path, error=error))
        if not error:
            inputs.append(scorer.to_input(image))
            texts.append(text)
        if len(results) == size:
            scored = [result for result in results if not result.error]
            scorer.fill_scores(scored, inputs, texts, prompt_source, with_bins)
            yield from results
            results, inputs, texts = [], [], []
    scored = [result for result in results if not result.error]
    scorer.fill_scores(scored, inputs, texts, prompt_source, with_bins)
    yield from results


def _read_ahead(
    read: Callable[[str], Any], pairs: Iterable[tuple[str, str]], workers: int, ahead: int
) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """``(path, text), image, error`` in their order, up to ``ahead`` of them read in advance."""

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
