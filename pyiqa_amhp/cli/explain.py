"""The command that says why a photograph has its score."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pyiqa_amhp.cli.options import (
    Device,
    Paths,
    SaidText,
    SaidTexts,
    Weights,
    check_explains,
    images_and_texts,
)  # fmt: skip
from pyiqa_amhp.cli.output import console, escape, list_problems, progress


def explain(
    paths: Paths,
    text: SaidText = None,
    texts: SaidTexts = None,
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='amhp or another metric of that arch.')] = 'amhp',
    out: Annotated[
        Path | None, typer.Option(help='Folder for a page, a card for each image, and JSON.')
    ] = None,
    device: Device = None,
) -> None:
    """Say why images have their scores; a file that cannot be read is said, and exit code 1."""
    from pyiqa_amhp.explain import folder
    from pyiqa_amhp.scoring.scorer import create_metric

    images, said = images_and_texts(paths, text, texts)
    check_explains(metric)
    if out is not None:
        folder.check_output(out)
    net = create_metric(metric, weights, device).net
    entries = []
    for entry in progress(folder.explain_files(net, images, said, out), len(images), 'Explaining'):
        entries.append(entry)
        if out is None and entry.found:
            console.print(_terminal_card(entry))
    if out is not None:
        title = f'{metric}, {len(images)} images of {" ".join(paths[:3])}'
        for file in folder.write_folder(out, entries, title + ' ...' * (len(paths) > 3)):
            console.print(f'written: {escape(str(file))}', soft_wrap=True)
    errors = [entry.error for entry in entries if entry.error]
    if errors:
        title = f'[bold red]{len(errors)} of {len(entries)} images could not be read[/]'
        list_problems(title, errors)
        raise typer.Exit(1)


def _terminal_card(entry) -> Panel:
    """One image's explanation, for a terminal."""
    from pyiqa_amhp.explain import words

    found = entry.found
    head = Text.assemble(
        (words.plain_score(found), 'bold cyan'), f' {words.scale_line(found)}. ',
        f'{words.source_line(found)}.',
    )  # fmt: skip
    parts = [head, _text(found), Text(), _levels(found), Text(), _attributes(found)]
    parts += [Text(note, style='dim') for note in found.notes]
    return Panel(
        Group(*(part for part in parts if part is not None)),
        title=Text(entry.name),
        title_align='left',
    )


def _text(found) -> Text | None:
    """The text, each word of a given one with its effect."""
    from pyiqa_amhp.explain import words

    if not found.words:
        return Text(f'“{found.text}”', style='italic') if found.text else None
    most, line = words.largest_effect(found), Text()
    for word in found.words:
        effect = word.effect or 0
        strong = abs(effect) >= 0.2 * most
        line.append(word.word, ('green' if effect > 0 else 'red') if strong else '')
        line.append(f' ({words.signed(effect, found)}) ' if strong else ' ', 'dim')
    return line


def _levels(found) -> Table:
    table = Table.grid(padding=(0, 2))
    for level, p in reversed(found.levels.items()):
        table.add_row(Text(level), Text('█' * round(30 * p), 'cyan'), f'{100 * p:.0f} %')
    return table


def _attributes(found) -> Table:
    from pyiqa_amhp.explain import words

    table = Table(box=None, padding=(0, 2, 0, 0), header_style='dim')
    table.add_column('attribute')
    table.add_column('level')
    table.add_column('', justify='right')
    moved = found.base is not None
    if moved:
        table.add_column('said one better', justify='right')
        table.add_column('one worse', justify='right')
    for a in found.attributes:
        cells = [Text(a.name.replace('_', ' ')), Text(a.level), f'{100 * a.levels[a.level]:.0f} %']
        for change in (a.up, a.down) if moved else ():
            style = '' if not change else 'green' if change > 0 else 'red'
            cells.append(Text(words.signed(change, found), style))
        table.add_row(*cells)
    return table
