"""What explanations say in words, the same in the terminal, on cards and on the page."""

from pyiqa_amhp.explain.explanation import Explanation

SOURCES = {
    'given': 'Judged with the text that was given',
    'predicted': 'Judged with a text that the model predicted',
    'none': 'Judged by the image alone, without a text',
}


def source_line(found: Explanation) -> str:
    """What the first-level prompt was."""
    line = SOURCES[found.prompt_source]
    return line if found.text or found.prompt_source == 'none' else line + ', as a feature'


def scale_line(found: Explanation) -> str:
    """``on a scale from 1 to 10``."""
    return f'on a scale from {found.scale[0]:g} to {found.scale[1]:g}'


def attributes_line(found: Explanation) -> str:
    """Whose opinion the attributes are."""
    if found.attributes_from == 'trained':
        return 'as the model learned to tell them'
    return 'a zero-shot opinion, not learned from labels'


def signed(change: float | None, found: Explanation) -> str:
    """A change of the score, in as many digits as the scale needs; '–' for none."""
    if change is None:
        return '–'
    digits = 2 if found.scale[1] - found.scale[0] > 2 else 3
    text = f'{change:+.{digits}f}'.replace('-', '−')
    return text if float(f'{abs(change):.{digits}f}') else f'±{0:.{digits}f}'


def plain_score(found: Explanation) -> str:
    """The score in as many digits as the scale needs."""
    return f'{found.score:.{2 if found.scale[1] - found.scale[0] > 2 else 3}f}'


def largest_move(found: Explanation) -> float:
    """What the bars of the moves are measured by: the largest of them; see ``_largest``."""
    return _largest([change for a in found.attributes for change in (a.up, a.down)], found)


def largest_effect(found: Explanation) -> float:
    """What the colours of words are measured by: the largest effect; see ``_largest``."""
    return _largest([word.effect for word in found.words], found)


def _largest(changes: list[float | None], found: Explanation) -> float:
    """At least one hundredth of the scale, so that next to nothing does not look like much."""
    least = 0.01 * (found.scale[1] - found.scale[0])
    return max([least, *(abs(change) for change in changes if change is not None)])


def strongest_moves(found: Explanation, count: int = 3) -> list[tuple[str, float]]:
    """The changes of one level that move the score most: ``('light up', 0.31)``."""
    moves = [
        (f'{a.name.replace("_", " ")} {way}', change)
        for a in found.attributes
        for way, change in (('up', a.up), ('down', a.down))
        if change is not None
    ]
    return sorted(moves, key=lambda move: -abs(move[1]))[:count]
