"""Results of scoring, their table, and their summary. Imports nothing heavy."""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyiqa_amhp.utils.text import writable

MAX_ERRORS = 5  # errors that a summary keeps
SCORES_SINCE = '0.1.0'
"""The version of this package since which all scores are the same. Raise it when a score changes:
interrupted runs resume, and cached scores are used, only within one such version."""

MIRROR = 'before the crop'
"""How metrics with ``test_flip`` mirror images; version 0.1.0 did it after the crop. Settings of a
run have it for these metrics only, so that other runs of 0.1.0 resume."""


@dataclass
class ScoreResult:
    """Result of scoring one image.

    Attributes:
        path: the path of the image, as it was given.
        score: the score on the metric's scale; None if the image could not be read.
        prompt_source: source of AMHP's attribute prompt: ``given``, ``predicted`` or ``none``.
        levels: AMHP's probability of each quality level, by its word.
        bins: probability of each score of another metric, if it was asked for and the metric has
            such a distribution.
        error: the reason why there is no score, else ``''``.
    """

    path: str
    score: float | None = None
    prompt_source: str = 'none'
    levels: dict[str, float] = field(default_factory=dict)
    bins: tuple[float, ...] = ()
    error: str = ''

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'ScoreResult | None':
        """Convert the dict of ``dataclasses.asdict`` back; None for any other value.

        ``text_source``, the name of ``prompt_source`` before version 0.2.0, is read too.
        """
        try:
            values = {('prompt_source' if k == 'text_source' else k): v for k, v in values.items()}
            result = cls(**{**values, 'bins': tuple(values['bins'])})
            numbers = [*result.levels.values(), *result.bins]
        except (KeyError, TypeError, AttributeError):
            return None
        if result.score is not None:
            numbers.append(result.score)
        words = (result.path, result.prompt_source, result.error)
        valid = all(type(word) is str for word in words) and {*map(type, numbers)} <= {int, float}
        return result if valid else None


def table_columns(levels: Iterable[str], note: str = '') -> list[str]:
    """List the columns of a table of scores.

    Args:
        levels: words of the quality levels, for the columns ``p_<level>``.
        note: note of the weights, for the column ``note``; '' for no such column.
    """
    columns = ['path', 'score', 'prompt_source', *(f'p_{level}' for level in levels)]
    return [*columns, *['note'] * bool(note), 'error']


def to_record(result: ScoreResult, note: str = '') -> dict[str, Any]:
    """Convert a result to a row: ``path, score, prompt_source, p_<level> .., note, error``.

    Names are written as ``writable`` says. Without a note there is no such column.
    """
    return {
        'path': writable(result.path),
        'score': result.score,
        'prompt_source': result.prompt_source,
        **{f'p_{level}': p for level, p in result.levels.items()},
        **({'note': note} if note else {}),
        'error': writable(result.error),
    }


@dataclass
class Summary:
    """Counts of results, and the best ones.

    Attributes:
        count: number of results.
        failed: number of results without a score.
        best: results, best first, then results without a score if there is room for them.
        errors: the first errors.
    """

    count: int = 0
    failed: int = 0
    best: list[ScoreResult] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def summarise(
    results: Iterable[ScoreResult], best: int | None, lower_better: bool = False
) -> Summary:
    """Count results and find the best ones in one pass.

    Args:
        results: results, any iterable.
        best: number of results to keep, also in memory; None: all.
        lower_better: whether a lower score is better.
    """
    summary = Summary()
    unscored: list[ScoreResult] = []

    def scored() -> Iterator[ScoreResult]:
        for result in results:
            summary.count += 1
            if result.score is not None:
                yield result
                continue
            summary.failed += 1
            if len(summary.errors) < MAX_ERRORS:
                summary.errors.append(result.error)
            if best is None or len(unscored) < best:
                unscored.append(result)

    def rank(result: ScoreResult) -> float:
        if result.score is None or math.isnan(result.score):
            return math.inf
        return result.score if lower_better else -result.score

    ranked = sorted(scored(), key=rank) if best is None else heapq.nsmallest(best, scored(), rank)
    summary.best = (ranked + unscored)[:best]
    return summary
