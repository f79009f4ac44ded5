"""Scores of a metric for many images, cached on disk as they come: an interrupted run resumes."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.utils.journal import Journal

Progress = Callable[[Iterable, int, str], Iterable]
GIVE_UP_AFTER = 3  # failed images at the start, if there are no others


@dataclass(frozen=True)
class CachedScore:
    """Score of one image by one metric, as the cache keeps it.

    Attributes:
        score: None if there is none.
        bins: the distribution, () if the metric gives none.
        text: whether a text was used.
        seconds: how long scoring took.
        unreadable: what is wrong with the file, else ``''``.
        failed: what the metric raised, else ``''``.
    """

    score: float | None = None
    bins: tuple[float, ...] = ()
    text: bool = False
    seconds: float = 0.0
    unreadable: str = ''
    failed: str = ''

    @classmethod
    def from_result(cls, result: ScoreResult, seconds: float) -> 'CachedScore':
        """The score of a result that took ``seconds``."""
        return cls(
            score=result.score,
            bins=tuple(result.levels.values()) or result.bins,
            text=result.prompt_source != 'none',
            seconds=seconds,
            unreadable=result.error,
        )


class MetricFailed(Exception):
    """A metric that fails on every image; the text says how."""


class ScoreCache:
    """Scores on disk, by key.

    Args:
        path: the file; it is made when the first score is added.
    """

    def __init__(self, path: Path):
        self._journal = Journal(path)
        self.known: dict[str, CachedScore] = {}
        for line in self._journal.repair(_is_line):
            key, bins = line.pop('key'), tuple(line.pop('bins'))
            self.known[key] = CachedScore(bins=bins, **line)

    def add(self, scores: dict[str, CachedScore]) -> None:
        """Append scores to the file, so that they are there whatever happens next."""
        self.known |= scores
        for _ in self._journal.append({'key': k, **asdict(score)} for k, score in scores.items()):
            pass


def _is_line(value: Any) -> bool:
    """Whether a line of the file is a score under a key."""
    try:
        values = {**value}
        key, bins = values.pop('key'), values.pop('bins')
        score = CachedScore(bins=tuple(bins), **values)
    except (KeyError, TypeError):
        return False
    return type(key) is str and {*map(type, (*score.bins, score.score))} <= {float}


def cache_path(folder: Path, method: str) -> Path:
    """The file of the scores of a method."""
    plain = re.sub(r'[^\w.+-]+', '_', method)
    return folder / f'{plain}-{blake2b(method.encode(), digest_size=3).hexdigest()}.jsonl'


@dataclass(frozen=True)
class ScoringRun:
    """What to score, and how.

    Attributes:
        scorer: the metric.
        paths, texts: N images and their texts, ``''`` where there is none. Only AMHP reads them.
        prompt_source: where AMHP's attribute prompts come from; None: as it is configured.
        batch_size: images for each pass through AMHP.
        title: what the progress bar shows.
    """

    scorer: Scorer
    paths: Sequence[str]
    texts: Sequence[str]
    prompt_source: str | None = None
    batch_size: int = 8
    title: str = ''

    def keys(self) -> list[str]:
        """The key of each score: metric, prompt source, file (path, size, time) and text."""
        source = f' {self.prompt_source}' if self.prompt_source else ''
        fingerprint = self.scorer.fingerprint + source
        texts = self.texts if self.scorer.takes_text else [''] * len(self.paths)
        return [_key(fingerprint, path, t) for path, t in zip(self.paths, texts, strict=True)]


def score_with_cache(run: ScoringRun, cache: ScoreCache, progress: Progress) -> list[CachedScore]:
    """Score the images that the cache does not know yet.

    Files that cannot be read, and failures of the metric, are tried again by the next call.

    Args:
        cache: takes the scores as they come.
        progress: wraps what takes long, as ``tqdm`` does.

    Returns:
        N scores.

    Raises:
        MetricFailed: the metric failed on the first images, all of them.
    """
    keys = run.keys()
    missing = [i for i, key in enumerate(keys) if key not in cache.known]
    found: dict[int, CachedScore] = {}
    size = run.batch_size if run.scorer.amhp else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some metrics look at random crops
        for chunk in progress(_chunks(missing, size), -(-len(missing) // size), run.title):
            scores = _score_batch(run, chunk)
            found |= dict(zip(chunk, scores, strict=True))
            pairs = zip(chunk, scores, strict=True)
            cache.add({keys[i]: score for i, score in pairs if score.score is not None})
            if len(missing) == len(keys):  # with nothing known, it may be that it never works
                _check_works(found.values(), len(missing))
    return [found[i] if i in found else cache.known[key] for i, key in enumerate(keys)]


def median_seconds(scores: Iterable[CachedScore]) -> float | None:
    """The median time of an image, which the first image's warm-up does not change."""
    seconds = [score.seconds for score in scores if score.score is not None]
    return float(np.median(seconds)) if seconds else None


def _check_works(scores: Iterable[CachedScore], images: int) -> None:
    failures = [score.failed for score in scores]
    if all(failures) and len(failures) >= min(GIVE_UP_AFTER, images):
        raise MetricFailed(failures[0])


def _key(fingerprint: str, path: str, text: str) -> str:
    try:
        stat = os.stat(path)
        file = f'{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}'
    except OSError:
        file = path
    return blake2b(f'{fingerprint}\0{file}\0{text}'.encode(), digest_size=16).hexdigest()


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _score_batch(run: ScoringRun, chunk: list[int]) -> list[CachedScore]:
    """Score a batch in one pass; where that fails, each image alone."""
    start = time.perf_counter()
    paths, texts = [run.paths[i] for i in chunk], [run.texts[i] for i in chunk]
    if not run.scorer.takes_text:
        texts = [''] * len(chunk)
    try:
        results = list(
            score_images(
                paths,
                texts,
                run.scorer,
                len(chunk),
                with_bins=True,
                exact=True,
                prompt_source=run.prompt_source,
            )
        )
    except Exception as error:  # other people's metrics fail in many ways
        if len(chunk) > 1:
            return [_score_batch(run, [i])[0] for i in chunk]
        return [CachedScore(failed=f'{type(error).__name__}: {" ".join(str(error).split())}'[:200])]
    seconds = (time.perf_counter() - start) / len(chunk)
    return [CachedScore.from_result(result, seconds) for result in results]
