"""Tables of results: CSV, Markdown, LaTeX, and on the terminal.

A table holds rows of several kinds, and each row states its own: ``measured here``,
``published (source)``, or the difference of two such rows.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyiqa_amhp.evaluation.measures import CONFIDENCE, MEASURES, RESAMPLES, Evaluation, Value
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.utils.text import printable

MEASURED = 'measured here'
DIFFERENCE = 'difference (measured - published)'
MAPPED_MARK, NO_VALUE = '*', '-'
NARROW = 100  # columns of a terminal below which KRCC is not shown
SHORT_KINDS = {'difference': 'diff.'}
INTERVAL_NOTE = (
    f'In brackets: {CONFIDENCE:.0%} bootstrap interval over images (percentiles of '
    f'{RESAMPLES:,} resamples unless stated otherwise).'
)
MAPPED_NOTE = (
    "* after a linear mapping of the metric's stated range to that of the ratings; not "
    'comparable with figures without the mark.'
)
TEX = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    '↑': r'$\uparrow$', '↓': r'$\downarrow$', '<': r'$<$', '>': r'$>$',
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method in a table.

    Attributes:
        method: name of the method.
        origin: ``measured here``, ``published (source)`` or ``difference (...)``.
        text_source: the text that the method read beside the image: ``none``, ``comments``,
            ``labels``, ``predicted``, ``not stated``; ``-`` if it could not be measured.
        values: the values by the keys of ``MEASURES``; a missing key was not reported.
        kind: ``measured``, ``published`` or ``difference``.
        images: number of images that were compared; None if unknown.
        seconds: seconds for each image; None if not measured.
        error: why the method could not be measured at all; '' otherwise.
        mapping: label of the linear map behind the values that are marked as mapped.
        notes: other remarks for the reader.
        source: full source of a published row.
    """

    method: str
    origin: str = MEASURED
    text_source: str = 'none'
    values: dict[str, Value] = field(default_factory=dict)
    kind: str = 'measured'
    images: int | None = None
    seconds: float | None = None
    error: str = ''
    mapping: str = ''
    notes: tuple[str, ...] = ()
    source: str = ''


def measured_row(
    method: str,
    evaluation: Evaluation,
    text_source: str,
    seconds: float | None = None,
    notes: Sequence[str] = (),
) -> Row:
    """Make the row of a method from the result of ``evaluate``."""
    return Row(
        method=method,
        text_source=text_source,
        values=evaluation.values,
        images=evaluation.images,
        seconds=seconds,
        mapping=evaluation.mapping,
        notes=(*notes, *evaluation.notes),
    )


def error_row(method: str, error: str) -> Row:
    """Make the row of a method that could not be measured, with the reason."""
    return Row(method, text_source=NO_VALUE, error=' '.join(error.split()))


def difference_row(measured: Row, published: Row) -> Row:
    """Subtract published from measured values, if both are on one scale and no bound."""
    differences = {}
    for key, theirs in published.values.items():
        ours = measured.values.get(key, Value())
        if ours.value is None or theirs.value is None or ours.mapped or theirs.bound:
            continue
        differences[key] = Value(ours.value - theirs.value)
    return Row(measured.method, DIFFERENCE, '', differences, kind='difference')


def compare(measured: Row, published: Row) -> list[Row]:
    """Make three rows: measured, published, difference."""
    return [measured, published, difference_row(measured, published)]


def format_value(key: str, value: Value | None, signed: bool = False) -> str:
    """Format a value as in ``0.804* [0.799, 0.809]``.

    ACC is shown in percent, ``*`` marks a mapped value, ``-`` stands for no value.
    """
    if value is None or value.value is None:
        return NO_VALUE
    factor, digits = (100, 1) if key == 'acc' else (1, 3)
    if value.bound:
        return f'{value.bound} {value.value * factor:g}'

    def number(x: float, sign: str = '') -> str:
        text = f'{x * factor:{sign}.{digits}f}'
        return text if abs(x * factor) < 1e6 else f'{x * factor:{sign}.3g}'

    text = number(value.value, '+' if signed else '') + MAPPED_MARK * value.mapped
    if value.low is not None and value.high is not None:
        text += f' [{number(value.low)}, {number(value.high)}]'
    return text


def measure_columns(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """List keys and titles of the measures for which any row has a value."""
    present = {key for row in rows for key, value in row.values.items() if value.value is not None}
    return [
        (key, f'{name}{" %" if key == "acc" else ""} {"↑" if higher_better else "↓"}')
        for key, name, higher_better in MEASURES
        if key in present
    ]


def footnotes(rows: Iterable[Row]) -> list[str]:
    """Collect the remarks under a table: intervals, maps, notes, reasons, sources."""
    rows = list(rows)
    values = [value for row in rows for value in row.values.values()]
    notes = [INTERVAL_NOTE] * any(v.low is not None for v in values)
    notes += [MAPPED_NOTE] * any(v.mapped for v in values)
    names = {key: name for key, name, _ in MEASURES}
    for row in rows:
        remarks = [f'mapped {row.mapping}'] * bool(row.mapping) + list(row.notes)
        measures_by_reason: dict[str, list[str]] = {}
        for key, value in row.values.items():
            if value.reason:
                measures_by_reason.setdefault(value.reason, []).append(names[key])
        for reason, measures in measures_by_reason.items():
            remarks.append(f'{", ".join(measures)}: {reason}')
        if remarks:
            notes.append(f'{row.method}: {"; ".join(remarks)}.')
    return notes + list(dict.fromkeys(row.source for row in rows if row.source))


def to_csv(rows: Sequence[Row]) -> str:
    """Format rows as CSV: always the same columns, numbers in full, ACC as a share."""
    columns = ['method', 'origin', 'kind', 'text_source', 'images', 'seconds_per_image']
    for key, _, _ in MEASURES:
        columns += [key, f'{key}_low', f'{key}_high', f'{key}_bound', f'{key}_reason']
    columns += ['mapped', 'mapping', 'notes', 'source', 'error']
    records = []
    for row in rows:
        record = {
            'method': row.method,
            'origin': row.origin,
            'kind': row.kind,
            'text_source': row.text_source,
            'images': row.images,
            'seconds_per_image': row.seconds,
            'mapped': ' '.join(key for key, value in row.values.items() if value.mapped),
            'mapping': row.mapping,
            'notes': '; '.join(row.notes),
            'source': row.source,
            'error': row.error,
        }
        for key, value in row.values.items():
            record |= {
                key: value.value,
                f'{key}_low': value.low,
                f'{key}_high': value.high,
                f'{key}_bound': value.bound,
                f'{key}_reason': value.reason,
            }
        records.append(record)
    # As objects, a number of images stays whole beside empty cells.
    table = pd.DataFrame(records, columns=columns, dtype=object)
    return table.to_csv(index=False, lineterminator='\n')


def markdown_escape(text: str) -> str:
    """Escape a text for Markdown, so that HTML and links in it have no effect."""
    return text.replace('&', '&amp;').replace('<', '&lt;').replace('](', ']\\(')


def to_markdown(rows: Sequence[Row], title: str = '', notes: Sequence[str] = ()) -> str:
    """Format rows as a Markdown table; ``notes`` and the footnotes of the rows are below."""

    def line(cells: Iterable[str]) -> str:
        escaped = (markdown_escape(cell).replace('|', '\\|') for cell in cells)
        return '| ' + ' | '.join(' '.join(cell.split()) for cell in escaped) + ' |'

    keys, header = _keys_and_header(rows)
    lines = [f'## {markdown_escape(title)}\n'] * bool(title)
    lines += [line(header), '|' + ' --- |' * 3 + ' ---: |' * (len(header) - 3)]
    for row in rows:
        cells = [row.method, row.origin, row.text_source]
        if row.error:
            cells += [f'not measured: {row.error}', *[''] * (len(header) - 4)]
        else:
            cells += _number_cells(row, keys)
        lines.append(line(cells))
    if notes := [*notes, *footnotes(rows)]:
        lines += ['', *(f'- {markdown_escape(note)}' for note in notes)]
    return '\n'.join(lines) + '\n'


def tex_escape(text: str) -> str:
    """Escape a text for LaTeX."""
    return re.sub('|'.join(map(re.escape, TEX)), lambda match: TEX[match[0]], text)


def to_latex(rows: Sequence[Row], title: str = '', notes: Sequence[str] = ()) -> str:
    r"""Format rows as a LaTeX ``table`` environment, which needs the package ``booktabs``."""

    def line(cells: Iterable[str]) -> str:
        return ' & '.join(tex_escape(' '.join(cell.split())) for cell in cells)

    keys, header = _keys_and_header(rows)
    numbers = len(header) - 3
    lines = [
        r'\begin{table}',
        *([rf'\caption{{{tex_escape(title)}}}'] if title else []),
        r'\centering',
        rf'\begin{{tabular}}{{lll{"r" * numbers}}}',
        r'\toprule',
        line(header) + r' \\',
        r'\midrule',
    ]
    for row in rows:
        cells = line([row.method, row.origin, row.text_source])
        if row.error:
            reason = tex_escape(f'not measured: {row.error}')
            cells += rf' & \multicolumn{{{numbers}}}{{l}}{{{reason}}}'
        else:
            cells += f' & {line(_number_cells(row, keys))}'
        lines.append(cells + r' \\')
    lines += [r'\bottomrule', r'\end{tabular}']
    lines += [rf'\par\footnotesize {tex_escape(note)}' for note in (*notes, *footnotes(rows))]
    return '\n'.join([*lines, r'\end{table}']) + '\n'


def to_terminal(rows: Sequence[Row], title: str = '', width: int | None = None) -> Group:
    """Format rows for ``rich``, without intervals and notes; the files have these.

    Methods that could not be measured are listed below the table, with the reason.

    Args:
        rows: rows of the table.
        title: text above the table.
        width: columns of the terminal. A narrow one gets no KRCC, so that names can be read.
    """
    is_narrow = width is not None and width < NARROW
    columns = [c for c in measure_columns(rows) if not (is_narrow and c[0] == 'krcc')]
    table = Table(title=title or None, title_justify='left', box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column('method', overflow='fold')
    table.add_column('origin', no_wrap=True)
    table.add_column('text', overflow='fold')
    for _, name in columns:
        table.add_column(name.rstrip(' ↑↓'), justify='right', no_wrap=True)
    methods_by_error: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            methods_by_error.setdefault(row.error, []).append(row.method)
            continue
        style = {'published': 'dim', 'difference': 'italic'}.get(row.kind, '')
        cells = [row.method, SHORT_KINDS.get(row.kind, row.kind), row.text_source]
        for key, _ in columns:
            value = replace(row.values.get(key, Value()), low=None, high=None)
            cells.append(format_value(key, value, signed=row.kind == 'difference'))
        table.add_row(*map(_text, cells), style=style)
    not_measured = [
        _text(f'not measured: {", ".join(methods)}: {error}')
        for error, methods in methods_by_error.items()
    ]
    return Group(table, *not_measured)


WRITERS: dict[str, Callable[[Sequence[Row], str, Sequence[str]], str]] = {
    '.csv': lambda rows, title, notes: to_csv(rows),
    '.md': to_markdown,
    '.tex': to_latex,
}


def write_tables(
    rows: Sequence[Row], stem: str | Path, title: str = '', notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``<stem>.csv``, ``.md`` and ``.tex``, each atomically.

    Args:
        rows: rows of the table.
        stem: path of the files without a suffix.
        title: title of the table; not in the CSV.
        notes: remarks on the whole table; not in the CSV.
    """
    return [
        write_text(f'{stem}{suffix}', write(rows, title, notes))
        for suffix, write in WRITERS.items()
    ]


def _keys_and_header(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    columns = measure_columns(rows)
    titles = [title for _, title in columns]
    header = ['method', 'origin', 'text', *titles, 'images', 's / image']
    return [key for key, _ in columns], header


def _number_cells(row: Row, keys: Sequence[str]) -> list[str]:
    """Format the cells of a row after the text: measures, images, seconds."""
    return [
        *(format_value(key, row.values.get(key), row.kind == 'difference') for key in keys),
        '' if row.images is None else f'{row.images:,}',
        '' if row.seconds is None else f'{row.seconds:.3g}',
    ]


def _text(text: str) -> Text:
    return Text(printable(text))
