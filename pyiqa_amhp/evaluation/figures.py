"""Figures 3 and 4 of the paper, as PNG and as a page of their own."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.plotting import (
    INK,
    MUTED,
    PREDICTED,
    RATED,
    SERIES,
    data_uri,
    drawing,
    render_page,
)

OTHER = SERIES[1]
DPI = 120


@dataclass(frozen=True)
class Card:
    """One test image of Fig. 3. Scores are normalised: 0 and 1 are the ends of the scale."""

    image: Path
    data: str
    text: str
    rated: float
    amhp: float
    clip: float


def write_fig3(out: Path, title: str, cards: Sequence[Card]) -> list[Path]:
    """Images with their texts, the rated score, and what AMHP and quality prompts alone say.

    Writes ``fig3.png`` and ``fig3.html``; two images to a line.
    """
    lines = (len(cards) + 1) // 2
    with drawing() as new_figure:
        figure = new_figure(figsize=(11, 2.6 * lines), dpi=DPI)
        grid = figure.add_gridspec(
            lines, 4, width_ratios=(1, 1.35, 1, 1.35), left=0.02, right=0.98, top=0.98,
            bottom=0.03, hspace=0.18, wspace=0.08,
        )  # fmt: skip
        for i, card in enumerate(cards):
            picture = figure.add_subplot(grid[i // 2, 2 * (i % 2)])
            picture.imshow(np.asarray(read_image(card.image)))
            picture.set_axis_off()
            picture.set_anchor('N')
            _draw_words_and_bars(figure, grid[i // 2, 2 * (i % 2) + 1], card)
        png = _save(figure, out / 'fig3.png')
    said = '; '.join(
        f'{c.data}: rated {c.rated:.2f}, AMHP {c.amhp:.2f}, CLIP {c.clip:.2f}' for c in cards
    )
    return [png, _write_page(png, 'Fig. 3', title, said)]


def write_fig4(out: Path, title: str, curves: Mapping[str, Sequence[float]]) -> list[Path]:
    """Measures on the test images after each epoch: ``fig4.png``, ``fig4.csv``, ``fig4.html``."""
    table = pd.DataFrame(curves)
    table.index = pd.RangeIndex(1, len(table) + 1, name='epoch')
    with drawing() as new_figure:
        figure = new_figure(figsize=(7, 4.2), dpi=DPI, layout='constrained')
        axes = figure.add_subplot(xlabel='epoch', xticks=table.index)
        for name, color in zip(table, (PREDICTED, OTHER), strict=False):
            axes.plot(table.index, table[name], marker='o', color=color, linewidth=2, label=name)
        axes.set_title('SRCC and PLCC on the test images', loc='left', fontsize=11)
        axes.legend(loc='lower right')
        png = _save(figure, out / 'fig4.png')
    csv = write_atomically(out / 'fig4.csv', lambda file: table.to_csv(file))
    return [png, csv, _write_page(png, 'Fig. 4', title, 'SRCC and PLCC by epoch')]


def _draw_words_and_bars(figure, place, card: Card) -> None:
    words = figure.add_subplot(place)
    words.set_axis_off()
    words.set(xlim=(0, 1), ylim=(0, 1))
    style = {'va': 'top', 'parse_math': False}
    words.text(0, 1.0, card.data, color=MUTED, fontsize=10, **style)
    said = f'“{card.text}”' if card.text else 'no text'
    lines = textwrap.wrap(said, 44, max_lines=6, placeholder=' …')
    words.text(0, 0.9, '\n'.join(lines), fontsize=9.5, color=INK, linespacing=1.35, **style)
    bars = (
        ('rated', card.rated, RATED),
        ('AMHP', card.amhp, PREDICTED),
        ('CLIP', card.clip, OTHER),
    )
    for i, (name, value, color) in enumerate(bars):
        y = 0.38 - 0.11 * i
        words.text(0, y, name, fontsize=9.5, color=MUTED, va='center')
        words.barh(y, 0.62 * max(value, 0), height=0.075, left=0.17, color=color)
        words.text(0.19 + 0.62 * max(value, 0), y, f'{value:.2f}', fontsize=9.5, va='center')


def _save(figure, path: Path) -> Path:
    return write_atomically(
        path, lambda file: figure.savefig(file, format='png', dpi=DPI, facecolor='white')
    )


def _write_page(png: Path, name: str, title: str, alt: str) -> Path:
    page = render_page(
        Path(__file__).with_name('figure.html'),
        name=name,
        title=title,
        alt=alt,
        picture=data_uri(png),
    )
    return write_atomically(
        png.with_suffix('.html'), lambda file: file.write_text(page, encoding='utf-8')
    )
