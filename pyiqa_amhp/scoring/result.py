"""Results of scoring, and what a list of them comes to. Imports nothing heavy."""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_ERRORS = 5  # reasons that a summary keeps
SCORES_SINCE = '0.1.0'
"""The version of this package since which all scores are the same. Raise it where one changes:
results of an interrupted run, and cached scores, are used only within one such version."""


@dataclass
class ScoreResult:
    """Result of scoring one image.

    Attributes:
        path: the image, as it was given.
        score: on the metric's scale; None where the image could not be read.
        prompt_source: where AMHP's attribute prompt came from: ``given``, ``predicted`` or
            ``none``.
        levels: AMHP's probability of each quality level, by its word.
        bins: another metric's probability of each of its scores, where it was asked for and the
            metric has one.
        error: why there is no score, else ``''``.
    """

    path: str
    score: float | None = None
    prompt_source: str = 'none'
    levels: dict[str, float] = field(default_factory=dict)
    bins: tuple[float, ...] = ()
    error: str = ''

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'ScoreResult | None':
        """Read what ``dataclasses.asdict`` gave; None for anything else.

        ``text_source``, as ``prompt_source`` was called before version 0.2.0, is read too.
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


def table_columns(levels: Iterable[str]) -> list[str]:
    """The columns of a table of scores: ``p_<level>`` for each quality level, if there are any."""
    return ['path', 'score', 'prompt_source', *(f'p_{level}' for level in levels), 'error']


def to_record(result: ScoreResult) -> dict[str, Any]:
    """A row of the table: ``path, score, prompt_source, p_<level> .., error``."""
    return {
        'path': result.path,
        'score': result.score,
        'prompt_source': result.prompt_source,
        **{f'p_{level}': p for level, p in result.levels.items()},
        'error': result.error,
    }


@dataclass
class Summary:
    """Counts of a list of results, and its best ones.

    Attributes:
        count, failed: how many results, and how many of them without a score.
        best: results, best first; failed ones follow where all were asked for.
        errors: the first few reasons.
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
        best: how many to keep, in memory too; None: all of them.
        lower_better: whether a lower score is a better one.
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
