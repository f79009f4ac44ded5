"""Tables of the speed of metrics: CSV, Markdown, and on the terminal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyiqa_amhp.evaluation.tables import NO_VALUE, markdown_escape
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.utils.text import printable

HEADER = ('metric', 'weights', 'input', 'network, one', 'network, batch', 'from files')


@dataclass
class SpeedRow:
    """Images a second of one metric.

    Attributes:
        metric: name of the metric.
        weights: ``its own``, ``ImageNet`` (those of the image encoder) or ``random``.
        width, height: of the images of the network, in pixels.
        one: of the network on one tensor after the other.
        batches: of the network on batches of ``batch`` images, the fastest size; None: it gets one
            image at a time, or batches are not faster.
        batch: that size.
        files: from image files.
        note: why the weights are random.
        error: why the metric could not be measured; '' otherwise.
    """

    metric: str
    weights: str
    width: int | None = None
    height: int | None = None
    one: float | None = None
    batches: float | None = None
    batch: int | None = None
    files: float | None = None
    note: str = ''
    error: str = ''

    def cells(self) -> list[str]:
        """Return the cells of the table under ``HEADER``."""
        batches = '' if self.batches is None else f'{_rate(self.batches)} ({self.batch})'
        size = '' if self.width is None else f'{self.width} x {self.height}'
        return [self.metric, self.weights, size, _rate(self.one), batches, _rate(self.files)]


def _rate(value: float | None) -> str:
    return NO_VALUE if value is None else f'{value:.3g}' if value < 1000 else f'{value:,.0f}'


def speed_to_markdown(rows: Sequence[SpeedRow], title: str, notes: Sequence[str]) -> str:
    """Format rows as a Markdown table, with the notes below."""

    def line(cells: Sequence[str]) -> str:
        return '| ' + ' | '.join(markdown_escape(c).replace('|', '\\|') for c in cells) + ' |'

    lines = [
        f'## {markdown_escape(title)}\n',
        line(HEADER),
        '| --- | --- | --- | ---: | ---: | ---: |',
    ]
    lines += [line(row.cells()) for row in rows if not row.error]
    lines += ['', *(f'- {markdown_escape(note)}' for note in [*notes, *remarks(rows)])]
    return '\n'.join(lines) + '\n'


def speed_to_terminal(rows: Sequence[SpeedRow], title: str) -> Group:
    """Format rows for ``rich``; the notes are not part of it."""
    table = Table(title=title, title_justify='left', box=box.SIMPLE, padding=(0, 1, 0, 0))
    for i, name in enumerate(HEADER):
        table.add_column(name, justify='left' if i < 3 else 'right', no_wrap=i == 0)
    for row in rows:
        if not row.error:
            table.add_row(*(Text(printable(cell)) for cell in row.cells()))
    return Group(table)


def remarks(rows: Sequence[SpeedRow]) -> list[str]:
    """Say which metrics have random weights, and which could not be measured, and why."""
    metrics: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            metrics.setdefault(f'not measured: {row.error}', []).append(row.metric)
        elif row.note:
            metrics.setdefault(f'random weights, as fast as trained ones: {row.note}', []).append(
                row.metric
            )
    return [f'{", ".join(names)}: {remark}.' for remark, names in metrics.items()]


def write_speed(
    rows: Sequence[SpeedRow], stem: Path, title: str, notes: Sequence[str]
) -> list[Path]:
    """Write ``<stem>.csv`` with the numbers in full, and ``<stem>.md``."""
    columns = [field.name for field in fields(SpeedRow)]
    # As objects, whole numbers stay whole beside empty cells.
    table = pd.DataFrame([asdict(row) for row in rows], columns=columns, dtype=object)
    return [
        write_text(f'{stem}.csv', table.to_csv(index=False, lineterminator='\n')),
        write_text(f'{stem}.md', speed_to_markdown(rows, title, notes)),
    ]
