"""Scores of image files, which threads read ahead and the metric scores in batches."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.inputs import ImageInput, one_or_many, one_text_each, to_batch
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.utils.text import given_text

MAX_WORKERS = 16  # more threads only wait for Python's lock


def score_images(
    paths: ImageInput | Iterable[ImageInput],
    texts: str | Iterable[str | None] | None = None,
    metric: str | torch.nn.Module | Scorer = 'amhp',
    batch_size: int = 8,
    with_bins: bool = False,
    exact: bool = False,
    workers: int | None = None,
    open_image: Callable[[str], str | IO[bytes]] | None = None,
    prompt_source: str | None = None,
    **reading: Any,
) -> Iterator[ScoreResult]:
    """Score images in their order, in constant memory.

    Threads read ahead. For AMHP they also resize the images, so that images of any size share a
    batch. They decode large JPEGs at a fraction of their size, which changes scores slightly (see
    ``exact``).

    Args:
        paths: images, any iterable, in any mixture: paths, bytes, open binary files, Pillow
            images, or tensors ``(3, H, W)`` or ``(1, 3, H, W)`` with values in [0, 1]; or a tensor
            ``(N, 3, H, W)``. One of them that is not in an iterable is one image. An image that
            cannot be read gets a result with an error.
        texts: a text for each image, None or ``''`` for no text; a string for one image. Only AMHP
            reads them.
        metric: a name, a metric that ``pyiqa.create_metric`` returned, or a ``Scorer``.
        batch_size: images in a batch of AMHP. Other metrics get one image at a time, in its own
            size.
        with_bins: whether to ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        exact: whether to decode and resize as a metric call does, for equal scores to 1e-5.
        workers: threads that read images. None: one for each core, at most 16.
        open_image: opens a path that is not a local file. Reading threads call it, and it may
            raise ``ImageReadError``.
        prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.
        **reading: options of ``read_image``: ``max_pixels`` (a limit on the pixels of an image) and
            ``color_profiles`` (None: as ``metric`` says).

    Yields:
        A result for each image. ``path`` is that of its file, ``''`` for images in memory.

    Raises:
        AMHPError: there are not as many texts as images, or the batch size or the number of
            workers is below 1.
        TypeError: something that is no image, or an unknown option.
    """
    if unknown := reading.keys() - {'max_pixels', 'color_profiles'}:
        raise TypeError(f'score_images: unknown option {", ".join(sorted(unknown))}')
    if batch_size < 1:
        raise AMHPError(f'batch size {batch_size}: expected 1 or more')
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    if workers < 1:
        raise AMHPError(f'{workers} workers: expected 1 or more')
    images = one_or_many(paths)
    count = len(images) if isinstance(images, Sized) else None
    texts = one_text_each(texts, count)
    if count is not None and isinstance(texts, Sized) and count != len(texts):
        raise AMHPError(f'{len(texts)} texts for {count} images: give one for each')
    scorer = metric if isinstance(metric, Scorer) else Scorer(metric)
    if reading.get('color_profiles') is None:
        reading['color_profiles'] = scorer.color_profiles
    # The input of AMHP is small, but a whole photograph may take 100 MB and more.
    read_file: Callable[..., Any]
    if scorer.amhp and not exact:
        read_file, ahead = scorer.amhp.preprocess.view_file, workers + batch_size
    else:
        read_file, ahead = read_image, 2 * workers

    def read(image: ImageInput) -> Any:
        if isinstance(image, torch.Tensor):
            return to_batch(image)
        if open_image is not None and isinstance(image, str | Path):
            image = open_image(os.fspath(image))
        return read_file(image, **reading)

    size = batch_size if scorer.amhp else 1
    images_ahead = _read_ahead(read, _pairs(images, texts), workers, ahead)
    return _score_in_batches(images_ahead, scorer, size, prompt_source, with_bins)


def _pairs(
    images: Iterable[ImageInput], texts: Iterable[str | None] | None
) -> Iterator[tuple[ImageInput, str]]:
    """Pair each image with its text, ``''`` for no text."""
    if texts is None:
        yield from ((image, '') for image in images)
        return
    try:
        for image, text in zip(images, texts, strict=True):
            yield image, given_text(text)
    except ValueError as error:
        raise AMHPError(f'not as many texts as images ({error}): give one for each') from error


def _score_in_batches(
    images: Iterable[tuple[tuple[ImageInput, str], Any, str]],
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
        for (source, text), image, error in islice(images, size):
            path = os.fspath(source) if isinstance(source, str | Path) else ''
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
    read: Callable[[ImageInput], Any],
    pairs: Iterable[tuple[ImageInput, str]],
    workers: int,
    ahead: int,
) -> Iterator[tuple[tuple[ImageInput, str], Any, str]]:
    """Yield ``(source, text), image, error`` in order, and read up to ``ahead`` images early."""

    def attempt(source: ImageInput) -> tuple[Any, str]:
        try:
            return read(source), ''
        except ImageReadError as error:
            return None, str(error)

    pool = ThreadPoolExecutor(workers, thread_name_prefix='amhp-read')
    waiting: deque[tuple[tuple[ImageInput, str], Future]] = deque()
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
