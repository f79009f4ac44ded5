"""What became of one image, and the row of a table that it is. Imports nothing heavy."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Score:
    """What became of one image.

    Attributes:
        path: as it was given.
        score: on the metric's scale; None where the image could not be read.
        text_source: of AMHP's first-level prompt: ``given``, ``predicted`` or ``none``.
        levels: AMHP's probability of each quality level, by its word.
        bins: another metric's probability of each of its scores, where it was asked for and the
            metric gives one.
        error: why there is no score, else ''.
    """

    path: str
    score: float | None = None
    text_source: str = 'none'
    levels: dict[str, float] = field(default_factory=dict)
    bins: tuple[float, ...] = ()
    error: str = ''


def table_columns(levels: Iterable[str]) -> list[str]:
    """The columns of a table of scores: ``p_<level>`` for each quality level, if there are any."""
    return ['path', 'score', 'text_source', *(f'p_{level}' for level in levels), 'error']


def to_record(row: Score) -> dict[str, Any]:
    """A row of the table: ``path, score, text_source, p_<level> .., error``."""
    levels = {f'p_{level}': p for level, p in row.levels.items()}
    return {
        'path': row.path,
        'score': row.score,
        'text_source': row.text_source,
        **levels,
        'error': row.error,
    }
