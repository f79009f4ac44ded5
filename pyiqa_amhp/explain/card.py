"""An explanation as one picture: the photograph, its relevance map, and what moves the score.

matplotlib comes with the extra ``demo`` and is imported only when a card is drawn.
"""

import textwrap
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from pyiqa_amhp.explain.explanation import Explanation, Word
from pyiqa_amhp.explain.words import (
    attributes_line,
    format_change,
    format_score,
    largest_effect,
    largest_move,
    scale_line,
    source_line,
)
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.plotting import INK, LINE, MUTED, PREDICTED, RATED, SERIES, drawing, save_png

WIDTH, DPI = 1200, 100  # pixels
LEFT, RIGHT = 0.04, 0.96  # margins, as shares of the width
MAX_SIDE = 1100  # pixels of a photograph on the card, as large as it is drawn at most
RAISES, LOWERS, HEAT = PREDICTED, SERIES[1], 'inferno'
COLUMNS, MAX_LINES = 120, 40  # characters of a line of text, lines of a text
EFFECT_COLUMNS = 5  # an effect in its smaller font, such as −0.123
MONOSPACE = 'DejaVu Sans Mono'  # ships with matplotlib, as DejaVu Sans does


def draw_card(path: Path, name: str, image: Image.Image, explanation: Explanation) -> Path:
    """Write the card of an image as a PNG, ``WIDTH`` pixels wide.

    Args:
        path: the file to write.
        name: the name of the image, as the card shows it.
        image: the photograph in RGB.
        explanation: what ``explain`` returned for it.

    Raises:
        AMHPError: matplotlib is missing.
    """
    image = image.copy()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    lines = _text_lines(explanation)
    notes = [line for note in explanation.notes for line in textwrap.wrap(note, 150)]
    width = 5.3 if explanation.relevance else 11.0  # inches that the photograph may take
    heights = (  # inches of the parts, from the top
        1.4 if explanation.note else 1.1,
        max(1.0, min(5.2, width * image.height / image.width)) + 0.7,
        0.46 * max(6, len(explanation.attributes)) + 0.8,
        0.44 * len(lines) + 0.6 if lines else 0.1,
        0.2 * len(notes) + 0.3,
    )
    with warnings.catch_warnings(), drawing() as new_figure:
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # a box is drawn, the page has it
        figure = new_figure(figsize=(WIDTH / DPI, sum(heights)))
        head, pictures, bars, text, foot = figure.subfigures(5, 1, height_ratios=heights)
        _draw_head(head, name, explanation, heights[0])
        _draw_pictures(pictures, image, explanation, heights[1])
        _draw_bars(bars, explanation, heights[2])
        if lines:
            _draw_text(text, lines, explanation, heights[3])
        _write(foot, LEFT, 0.95, '\n'.join(notes), 10, MUTED)
        return save_png(figure, path, DPI)


def _write(part, x: float, y: float, text: str, size: float, color: str = INK, **style) -> None:
    """Write text below ``y``; both are shares of the part's size from its lower left corner."""
    # Without parse_math two dollar signs would start a formula.
    style = {'va': 'top', 'parse_math': False, **style}
    part.text(x, y, text, fontsize=size, color=color, **style)


def _draw_head(part, name: str, explanation: Explanation, height: float) -> None:
    def place(inches: float) -> float:
        return 1 - inches / height

    name = _shorten(name, 55)
    _write(part, LEFT, place(0.33), name, 16, family=MONOSPACE, weight='bold')
    _write(part, LEFT, place(0.704), source_line(explanation), 12, MUTED)
    _write(
        part, RIGHT, place(0.165), format_score(explanation), 32, PREDICTED,
        weight='bold', ha='right',
    )  # fmt: skip
    _write(part, RIGHT, place(0.748), scale_line(explanation), 12, MUTED, ha='right')
    if explanation.note:
        _write(part, LEFT, place(1.02), _shorten(explanation.note, 130), 12, LOWERS, weight='bold')


def _draw_pictures(part, image: Image.Image, explanation: Explanation, height: float) -> None:
    """Draw the photograph and, if there is a map, beside it the same in grey under the map."""
    places = {'left': LEFT, 'right': RIGHT, 'wspace': 0.06, 'bottom': 0.55 / height, 'top': 1}
    count = 1 if explanation.relevance is None else 2
    photo, *others = part.subplots(1, count, squeeze=False, gridspec_kw=places)[0]
    photo.set_axis_off()
    photo.imshow(image)
    if not others:
        return
    relevance = others[0]
    relevance.set_axis_off()
    extent = (0, image.width, image.height, 0)
    relevance.imshow(image.convert('L'), cmap='gray', vmin=0, vmax=255, extent=extent)
    relevance.imshow(relevance_layer(explanation), extent=extent)
    caption = 'where the score comes from: the brighter, the more'
    _write(part, 0.74, 0.45 / height, caption, 11, MUTED, ha='center')


def relevance_layer(explanation: Explanation, side: int = 256) -> np.ndarray:
    """Colour the relevance map, as a transparent layer over the whole image.

    Returns:
        RGBA ``(side, side, 4)`` in [0, 1], transparent outside the region of the map.
    """
    relevance = np.array(explanation.relevance, dtype=np.float32)
    # Maps often have one peak. The 98th percentile gets the brightest colour.
    full = max(np.quantile(relevance, 0.98), np.finfo(np.float32).tiny)
    shades = Image.fromarray(np.clip(relevance / full, 0, 1))
    left, top, right, bottom = (round(side * share) for share in explanation.region)
    shades = shades.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    shades = np.clip(np.asarray(shades), 0, 1)
    colors = import_extra('matplotlib', 'demo').colormaps[HEAT]
    layer = np.zeros((side, side, 4))
    layer[top:bottom, left:right] = colors(0.12 + 0.83 * shades)
    layer[top:bottom, left:right, 3] = 0.25 + 0.5 * shades
    return layer


def _draw_bars(part, explanation: Explanation, height: float) -> None:
    """Draw the quality levels, the levels of each attribute, and its counterfactual moves."""
    bottom, top = 0.05, 1 - 0.7 / height
    levels, attributes, moves = (
        part.add_axes((left, bottom, right - left, top - bottom))
        for left, right in (
            (0.14, 0.29 if explanation.attributes else 0.6),
            (0.57, 0.69),
            (0.73, RIGHT),
        )
    )
    for axes in (levels, attributes, moves):
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
    _write_title(part, LEFT, 'How good it looks')
    _draw_levels(levels, explanation)
    if explanation.attributes:
        _write_title(part, 0.38, 'Its attributes', attributes_line(explanation))
        _draw_attributes(attributes, explanation)
    else:
        attributes.set_axis_off()
    if explanation.base is None:
        moves.set_axis_off()
        return
    better_worse = '▲ one level better   ▼ one level worse'
    _write_title(part, 0.72, 'Score changes', better_worse)
    _draw_moves(moves, explanation)


def _write_title(part, left: float, title: str, subtitle: str = '') -> None:
    _write(part, left, 1, title, 14, weight='bold')
    part.text(left, 1, f'\n\n{subtitle}', fontsize=10.5, color=MUTED, va='top')


def _set_rows(axes, labels: list[str]) -> np.ndarray:
    """Name the rows of a bar chart, first one on top, and return their places."""
    rows = np.arange(len(labels))
    axes.set_yticks(rows, labels, color=INK, fontsize=12, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return rows


def _draw_levels(axes, explanation: Explanation) -> None:
    """Draw the distribution over the quality levels, best first."""
    levels = dict(reversed(explanation.levels.items()))
    rows = _set_rows(axes, [_shorten(level, 14) for level in levels])
    backgrounds = axes.barh(rows, 1, 0.5, color=LINE, alpha=0.5)
    axes.barh(rows, list(levels.values()), 0.5, color=PREDICTED)
    percent = [f'{100 * p:.0f} %' for p in levels.values()]
    axes.bar_label(backgrounds, percent, padding=6, color=MUTED)
    axes.set_xlim(0, 1)


def _draw_attributes(axes, explanation: Explanation) -> None:
    """Draw the levels of each attribute as parts of a bar, worst first, the darker the better."""
    labels = []
    for attribute in explanation.attributes:
        p = attribute.levels[attribute.level]
        name = _shorten(attribute.name.replace('_', ' '), 20)
        labels.append(f'{name}: {_shorten(attribute.level, 10)} {100 * p:.0f} %')
    rows = _set_rows(axes, labels)
    shares = np.array([list(attribute.levels.values()) for attribute in explanation.attributes])
    starts = shares.cumsum(axis=1) - shares
    for level in range(shares.shape[1]):
        shade = 0.15 + 0.85 * level / max(1, shares.shape[1] - 1)
        axes.barh(rows, shares[:, level], 0.4, starts[:, level], color=PREDICTED, alpha=shade)
    axes.set_xlim(0, 1)


def _draw_moves(axes, explanation: Explanation) -> None:
    """Draw how much the score changes with each attribute one level up, and one level down."""
    rows = _set_rows(axes, [''] * len(explanation.attributes))
    up = [attribute.up for attribute in explanation.attributes]
    down = [attribute.down for attribute in explanation.attributes]
    for mark, offset, changes in (('▲', -0.2, up), ('▼', 0.2, down)):
        widths = [change or 0 for change in changes]
        colors = [RAISES if width > 0 else LOWERS for width in widths]
        bars = axes.barh(rows + offset, widths, 0.32, color=colors)
        labels = [
            f'{mark} no such level' if change is None
            else f'{mark} {format_change(change, explanation)}'
            for change in changes
        ]  # fmt: skip
        axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.axvline(0, color=RATED, linewidth=1)
    limit = 2.2 * largest_move(explanation)  # room for the numbers
    axes.set_xlim(-limit, limit)


def _text_lines(explanation: Explanation) -> list[list[Word]]:
    """Break the text into at most ``MAX_LINES`` lines of words, ``COLUMNS`` characters wide."""
    words = explanation.words or tuple(Word(word, None) for word in explanation.text.split())
    lines: list[list[Word]] = []
    column = COLUMNS
    for word in words:
        if column + _columns(word) > COLUMNS:
            lines.append([])
            column = 0
        lines[-1].append(word)
        column += _columns(word) + 1
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], [Word('…', None)]]
    return lines


def _shown(word: Word) -> str:
    return _shorten(word.word, COLUMNS // 2)


def _columns(word: Word) -> int:
    """Count the characters that a word takes in its line, with room for its effect below it."""
    return max(len(_shown(word)), 0 if word.effect is None else EFFECT_COLUMNS)


def _draw_text(part, lines: list[list[Word]], explanation: Explanation, height: float) -> None:
    """Draw the text; each word of a given text has the colour of its effect."""
    given = explanation.prompt_source == 'given'
    _write_title(part, LEFT, 'The given text' if given else 'The predicted text')
    if explanation.words:
        for x, color, meaning in ((0.2, RAISES, 'raises the score'), (0.34, LOWERS, 'lowers it')):
            box = {'facecolor': color, 'alpha': 0.6, 'linewidth': 0, 'pad': 2}
            _write(part, x, 1 - 0.04 / height, meaning, 10.5, bbox=box)
    axes = part.add_axes((LEFT, 0, RIGHT - LEFT, 1 - 0.4 / height))
    axes.set_axis_off()
    axes.set(xlim=(0, COLUMNS), ylim=(len(lines), 0))
    largest = largest_effect(explanation)
    for row, line in enumerate(lines):
        column = 0
        for word in line:
            text, effect = _shown(word), word.effect
            style = {'family': MONOSPACE, 'fontsize': 11, 'va': 'top', 'parse_math': False}
            style['color'] = RATED if explanation.words and effect is None else INK
            if effect is not None:
                shade = 0.75 * min(1, abs(effect) / largest)
                color = RAISES if effect > 0 else LOWERS
                style['bbox'] = {'facecolor': color, 'alpha': shade, 'linewidth': 0, 'pad': 2}
                if abs(effect) >= 0.2 * largest:
                    change = format_change(effect, explanation)
                    axes.text(column, row + 0.55, change, fontsize=8, color=MUTED, va='top')
            axes.text(column, row + 0.1, text, **style)
            column += _columns(word) + 1


def _shorten(text: str, length: int) -> str:
    """Cut the middle out of a text with more than ``length`` characters."""
    half = (length - 1) // 2
    return text if len(text) <= length else f'{text[: length - 1 - half]}…{text[-half:]}'
