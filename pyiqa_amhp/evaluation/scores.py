"""Scores of many images by one metric, cached on disk so that an interrupted run resumes."""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyiqa_amhp.datasets.raw import Progress
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.utils.journal import Journal

GIVE_UP_AFTER = 3  # images that the metric failed on, if it has scored none


@dataclass(frozen=True)
class CachedScore:
    """Score of one image by one metric, as the cache keeps it.

    Attributes:
        score: the score; None if there is none.
        bins: the distribution, ``()`` if the metric has none.
        text: whether a text was read.
        seconds: time of scoring in seconds.
        unreadable: why the file could not be read, else ``''``.
        failed: error of the metric, else ``''``.
    """

    score: float | None = None
    bins: tuple[float, ...] = ()
    text: bool = False
    seconds: float = 0.0
    unreadable: str = ''
    failed: str = ''

    @classmethod
    def from_result(cls, result: ScoreResult, seconds: float) -> 'CachedScore':
        """Convert a result whose scoring took ``seconds``."""
        return cls(
            score=result.score,
            bins=tuple(result.levels.values()) or result.bins,
            text=result.prompt_source != 'none',
            seconds=seconds,
            unreadable=result.error,
        )


class MetricFailed(Exception):
    """The metric fails on all images; the message is its first error."""


class ScoreCache:
    """Scores on disk.

    Args:
        path: the file; it is made when the first score is added.

    Attributes:
        known: the scores by key.
    """

    def __init__(self, path: Path):
        self._journal = Journal(path)
        self.known: dict[str, CachedScore] = {}
        for line in self._journal.repair(_is_line):
            key, bins = line.pop('key'), tuple(line.pop('bins'))
            self.known[key] = CachedScore(bins=bins, **line)

    def add(self, scores: dict[str, CachedScore]) -> None:
        """Append scores to the file at once, so that an interruption loses none."""
        self.known |= scores
        for _ in self._journal.append({'key': k, **vars(score)} for k, score in scores.items()):
            pass


def _is_line(value: Any) -> bool:
    """Return whether a line of the file holds a key and a valid score."""
    try:
        values = {**value}
        key, bins = values.pop('key'), values.pop('bins')
        score = CachedScore(bins=tuple(bins), **values)
    except (KeyError, TypeError):
        return False
    return type(key) is str and {*map(type, (*score.bins, score.score))} <= {float}


def cache_path(folder: Path, method: str) -> Path:
    """Return the cache file of a method. Its name has a digest, so that it is unique."""
    name = re.sub(r'[^\w.+-]+', '_', method)
    return folder / f'{name}-{blake2b(os.fsencode(method), digest_size=3).hexdigest()}.jsonl'


@dataclass(frozen=True)
class ScoringRun:
    """Images to score with one metric.

    Attributes:
        scorer: the metric.
        paths: N image files.
        texts: N texts, ``''`` for no text. Only AMHP reads them.
        prompt_source: source of AMHP's attribute prompts; None: as AMHP is configured.
        batch_size: images in a batch of AMHP; None: 8, and 256 on a GPU. Other metrics get one
            image at a time.
        title: title of the progress bar.
        max_pixels: limit on the pixels of an image, see ``read_image``.
    """

    scorer: Scorer
    paths: Sequence[str]
    texts: Sequence[str]
    prompt_source: str | None = None
    batch_size: int | None = None
    title: str = ''
    max_pixels: int | None = None

    def keys(self) -> list[str]:
        """Return N keys of scores: digests of metric, prompt source, file and text.

        A file counts by its path, size and time of modification.
        """
        source = f' {self.prompt_source}' if self.prompt_source else ''
        changes = json.dumps(self.scorer.changes) if self.scorer.changes else ''
        fingerprint = self.scorer.fingerprint + source + changes
        texts = self.texts if self.scorer.takes_text else [''] * len(self.paths)
        return [_key(fingerprint, path, t) for path, t in zip(self.paths, texts, strict=True)]


def score_with_cache(run: ScoringRun, cache: ScoreCache, progress: Progress) -> list[CachedScore]:
    """Score the images that are not in the cache.

    The next call tries unreadable files and failures of the metric again.

    Args:
        run: the images and the metric.
        cache: gets the scores as they come.
        progress: shows the progress, as ``tqdm`` does.

    Returns:
        N scores.

    Raises:
        MetricFailed: the metric failed on each of the first images.
    """
    keys = run.keys()
    missing = [i for i, key in enumerate(keys) if key not in cache.known]
    new: dict[int, CachedScore] = {}
    size = (run.batch_size or run.scorer.batch_size) if run.scorer.amhp else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some metrics use random crops
        batches = _score_batches(run, missing, size)
        for _ in progress(_chunks(missing, size), -(-len(missing) // size), run.title):
            scores = next(batches)
            new |= scores
            cache.add({keys[i]: score for i, score in scores.items() if score.score is not None})
            if len(missing) == len(keys):  # the metric has never scored an image
                _check_works(new.values(), len(missing))
    return [new[i] if i in new else cache.known[key] for i, key in enumerate(keys)]


def median_seconds(scores: Iterable[CachedScore]) -> float | None:
    """Return the median time of an image; the slow first image hardly changes it."""
    seconds = [score.seconds for score in scores if score.score is not None]
    return float(np.median(seconds)) if seconds else None


def _check_works(scores: Iterable[CachedScore], images: int) -> None:
    """Raise ``MetricFailed`` if the metric failed on the first images."""
    failures = [score.failed for score in scores]
    if all(failures) and len(failures) >= min(GIVE_UP_AFTER, images):
        raise MetricFailed(failures[0])


def _key(fingerprint: str, path: str, text: str) -> str:
    try:
        stat = os.stat(path)
        file = f'{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}'
    except OSError:
        file = path
    key = f'{fingerprint}\0{file}\0{text}'
    return blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _score_batches(
    run: ScoringRun, missing: list[int], size: int
) -> Iterator[dict[int, CachedScore]]:
    """Score the images ``missing`` in batches; on a GPU in one go, whose reading does not stop.

    If a batch fails there, it and the later ones are scored one by one.
    """
    results = _score(run, missing, size) if run.scorer.on_gpu else None
    for chunk in _chunks(missing, size):
        start = time.perf_counter()
        batch: list[ScoreResult] = []
        if results is not None:
            try:
                batch = list(islice(results, len(chunk)))
            except Exception:
                results = None
        if results is None:
            yield dict(zip(chunk, _score_batch(run, chunk), strict=True))
            continue
        seconds = (time.perf_counter() - start) / len(chunk)
        scores = (CachedScore.from_result(result, seconds) for result in batch)
        yield dict(zip(chunk, scores, strict=True))


def _score(run: ScoringRun, chunk: list[int], size: int) -> Iterator[ScoreResult]:
    texts = [run.texts[i] if run.scorer.takes_text else '' for i in chunk]
    return score_images(
        [run.paths[i] for i in chunk],
        texts,
        run.scorer,
        size,
        with_bins=True,
        exact=True,
        prompt_source=run.prompt_source,
        max_pixels=run.max_pixels,
    )


def _score_batch(run: ScoringRun, chunk: list[int]) -> list[CachedScore]:
    """Score a batch in one pass. If that fails, score each image alone."""
    start = time.perf_counter()
    try:
        results = list(_score(run, chunk, len(chunk)))
    except Exception as error:  # other people's metrics fail in many ways
        if len(chunk) > 1:
            return [_score_batch(run, [i])[0] for i in chunk]
        return [CachedScore(failed=f'{type(error).__name__}: {" ".join(str(error).split())}'[:200])]
    seconds = (time.perf_counter() - start) / len(chunk)
    return [CachedScore.from_result(result, seconds) for result in results]
