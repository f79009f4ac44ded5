"""The command ``amhp explain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text as RichText

from pyiqa_amhp.cli.options import (
    AMHPMetric,
    ColorProfiles,
    Device,
    MaxPixels,
    Paths,
    Text,
    Texts,
    Weights,
    check_amhp_metric,
    find_images_and_texts,
)
from pyiqa_amhp.cli.output import console, list_errors, print_written, progress

if TYPE_CHECKING:
    from pyiqa_amhp.explain.explanation import Explanation


def explain(
    paths: Paths,
    text: Text = None,
    texts: Texts = None,
    weights: Weights = None,
    metric: AMHPMetric = 'amhp',
    out: Annotated[
        Path | None,
        typer.Option(help='Folder for a page, a card for each image, and JSON.'),
    ] = None,
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    device: Device = None,
) -> None:
    """Explain the scores of images; files that cannot be read are listed, with exit code 1."""
    from pyiqa_amhp.explain import folder
    from pyiqa_amhp.scoring.scorer import create_metric

    images, image_texts = find_images_and_texts(paths, text, texts)
    check_amhp_metric(metric)
    if out is not None:
        out = folder.check_output(out)
    net = create_metric(metric, weights, device, color_profiles=color_profiles).net
    explained = folder.explain_files(net, images, image_texts, out, max_pixels)
    entries = []
    for entry in progress(explained, len(images), 'Explaining'):
        entries.append(entry)
        if out is None and entry.explanation:
            console.print(_terminal_card(entry.name, entry.explanation))
    if out is not None:
        title = f'{metric}, {len(images)} images of {" ".join(paths[:3])}'
        print_written(folder.write_folder(out, entries, title + ' ...' * (len(paths) > 3)))
    errors = [entry.error for entry in entries if entry.error]
    if errors:
        title = f'[bold red]{len(errors)} of {len(entries)} images could not be read[/]'
        list_errors(title, errors)
        raise typer.Exit(1)


def _terminal_card(name: str, explanation: 'Explanation') -> Panel:
    """Lay out the explanation of one image for a terminal."""
    from pyiqa_amhp.explain import words

    head = RichText.assemble(
        (words.format_score(explanation), 'bold cyan'),
        f' {words.scale_line(explanation)}. {words.source_line(explanation)}.',
    )
    parts: list[RenderableType] = [
        head,
        *([RichText(explanation.note, 'yellow')] if explanation.note else []),
        *_text(explanation),
        RichText(),
        _levels(explanation),
        *((RichText(), _attributes(explanation)) if explanation.attributes else ()),
        *(RichText(note, style='dim') for note in explanation.notes),
    ]
    return Panel(Group(*parts), title=RichText(name), title_align='left')


def _text(explanation: 'Explanation') -> list[RichText]:
    """Show the text, if there is one; words of a given text have their effects."""
    from pyiqa_amhp.explain import words

    if not explanation.words:
        text = explanation.text
        return [RichText(f'“{text}”', style='italic')] if text else []
    largest, line = words.largest_effect(explanation), RichText()
    for word in explanation.words:
        effect = word.effect or 0
        is_strong = abs(effect) >= 0.2 * largest
        line.append(word.word, ('green' if effect > 0 else 'red') if is_strong else '')
        change = f' ({words.format_change(effect, explanation)})' if is_strong else ''
        line.append(f'{change} ', 'dim')
    return [line]


def _levels(explanation: 'Explanation') -> Table:
    table = Table.grid(padding=(0, 2))
    block = '#' if console.options.ascii_only else '█'
    for level, p in reversed(explanation.levels.items()):
        table.add_row(RichText(level), RichText(block * round(30 * p), 'cyan'), f'{100 * p:.0f} %')
    return table


def _attributes(explanation: 'Explanation') -> Table:
    from pyiqa_amhp.explain import words

    table = Table(box=None, padding=(0, 2, 0, 0), header_style='dim')
    table.add_column('attribute')
    table.add_column('level')
    table.add_column('', justify='right')
    has_moves = explanation.base is not None
    if has_moves:
        table.add_column('one level better', justify='right')
        table.add_column('one level worse', justify='right')
    for a in explanation.attributes:
        p = a.levels[a.level]
        cells = [
            RichText(a.name.replace('_', ' ')),
            RichText(a.level),
            RichText(f'{100 * p:.0f} %'),
        ]
        for change in (a.up, a.down) if has_moves else ():
            style = '' if not change else 'green' if change > 0 else 'red'
            cells.append(RichText(words.format_change(change, explanation), style))
        table.add_row(*cells)
    return table
