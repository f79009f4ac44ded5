"""Scores of a metric for many images, kept on disk as they come: an interrupted run goes on."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pyiqa_amhp.scoring.scorer import Score, score_images
from pyiqa_amhp.utils.files import writing_to

Progress = Callable[[Iterable, int, str], Iterable]
GIVE_UP_AFTER = 3  # images at the start, all of which the metric failed on


@dataclass(frozen=True)
class Judged:
    """What a metric made of one image.

    Attributes:
        score: None if there is none. bins: its distribution, () if it gives none.
        text: whether a text was used. seconds: how long it took.
        unreadable: what is wrong with the file. failed: what the metric raised.
    """

    score: float | None = None
    bins: tuple[float, ...] = ()
    text: bool = False
    seconds: float = 0.0
    unreadable: str = ''
    failed: str = ''


class MetricFailed(Exception):
    """A metric that fails on everything; the text says how."""


@dataclass
class Journal:
    """Scores on disk, one JSON line each; a line that an interruption cut is passed over.

    Attributes:
        path: the file. It is made when the first score is added.
        known: scores by key.
    """

    path: Path
    known: dict[str, Judged] = field(default_factory=dict)

    def __post_init__(self):
        self._cut = False
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding='utf-8', errors='replace')
        self._cut = bool(text) and not text.endswith('\n')
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                key, bins = entry.pop('key'), tuple(entry.pop('bins'))
                judged = Judged(bins=bins, **entry)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if type(key) is str and {*map(type, (*bins, judged.score))} <= {float}:
                self.known[key] = judged

    def add(self, entries: dict[str, Judged]) -> None:
        """Append scores to the file, so that they are there whatever happens next."""
        if not entries:
            return
        self.known |= entries
        lines = [json.dumps({'key': key, **asdict(judged)}) for key, judged in entries.items()]
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open('a', encoding='utf-8') as file:
                file.write('\n' * self._cut + '\n'.join(lines) + '\n')
        self._cut = False


def journal_path(folder: Path, method: str) -> Path:
    """Where the scores of a method are kept."""
    plain = re.sub(r'[^\w.+-]+', '_', method)
    return folder / f'{plain}-{blake2b(method.encode(), digest_size=3).hexdigest()}.jsonl'


def judge_images(
    metric,
    paths: list[str],
    texts: list[str],
    journal: Journal,
    fingerprint: str,
    progress: Progress,
    what: str,
    batch_size: int = 8,
) -> list[Judged]:
    """Judge images, those that the journal does not know yet.

    Args:
        metric: what ``pyiqa.create_metric`` gave.
        paths, texts: one each; '' where there is no text. Only AMHP reads them.
        journal: takes scores as they come; files that cannot be read and failures are tried
            again next time.
        fingerprint: of the metric; with the file's path, size and time and the text it makes the
            key of a score.
        progress: wraps what takes long, as ``tqdm`` does. what: its title.
        batch_size: images for each pass through AMHP.

    Raises:
        MetricFailed: the metric failed on the first images, all of them.
    """
    reads_text = hasattr(metric.net, 'attribute_prompt') and metric.net.config.uses_attributes
    texts = texts if reads_text else [''] * len(paths)
    keys = [_key(fingerprint, path, text) for path, text in zip(paths, texts, strict=True)]
    left = [i for i, key in enumerate(keys) if key not in journal.known]
    found: dict[int, Judged] = {}
    size = batch_size if hasattr(metric.net, 'attribute_prompt') else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some metrics look at random crops
        for chunk in progress(_chunks(left, size), -(-len(left) // size), what):
            judged = _judge(metric, [(paths[i], texts[i]) for i in chunk])
            found |= dict(zip(chunk, judged, strict=True))
            pairs = zip(chunk, judged, strict=True)
            journal.add({keys[i]: j for i, j in pairs if j.score is not None})
            if len(left) == len(paths):  # with nothing known, it may be that it never works
                _check_works(found.values(), len(left))
    return [found[i] if i in found else journal.known[key] for i, key in enumerate(keys)]


def _check_works(judged: Iterable[Judged], images: int) -> None:
    failed = [j.failed for j in judged]
    if all(failed) and len(failed) >= min(GIVE_UP_AFTER, images):
        raise MetricFailed(failed[0])


def typical_seconds(judged: Iterable[Judged]) -> float | None:
    """The median, which the first image's warming up does not move."""
    seconds = [j.seconds for j in judged if j.score is not None]
    return float(np.median(seconds)) if seconds else None


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


def _judge(metric, batch: list[tuple[str, str]]) -> list[Judged]:
    """One pass; where it fails, each image for itself."""
    start = time.perf_counter()
    paths, texts = [path for path, _ in batch], [text for _, text in batch]
    try:
        rows = list(score_images(paths, texts, metric, len(batch), with_bins=True, exact=True))
    except Exception as error:
        if len(batch) > 1:
            return [_judge(metric, [pair])[0] for pair in batch]
        return [Judged(failed=f'{type(error).__name__}: {" ".join(str(error).split())}'[:200])]
    seconds = (time.perf_counter() - start) / len(batch)
    return [_judged(row, seconds) for row in rows]


def _judged(row: Score, seconds: float) -> Judged:
    return Judged(
        score=row.score,
        bins=tuple(row.levels.values()) or row.bins,
        text=row.text_source != 'none',
        seconds=seconds,
        unreadable=row.error,
    )
