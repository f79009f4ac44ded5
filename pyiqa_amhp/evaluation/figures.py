"""Figures 3 and 4 of the paper, as PNG and as an HTML page."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.utils.files import write_atomically, write_text
from pyiqa_amhp.utils.plotting import (
    INK,
    MUTED,
    PREDICTED,
    RATED,
    SERIES,
    data_uri,
    drawing,
    render_page,
    save_png,
)

CLIP_COLOR = SERIES[1]
DPI = 120


@dataclass(frozen=True)
class Example:
    """One test image of Fig. 3. Scores are normalised: 0 and 1 are the ends of the scale.

    Attributes:
        image: the image file.
        data: name of its data set.
        text: the text that AMHP read; '' if there is none.
        rated: the rated score.
        amhp: the score of AMHP.
        clip: the score of CLIP with quality prompts only.
    """

    image: Path
    data: str
    text: str
    rated: float
    amhp: float
    clip: float


def write_fig3(out: Path, title: str, examples: Sequence[Example]) -> list[Path]:
    """Draw test images with their text, their rated score and the scores of AMHP and CLIP.

    Args:
        out: folder that gets ``fig3.png`` and ``fig3.html``.
        title: title of the page.
        examples: the images, drawn in two columns.
    """
    lines = (len(examples) + 1) // 2
    with drawing() as new_figure:
        figure = new_figure(figsize=(11, 2.6 * lines), dpi=DPI)
        grid = figure.add_gridspec(
            lines, 4, width_ratios=(1, 1.35, 1, 1.35), left=0.02, right=0.98, top=0.98,
            bottom=0.03, hspace=0.18, wspace=0.08,
        )  # fmt: skip
        for i, example in enumerate(examples):
            line, column = divmod(i, 2)
            picture = figure.add_subplot(grid[line, 2 * column])
            picture.imshow(np.asarray(read_image(example.image)))
            picture.set_axis_off()
            picture.set_anchor('N')
            _draw_text_and_bars(figure.add_subplot(grid[line, 2 * column + 1]), example)
        png = save_png(figure, out / 'fig3.png', DPI)
    description = '; '.join(
        f'{e.data}: rated {e.rated:.2f}, AMHP {e.amhp:.2f}, CLIP {e.clip:.2f}' for e in examples
    )
    return [png, _write_page(png, 'Fig. 3', title, description)]


def write_fig4(out: Path, title: str, curves: Mapping[str, Sequence[float]]) -> list[Path]:
    """Draw measures on the test images after each epoch.

    Args:
        out: folder that gets ``fig4.png``, ``fig4.csv`` and ``fig4.html``.
        title: title of the page.
        curves: one or two measures by name, each with a value for every epoch.
    """
    table = pd.DataFrame(curves)
    table.index = pd.RangeIndex(1, len(table) + 1, name='epoch')
    with drawing() as new_figure:
        figure = new_figure(figsize=(7, 4.2), dpi=DPI, layout='constrained')
        axes = figure.add_subplot(xlabel='epoch', xticks=table.index)
        for name, color in zip(table, SERIES, strict=False):
            axes.plot(table.index, table[name], marker='o', color=color, linewidth=2, label=name)
        axes.set_title('SRCC and PLCC on the test images', loc='left', fontsize=11)
        axes.legend(loc='lower right')
        png = save_png(figure, out / 'fig4.png', DPI)
    csv = write_atomically(out / 'fig4.csv', lambda file: table.to_csv(file))
    return [png, csv, _write_page(png, 'Fig. 4', title, 'SRCC and PLCC by epoch')]


def _draw_text_and_bars(axes: Any, example: Example) -> None:
    """Draw the name of the data set, the text, and one bar for each score into empty axes."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    style = {'va': 'top', 'parse_math': False}
    axes.text(0, 1.0, example.data, color=MUTED, fontsize=10, **style)
    quoted = f'“{example.text}”' if example.text else 'no text'
    lines = textwrap.wrap(quoted, 44, max_lines=6, placeholder=' …')
    axes.text(0, 0.9, '\n'.join(lines), fontsize=9.5, color=INK, linespacing=1.35, **style)
    bars = (
        ('rated', example.rated, RATED),
        ('AMHP', example.amhp, PREDICTED),
        ('CLIP', example.clip, CLIP_COLOR),
    )
    for i, (name, value, color) in enumerate(bars):
        y, width = 0.38 - 0.11 * i, 0.62 * max(value, 0)
        axes.text(0, y, name, fontsize=9.5, color=MUTED, va='center')
        axes.barh(y, width, height=0.075, left=0.17, color=color)
        axes.text(0.19 + width, y, f'{value:.2f}', fontsize=9.5, va='center')


def _write_page(png: Path, name: str, title: str, alt: str) -> Path:
    page = render_page(
        Path(__file__).with_name('figure.html'),
        name=name,
        title=title,
        alt=alt,
        picture=data_uri(png),
    )
    return write_text(png.with_suffix('.html'), page)
