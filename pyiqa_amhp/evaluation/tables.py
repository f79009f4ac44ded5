"""Rows of results as tables: CSV, Markdown, LaTeX, and on the terminal.

A table holds rows of several kinds, and every row says what it is: ``measured here``,
``published (source)``, or the difference of two such rows.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyiqa_amhp.evaluation.measures import CONFIDENCE, MEASURES, RESAMPLES, Evaluation, Value
from pyiqa_amhp.utils.files import printable, write_atomically

MEASURED = 'measured here'
DIFFERENCE = 'difference (measured - published)'
MAPPED_MARK, NONE_MARK = '*', '-'
SHORT_KINDS = {'difference': 'diff.'}
INTERVAL_NOTE = (
    f'In brackets: {CONFIDENCE:.0%} bootstrap interval over images (percentiles of '
    f'{RESAMPLES:,} resamples unless said otherwise).'
)
MAPPED_NOTE = (
    "* after a linear mapping of the metric's stated range to that of the ratings; not "
    'comparable with figures without the mark.'
)


@dataclass(frozen=True)
class Row:
    """One method in a table.

    Attributes:
        method: its name.
        origin: ``measured here``, ``published (source)`` or ``difference (...)``.
        text_source: what it read beside the image: ``none``, ``comments``, ``labels``,
            ``predicted``, ``not stated``; ``-`` where it was not measured.
        values: by the keys of ``MEASURES``; a key that is not there was not reported.
        kind: ``measured``, ``published`` or ``difference``.
        images: how many were compared; None if not known.
        seconds: per image; None if not measured.
        error: why there is nothing at all; '' otherwise.
        mapping: what was mapped to what for the values that are marked.
        notes: what else a reader has to know.
        source: of a published row, in full.
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
    """A row for what ``evaluate`` found."""
    return Row(
        method=method,
        text_source=text_source,
        values=evaluation.values,
        images=evaluation.images,
        seconds=seconds,
        mapping=evaluation.mapping,
        notes=(*notes, *evaluation.notes),
    )


def failed_row(method: str, error: str) -> Row:
    """A row for a method that could not be measured, with the reason."""
    return Row(method, text_source=NONE_MARK, error=' '.join(error.split()))


def difference_row(measured: Row, published: Row) -> Row:
    """Measured less published, where both have a value on one scale and no bound."""
    differences = {}
    for key, theirs in published.values.items():
        ours = measured.values.get(key, Value())
        if None not in (ours.value, theirs.value) and not (ours.mapped or theirs.bound):
            differences[key] = Value(ours.value - theirs.value)
    return Row(measured.method, DIFFERENCE, '', differences, kind='difference')


def compare(measured: Row, published: Row) -> list[Row]:
    """Three rows: measured, published, difference."""
    return [measured, published, difference_row(measured, published)]


def format_value(key: str, value: Value | None, signed: bool = False) -> str:
    """``0.804* [0.799, 0.809]``; ACC in percent; ``*`` where mapped; ``-`` where there is none."""
    if value is None or value.value is None:
        return NONE_MARK
    factor, digits = (100, 1) if key == 'acc' else (1, 3)
    if value.bound:
        return f'{value.bound} {value.value * factor:g}'

    def number(x: float, sign: str = '') -> str:
        text = f'{x * factor:{sign}.{digits}f}'
        return text if abs(x * factor) < 1e6 else f'{x * factor:{sign}.3g}'

    text = number(value.value, '+' if signed else '') + MAPPED_MARK * value.mapped
    if value.low is not None:
        text += f' [{number(value.low)}, {number(value.high)}]'
    return text


def columns(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Keys and titles of the measures that any row has a value for."""
    there = {key for row in rows for key, value in row.values.items() if value.value is not None}
    return [
        (key, f'{name}{" %" if key == "acc" else ""} {"↑" if more else "↓"}')
        for key, name, more in MEASURES
        if key in there
    ]


def notes_of(rows: Iterable[Row]) -> list[str]:
    """What stands under a table: intervals, mappings, notes, and reasons for what is not there."""
    rows = list(rows)
    values = [value for row in rows for value in row.values.values()]
    notes = [INTERVAL_NOTE] * any(v.low is not None for v in values)
    notes += [MAPPED_NOTE] * any(v.mapped for v in values)
    for row in rows:
        said = [f'mapped {row.mapping}'] * bool(row.mapping) + list(row.notes)
        reasons: dict[str, list[str]] = {}
        names = {key: name for key, name, _ in MEASURES}
        for key, value in row.values.items():
            if value.reason:
                reasons.setdefault(value.reason, []).append(names[key])
        said += [f'{", ".join(which)}: {reason}' for reason, which in reasons.items()]
        if said:
            notes.append(f'{row.method}: {"; ".join(said)}.')
    return notes + list(dict.fromkeys(row.source for row in rows if row.source))


def _cells(row: Row, keys: Sequence[str]) -> list[str]:
    """The formatted cells after the method: origin, text, measures, images, seconds."""
    signed = row.kind == 'difference'
    return [
        row.origin,
        row.text_source,
        *(format_value(key, row.values.get(key), signed) for key in keys),
        '' if row.images is None else f'{row.images:,}',
        '' if row.seconds is None else f'{row.seconds:.3g}',
    ]


def _header(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    keys, titles = zip(*columns(rows), strict=True) if columns(rows) else ((), ())
    return list(keys), ['method', 'origin', 'text', *titles, 'images', 's / image']


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, always the same columns; numbers in full, ACC as a share."""
    keys = [key for key, _, _ in MEASURES]
    names = ['method', 'origin', 'kind', 'text_source', 'images', 'seconds_per_image']
    for key in keys:
        names += [key, f'{key}_low', f'{key}_high', f'{key}_bound', f'{key}_reason']
    names += ['mapped', 'mapping', 'notes', 'source', 'error']
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator='\n')
    writer.writeheader()
    for row in rows:
        cells = {
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
            cells |= {
                key: value.value,
                f'{key}_low': value.low,
                f'{key}_high': value.high,
                f'{key}_bound': value.bound,
                f'{key}_reason': value.reason,
            }
        writer.writerow(cells)
    return file.getvalue()


def markdown_escape(text: str) -> str:
    """Any text in Markdown, without the HTML and the links that it may hold."""
    return text.replace('&', '&amp;').replace('<', '&lt;').replace('](', ']\\(')


def to_markdown(rows: Sequence[Row], title: str = '', notes: Sequence[str] = ()) -> str:
    """A table with notes under it: those given, then those of the rows."""

    def line(cells: Iterable[str]) -> str:
        plain = (markdown_escape(c).replace('|', '\\|') for c in cells)
        return '| ' + ' | '.join(' '.join(c.split()) for c in plain) + ' |'

    keys, header = _header(rows)
    lines = [f'## {markdown_escape(title)}\n'] * bool(title)
    lines += [line(header), '|' + ' --- |' * 3 + ' ---: |' * (len(header) - 3)]
    for row in rows:
        cells = _cells(row, keys)
        if row.error:
            cells = [row.origin, row.text_source, f'not measured: {row.error}', *[''] * len(keys)]
            cells += [''] * (len(header) - 1 - len(cells))
        lines.append(line([row.method, *cells]))
    notes = list(map(markdown_escape, [*notes, *notes_of(rows)]))
    return '\n'.join([*lines, *([''] + [f'- {note}' for note in notes] if notes else [])]) + '\n'


TEX = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    '↑': r'$\uparrow$', '↓': r'$\downarrow$', '<': r'$<$', '>': r'$>$',
}  # fmt: skip


def tex_escape(text: str) -> str:
    """Any text as it is, in LaTeX."""
    return re.sub('|'.join(map(re.escape, TEX)), lambda match: TEX[match[0]], text)


def to_latex(rows: Sequence[Row], title: str = '', notes: Sequence[str] = ()) -> str:
    r"""A ``table`` environment; needs the package ``booktabs``."""
    keys, header = _header(rows)

    def line(cells: Iterable[str]) -> str:
        return ' & '.join(tex_escape(' '.join(cell.split())) for cell in cells) + r' \\'

    lines = [
        r'\begin{table}',
        *([rf'\caption{{{tex_escape(title)}}}'] if title else []),
        r'\centering',
        rf'\begin{{tabular}}{{lll{"r" * (len(header) - 3)}}}',
        r'\toprule',
        line(header),
        r'\midrule',
    ]
    for row in rows:
        if row.error:
            span = (
                rf'\multicolumn{{{len(header) - 3}}}{{l}}{{not measured: {tex_escape(row.error)}}}'
            )
            start = ' & '.join(map(tex_escape, (row.method, row.origin, row.text_source)))
            lines.append(f'{start} & {span}' + r' \\')
        else:
            lines.append(line([row.method, *_cells(row, keys)]))
    lines += [r'\bottomrule', r'\end{tabular}']
    lines += [rf'\par\footnotesize {tex_escape(note)}' for note in (*notes, *notes_of(rows))]
    return '\n'.join([*lines, r'\end{table}']) + '\n'


def _text(text: str) -> Text:
    return Text(printable(text))


def to_terminal(rows: Sequence[Row], title: str = '', width: int | None = None) -> Group:
    """A table for ``rich`` of values alone; intervals and notes are in the files.

    What could not be measured stands below, with its reason.

    Args:
        width: of the terminal. Under 100 columns KRCC is left out, so that names can be read.
    """
    narrow = width is not None and width < 100
    shown = [(key, name) for key, name in columns(rows) if not (narrow and key == 'krcc')]
    table = Table(title=title or None, title_justify='left', box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column('method', overflow='fold')
    table.add_column('origin', no_wrap=True)
    table.add_column('text', overflow='fold')
    for _, name in shown:
        table.add_column(name.rstrip(' ↑↓'), justify='right', no_wrap=True)
    for row in rows:
        if row.error:
            continue
        style = {'published': 'dim', 'difference': 'italic'}.get(row.kind, '')
        values = [row.values.get(key) for key, _ in shown]
        bare = [value and replace(value, low=None, high=None) for value in values]
        signed = row.kind == 'difference'
        cells = [format_value(key, v, signed) for (key, _), v in zip(shown, bare, strict=True)]
        kind = SHORT_KINDS.get(row.kind, row.kind)
        table.add_row(*map(_text, [row.method, kind, row.text_source, *cells]), style=style)
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            failed.setdefault(row.error, []).append(row.method)
    below = [_text(f'not measured: {", ".join(which)}: {why}') for why, which in failed.items()]
    return Group(table, *below)


WRITERS: dict[str, Callable[[Sequence[Row], str, Sequence[str]], str]] = {
    '.csv': lambda rows, title, notes: to_csv(rows),
    '.md': to_markdown,
    '.tex': to_latex,
}


def write_tables(
    rows: Sequence[Row], stem: str | Path, title: str = '', notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``<stem>.csv``, ``.md`` and ``.tex``, each whole or not at all.

    Args:
        notes: what holds for the whole table; not in the CSV.
    """
    paths = []
    for suffix, write in WRITERS.items():
        text = write(rows, title, notes)
        path = Path(f'{stem}{suffix}')
        paths.append(
            write_atomically(path, lambda file, text=text: file.write_text(text, encoding='utf-8'))
        )
    return paths
