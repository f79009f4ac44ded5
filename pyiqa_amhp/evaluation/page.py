"""HTML page of a benchmark: the table, the SRCC intervals, and a scatter plot of each metric."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyiqa_amhp.evaluation.rated_set import RatedSet
from pyiqa_amhp.evaluation.tables import Row, footnotes, format_value, measure_columns
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.utils.plotting import INK, MUTED, PREDICTED, RATED, drawing, render_page, svg_uri

MANY_POINTS = 2000  # number of points from which a scatter plot is embedded as pixels
Picture = tuple[str, str]  # data URI and description


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str],
    rated: RatedSet,
    rows: Sequence[Row],
    comparable: Sequence[Row],
    predictions: Sequence[tuple[Row, np.ndarray]],
) -> Path:
    """Write the page as one file that needs no other.

    Args:
        path: file to write.
        title: title of the page.
        notes: remarks on the whole table.
        rated: the rated images.
        rows: all rows of the table, published ones too.
        comparable: those rows that were measured on the same data.
        predictions: measured rows, each with its predicted scores ``(N,)``.

    Raises:
        AMHPError: jinja2 or matplotlib is missing (the extra ``demo``).
    """
    columns = measure_columns(rows)
    page = render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        notes=notes,
        header=[name for _, name in columns],
        rows=[
            (row, [format_value(key, row.values.get(key)).partition(' [') for key, _ in columns])
            for row in rows
            if not row.error
        ],
        failed=[row for row in rows if row.error],
        remarks=footnotes(rows),
        overview=_overview(comparable),
        pictures=[_scatter(rated, row, predicted) for row, predicted in predictions],
    )
    return write_text(path, page)


def _overview(rows: Sequence[Row]) -> Picture | None:
    """Draw the SRCC of every row with its interval; published rows are rings."""
    shown = [(row, row.values['srcc']) for row in rows if 'srcc' in row.values]
    shown = [(row, value) for row, value in shown if value.value is not None]
    if len(shown) < 2:
        return None
    with drawing() as new_figure:
        figure = new_figure(figsize=(9, 0.9 + 0.3 * len(shown)), layout='constrained')
        axes = figure.add_subplot(xlabel='SRCC')
        for y, (row, value) in enumerate(reversed(shown)):
            if value.low is not None:
                axes.plot([value.low, value.high], [y, y], color=PREDICTED, linewidth=2)
            published = row.kind == 'published'
            face, edge = ('white', MUTED) if published else (PREDICTED, PREDICTED)
            marker = '>' if value.bound else 'o'
            axes.plot(value.value, y, marker, ms=7, color=face, markeredgecolor=edge)
        axes.set_yticks(range(len(shown)), [row.method for row, _ in reversed(shown)])
        axes.tick_params(axis='y', labelcolor=INK)
        axes.grid(False, axis='y')
        axes.set_ylim(-0.6, len(shown) - 0.4)
        return svg_uri(figure), 'SRCC of each method with its interval'


def _scatter(rated: RatedSet, row: Row, predicted: np.ndarray) -> Picture:
    """Draw predicted over rated scores, with the line of equal scores if both are on one scale."""
    srcc = format_value('srcc', row.values['srcc']).partition(' [')[0]
    with drawing() as new_figure:
        figure = new_figure(figsize=(4.6, 4.0), layout='constrained')
        axes = figure.add_subplot(xlabel='rated MOS', ylabel='score')
        many = len(predicted) >= MANY_POINTS
        axes.scatter(
            rated.mos, predicted, s=4 if many else 12, alpha=0.2 if many else 0.5,
            color=PREDICTED, linewidths=0, rasterized=many,
        )  # fmt: skip
        on_one_scale = row.values['mse'].value is not None and not row.mapping
        if on_one_scale:
            scores = np.concatenate([rated.mos, predicted[np.isfinite(predicted)]])
            ends = [scores.min(), scores.max()]
            axes.plot(ends, ends, color=RATED, linewidth=1)
        axes.set_title(f'{row.method}: SRCC {srcc}', loc='left', fontsize=10.5, parse_math=False)
        return svg_uri(figure), f'scores of {row.method} over rated MOS'
