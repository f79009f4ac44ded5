"""Phrases and numbers of explanations, the same in the terminal, on cards and on the pages."""

from pyiqa_amhp.explain.explanation import Explanation

SOURCES = {
    'given': 'Scored with the given text',
    'predicted': 'Scored with a text that the model predicted',
    'none': 'Scored from the image alone, without a text',
}


def source_line(explanation: Explanation) -> str:
    """Say where the attribute prompt came from."""
    line = SOURCES[explanation.prompt_source]
    as_words = explanation.text or explanation.prompt_source == 'none'
    return line if as_words else line + ' (as a feature, not in words)'


def scale_line(explanation: Explanation) -> str:
    """Say what the scale is, as in ``on a scale from 1 to 10``."""
    return f'on a scale from {explanation.scale[0]:g} to {explanation.scale[1]:g}'


def attributes_line(explanation: Explanation) -> str:
    """Say where the levels of the attributes come from."""
    if explanation.attributes_from == 'trained':
        return 'as the model learned from labels'
    return 'predicted zero-shot, not learned from labels'


def format_change(change: float | None, explanation: Explanation) -> str:
    """Format a change of the score with its sign, in the digits of the scale; '–' for None."""
    if change is None:
        return '–'
    digits = score_digits(explanation)
    text = f'{change:+.{digits}f}'.replace('-', '−')
    return text if float(f'{abs(change):.{digits}f}') else f'±{0:.{digits}f}'


def format_score(explanation: Explanation, score: float | None = None) -> str:
    """Format a score in the digits of the scale; by default the score of the explanation."""
    score = explanation.score if score is None else score
    return f'{score:.{score_digits(explanation)}f}'


def score_digits(explanation: Explanation) -> int:
    """Count the digits behind the point that suit the scale."""
    return 2 if explanation.scale[1] - explanation.scale[0] > 2 else 3


def largest_move(explanation: Explanation) -> float:
    """Find the largest change by another level of an attribute, for the length of bars."""
    changes = [change for a in explanation.attributes for change in (a.up, a.down)]
    return _largest(changes, explanation)


def largest_effect(explanation: Explanation) -> float:
    """Find the largest effect of a word, for the depth of colours."""
    return _largest([word.effect for word in explanation.words], explanation)


def _largest(changes: list[float | None], explanation: Explanation) -> float:
    """Find the largest size of a change, and at least one hundredth of the scale.

    Without the bound, changes of almost nothing would be drawn as large ones.
    """
    bound = 0.01 * (explanation.scale[1] - explanation.scale[0])
    return max([bound, *(abs(change) for change in changes if change is not None)])


def strongest_moves(explanation: Explanation, count: int = 3) -> list[tuple[str, float]]:
    """List the changes of one level that move the score most, as in ``('light up', 0.31)``."""
    moves = [
        (f'{a.name.replace("_", " ")} {way}', change)
        for a in explanation.attributes
        for way, change in (('up', a.up), ('down', a.down))
        if change is not None
    ]
    return sorted(moves, key=lambda move: -abs(move[1]))[:count]
