"""An explanation as one picture: the photograph, where it is judged by, and what moves its score.

matplotlib comes with the extra ``demo`` and is imported only when something is drawn.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from pyiqa_amhp.explain.canvas import PixelCanvas, fitted, flowed, text_width, wrapped
from pyiqa_amhp.explain.explanation import Explanation, Word
from pyiqa_amhp.explain.words import (
    attributes_line,
    largest_effect,
    largest_move,
    plain_score,
    scale_line,
    signed,
    source_line,
)
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.plotting import INK, LINE, MUTED, PREDICTED, SERIES, drawing

WIDTH, MARGIN, GAP = 1200, 44, 40  # pixels
PICTURE, TALLEST, THINNEST = (WIDTH - 2 * MARGIN - GAP) // 2, 520, 12
ROW, WORD_SIZE, WORD_GAP = 46, 14, 6
RAISES, LOWERS, HEAT = PREDICTED, SERIES[1], 'inferno'
FULL = WIDTH - 2 * MARGIN


def draw_card(path: Path, name: str, image: Image.Image, found: Explanation) -> Path:
    """Write the card of an image as a PNG, WIDTH pixels wide.

    Args:
        path: of the PNG. name: of the image, as it is to be read.
        image: RGB. found: what ``explain`` gave for it.

    Raises:
        AMHPError: matplotlib is missing.
    """
    image = image.copy()
    image.thumbnail((2 * PICTURE, 2 * TALLEST))
    with warnings.catch_warnings(), drawing() as new_figure:
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # a box is drawn, the page has it
        return _drawn(new_figure, name, image, found).save(path)


def _drawn(new_figure, name: str, image: Image.Image, found: Explanation) -> PixelCanvas:
    high = max(THINNEST, min(TALLEST, round(PICTURE * image.height / image.width)))
    words = _word_lines(found)
    notes = [line for note in found.notes for line in wrapped(note, 10, FULL, 3)]
    top = 130 + high + 56
    middle = top + 66 + ROW * max(len(found.attributes), 6)
    bottom = middle + (58 + _line_height(found) * len(words) if words else 12)
    sheet = PixelCanvas(new_figure, WIDTH, round(bottom + 18 * len(notes) + MARGIN))
    _draw_head(sheet, name, found)
    _draw_pictures(sheet, image, high, found)
    _draw_levels(sheet, top, found)
    _draw_attributes(sheet, top, found)
    _draw_words(sheet, middle, words, found)
    for i, line in enumerate(notes):
        sheet.write(MARGIN, bottom + 18 * i, line, 10, MUTED)
    return sheet


def _draw_head(sheet: PixelCanvas, name: str, found: Explanation) -> None:
    right = WIDTH - MARGIN
    sheet.write(MARGIN, 36, fitted(name, 19, 760), 19, weight='bold')
    sheet.write(MARGIN, 76, source_line(found), 13, MUTED)
    sheet.write(right, 26, plain_score(found), 34, PREDICTED, weight='bold', ha='right')
    sheet.write(right, 86, scale_line(found), 12, MUTED, ha='right')


def _draw_pictures(sheet: PixelCanvas, image: Image.Image, high: int, found: Explanation) -> None:
    """The photograph, and beside it the same in grey under the map."""
    wide = max(THINNEST, min(PICTURE, round(high * image.width / image.height)))
    lefts = (MARGIN + (PICTURE - wide) // 2, MARGIN + PICTURE + GAP + (PICTURE - wide) // 2)
    sheet.axes(lefts[0], 130, wide, high).imshow(image, interpolation='lanczos', aspect='auto')
    axes = sheet.axes(lefts[1], 130, wide, high)
    under = 130 + high + 10
    if found.relevance is None:
        sheet.box(lefts[1], 130, wide, high, '#f6f7f8')
        style = {'ha': 'center', 'va': 'center'}
        sheet.write(lefts[1] + wide / 2, 130 + high / 2, 'no map', 13, MUTED, **style)
        return
    grey = np.asarray(image.convert('L'))
    place = {'interpolation': 'lanczos', 'aspect': 'auto', 'extent': (0, 1, 1, 0)}
    axes.imshow(grey, cmap='gray', vmin=0, vmax=255, **place)
    axes.imshow(relevance_layer(found), **{**place, 'interpolation': 'nearest'})
    axes.set(xlim=(0, 1), ylim=(1, 0))
    caption = 'where the score comes from, the brighter the more'
    sheet.write(lefts[1] + wide / 2, under, caption, 11, MUTED, ha='center')


def relevance_layer(found: Explanation, side: int = 256) -> np.ndarray:
    """The map as colours over a whole image, ``(side, side, 4)``; clear outside its region."""
    relevance = np.array(found.relevance, dtype=np.float32)
    # Ties of the largest patch are the rule in maps with one peak; the 98th percentile is full.
    full = max(np.quantile(relevance, 0.98), np.finfo(np.float32).tiny)
    shades = Image.fromarray(np.clip(relevance / full, 0, 1))
    left, top, right, bottom = (round(side * share) for share in found.region)
    shades = shades.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    shades = np.clip(np.asarray(shades), 0, 1)
    colors = import_extra('matplotlib', 'demo').colormaps[HEAT]
    layer = np.zeros((side, side, 4))
    layer[top:bottom, left:right] = colors(0.12 + 0.83 * shades)
    layer[top:bottom, left:right, 3] = 0.25 + 0.5 * shades
    return layer


def _draw_levels(sheet: PixelCanvas, top: int, found: Explanation) -> None:
    """The distribution over the quality levels, best first, as bars to the right."""
    sheet.write(MARGIN, top, 'How good it looks', 14, weight='bold')
    longest = max(text_width(level, 12) for level in found.levels)
    left = MARGIN + longest + 16
    wide = 370 - longest - 70
    for i, (level, p) in enumerate(reversed(found.levels.items())):
        y = top + 66 + i * 38
        sheet.write(left - 16, y, level, 12, ha='right', va='center')
        sheet.box(left, y - 9, wide, 18, LINE, alpha=0.5)
        sheet.box(left, y - 9, wide * p, 18, PREDICTED)
        sheet.write(left + wide + 10, y, f'{100 * p:.0f} %', 12, MUTED, va='center')


def _draw_attributes(sheet: PixelCanvas, top: int, found: Explanation) -> None:
    """A row each: name, level, the levels' probabilities, and the two counterfactual moves."""
    left, center, reach = 470, 1000, 82
    sheet.write(left, top, 'Its attributes', 14, weight='bold')
    sheet.write(left, top + 27, attributes_line(found), 10.5, MUTED)
    if found.base is not None:
        style = {'ha': 'center'}
        sheet.write(center, top, 'If it were said otherwise', 14, weight='bold', **style)
        sheet.write(center, top + 27, '▲ one level better   ▼ one worse', 10.5, MUTED, **style)
    most = largest_move(found)
    for i, attribute in enumerate(found.attributes):
        y = top + 76 + i * ROW
        name = fitted(attribute.name.replace('_', ' '), 12.5, 150)
        sheet.write(left, y, name, 12.5, va='center')
        p = attribute.levels[attribute.level]
        said = f'{fitted(attribute.level, 12.5, 80)}  {100 * p:.0f} %'
        sheet.write(left + 162, y, said, 12.5, va='center', weight='bold')
        _draw_probabilities(sheet, left + 286, y + 13, list(attribute.levels.values()))
        if found.base is None:
            continue
        sheet.box(center - 0.5, y - 20, 1, 40, MUTED)
        for mark, change, offset in (('▲', attribute.up, -10), ('▼', attribute.down, 10)):
            _draw_move(sheet, center, y + offset, mark, change, reach / most, found)


def _draw_probabilities(sheet: PixelCanvas, left: float, base: float, p: list[float]) -> None:
    """A small histogram, worst level first."""
    step = 60 / len(p)
    sheet.box(left, base, 60, 1, LINE)
    for i, share in enumerate(p):
        sheet.box(left + i * step + 1, base - 28 * share, step - 2, 28 * share, MUTED)


def _draw_move(
    sheet: PixelCanvas, center: float, y: float, mark: str, change: float | None, scale, found
) -> None:
    """One bar from the middle, to the right where the score rises."""
    if change is None:
        sheet.write(center + 8, y, f'{mark} no such level', 9, '#a9b4be', va='center')
        return
    wide, rises = abs(change) * scale, change > 0
    color = RAISES if rises else LOWERS
    sheet.box(center if rises else center - wide, y - 7, wide, 14, color)
    x, side = (center + wide + 6, 'left') if rises else (center - wide - 6, 'right')
    sheet.write(x, y, f'{mark} {signed(change, found)}', 10, INK, va='center', ha=side)


def _word_lines(found: Explanation) -> list[list[str]]:
    """The text in lines: of words with an effect, or as it was predicted."""
    if found.words:
        return flowed([_shown(word) for word in found.words], WORD_SIZE, FULL, 2 * WORD_GAP)
    return [[line] for line in wrapped(found.text, WORD_SIZE, FULL, 4)] if found.text else []


def _line_height(found: Explanation) -> int:
    return 46 if found.words else 28


def _shown(word: Word) -> str:
    return fitted(word.word, WORD_SIZE, FULL / 2)


def _draw_words(sheet: PixelCanvas, top: int, lines: list[list[str]], found: Explanation) -> None:
    """The text; words of a given one on the colour of their effect."""
    if not lines:
        return
    given = found.prompt_source == 'given'
    title = 'What its words do' if found.words else 'What was said' if given else 'What it predicts'
    sheet.write(MARGIN, top, title, 14, weight='bold')
    if found.words:
        x = MARGIN + text_width(title, 14, 'bold') + 20
        for color, what in ((RAISES, 'raises the score'), (LOWERS, 'lowers it')):
            sheet.box(x, top + 5, 14, 14, color, alpha=0.6)
            sheet.write(x + 20, top + 4, what, 10.5, MUTED)
            x += 36 + text_width(what, 10.5)
    blank = text_width('n n', WORD_SIZE) - text_width('nn', WORD_SIZE) + 2 * WORD_GAP
    most, words = largest_effect(found), iter(found.words)
    for i, line in enumerate(lines):
        x, y = MARGIN, top + 38 + i * _line_height(found)
        for text in line:
            wide = text_width(text, WORD_SIZE)
            effect = next(words).effect if found.words else None
            if effect is not None:
                shade = 0.75 * min(1, abs(effect) / most)
                box = (x - WORD_GAP / 2, y - 3, wide + WORD_GAP, 26)
                sheet.box(*box, RAISES if effect > 0 else LOWERS, alpha=shade)
                if abs(effect) >= 0.2 * most:
                    change = signed(effect, found)
                    sheet.write(x + wide / 2, y + 25, change, 8, MUTED, ha='center')
            unread = found.words and effect is None
            sheet.write(x, y, text, WORD_SIZE, '#a9b4be' if unread else INK)
            x += wide + blank
