"""The benchmark as one HTML page: the table, intervals at a glance, and a scatter plot each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyiqa_amhp.evaluation.rated_set import RatedSet
from pyiqa_amhp.evaluation.tables import Row, footnotes, format_value, measure_columns
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.plotting import INK, MUTED, PREDICTED, RATED, drawing, render_page, svg_uri

MANY = 2000  # dots from which a plot is drawn as pixels
Picture = tuple[str, str]


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str],
    rated: RatedSet,
    rows: Sequence[Row],
    comparable: Sequence[Row],
    predictions: Sequence[tuple[Row, np.ndarray]],
) -> Path:
    """Write the page; it needs no other file.

    Args:
        notes: what holds for the whole table. rows: all of it, published rows too.
        comparable: those that were measured on the same data.
        predictions: measured rows with the scores ``(N,)`` behind them.

    Raises:
        AMHPError: jinja2 or matplotlib is missing (the extra ``demo``).
    """
    shown = measure_columns(rows)
    page = render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        notes=notes,
        header=[name for _, name in shown],
        rows=[
            (row, [format_value(key, row.values.get(key)).partition(' [') for key, _ in shown])
            for row in rows
            if not row.error
        ],
        failed=[row for row in rows if row.error],
        remarks=footnotes(rows),
        overview=_overview(comparable),
        pictures=[_scatter(rated, row, predicted) for row, predicted in predictions],
    )
    return write_atomically(path, lambda file: file.write_text(page, encoding='utf-8'))


def _overview(rows: Sequence[Row]) -> Picture | None:
    """SRCC of every row with its interval; published ones as rings."""
    found = [(row, row.values['srcc']) for row in rows if 'srcc' in row.values]
    found = [(row, value) for row, value in found if value.value is not None]
    if len(found) < 2:
        return None
    with drawing() as new_figure:
        figure = new_figure(figsize=(9, 0.9 + 0.3 * len(found)), layout='constrained')
        axes = figure.add_subplot(xlabel='SRCC')
        for place, (row, value) in enumerate(reversed(found)):
            if value.low is not None:
                axes.plot([value.low, value.high], [place, place], color=PREDICTED, linewidth=2)
            published = row.kind == 'published'
            face, edge = ('white', MUTED) if published else (PREDICTED, PREDICTED)
            mark = '>' if value.bound else 'o'
            axes.plot(value.value, place, mark, ms=7, color=face, markeredgecolor=edge)
        axes.set_yticks(range(len(found)), [row.method for row, _ in reversed(found)])
        axes.tick_params(axis='y', labelcolor=INK)
        axes.grid(False, axis='y')
        axes.set_ylim(-0.6, len(found) - 0.4)
        return svg_uri(figure), 'SRCC of each method with its interval'


def _scatter(rated: RatedSet, row: Row, predicted: np.ndarray) -> Picture:
    """Scores over rated MOS; the line of equal scores where both are on one scale."""
    srcc = format_value('srcc', row.values['srcc']).partition(' [')[0]
    with drawing() as new_figure:
        figure = new_figure(figsize=(4.6, 4.0), layout='constrained')
        axes = figure.add_subplot(xlabel='rated MOS', ylabel='score')
        many = len(predicted) >= MANY
        axes.scatter(
            rated.mos, predicted, s=4 if many else 12, alpha=0.2 if many else 0.5,
            color=PREDICTED, linewidths=0, rasterized=many,
        )  # fmt: skip
        if row.values['mse'].value is not None and not row.mapping:  # on one scale
            both = np.concatenate([rated.mos, predicted[np.isfinite(predicted)]])
            ends = [both.min(), both.max()]
            axes.plot(ends, ends, color=RATED, linewidth=1)
        axes.set_title(f'{row.method}: SRCC {srcc}', loc='left', fontsize=10.5, parse_math=False)
        return svg_uri(figure), f'scores of {row.method} over rated MOS'
