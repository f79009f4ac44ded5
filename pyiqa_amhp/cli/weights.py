"""The commands ``amhp weights``: the user's store of trained weights, and sharing them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.output import console, escape, problems

weights_app = typer.Typer(
    help='The store of trained AMHP weights, and the hub.', no_args_is_help=True
)


@weights_app.command('list')
def weights_list() -> None:
    """What the store holds."""
    from pyiqa_amhp.weights import store as weights
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    table = Table('name', 'scale', 'variant', 'protocol', 'backbone', 'file')
    for name, path in weights.stored().items():
        config = read_checkpoint(path).config
        values = config['level_values']
        backbone = config['backbone']
        table.add_row(
            name,
            f'{values[0]:g}..{values[-1]:g}',
            config['variant'],
            config['protocol'],
            backbone if isinstance(backbone, str) else 'own',
            str(path),
        )
    if table.row_count:
        console.print(table)
    else:
        console.print(f'no weights in {weights.store_path()}; add some: amhp weights add FILE')


@weights_app.command('add')
def weights_add(
    file: Annotated[str, typer.Argument(help='FILE or hf-hub:user/name', metavar='FILE')],
    name: Annotated[
        str, typer.Option('--as', help='ava, para, aadb: used by amhp, amhp-para, amhp-aadb.')
    ] = 'ava',
) -> None:
    """Check a checkpoint and keep a copy of it; `--as ava` makes it the one that amhp uses."""
    from pyiqa_amhp.model.config import complete_checkpoint
    from pyiqa_amhp.weights import store as weights
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    weights.store_path(name)  # a bad name is an error before anything is downloaded
    checkpoint = complete_checkpoint(read_checkpoint(file, newest=True))
    console.print(f'stored: {escape(str(weights.add_to_store(checkpoint, name)))}')


@weights_app.command('remove')
def weights_remove(name: str) -> None:
    """Delete an entry of the store."""
    from pyiqa_amhp.weights import store as weights

    console.print(f'removed: {escape(str(weights.remove_from_store(name)))}')


@weights_app.command('path')
def weights_path(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Where the store is, or one entry of it."""
    from pyiqa_amhp.weights import store as weights

    print(weights.store_path(name))


@weights_app.command('push')
def weights_push(
    file: Annotated[str, typer.Argument(help='A trained checkpoint.', metavar='FILE')],
    to: Annotated[str, typer.Argument(help='hf-hub:user/name', metavar='MODEL')],
    private: Annotated[
        bool, typer.Option('--private', help='Nobody else may see it (a new repository).')
    ] = False,
    experiment: Annotated[
        Path | None,
        typer.Option(help='experiments/NAME of the training.', show_default='where FILE lies'),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help='results/NAME of amhp test; several times.')
    ] = None,
    licence: Annotated[
        str | None, typer.Option('--licence', '--license', help='apache-2.0, cc-by-nc-4.0 ...')
    ] = None,
    message: Annotated[str | None, typer.Option(help='Of the commit.')] = None,
    dry_run: Annotated[
        Path | None, typer.Option(help='Write what would be pushed to this folder, and stop.')
    ] = None,
) -> None:
    """Share a checkpoint on the Hugging Face hub, with a card of what is known of it."""
    from pyiqa_amhp.sharing.push import FILES, push, write_repository
    from pyiqa_amhp.weights.hub import hub_id

    model = hub_id(to)
    with TemporaryDirectory() as temporary:
        folder = dry_run or Path(temporary)
        notes = write_repository(file, model, folder, licence, experiment, results or ())
        for note in notes:
            problems.print(f'[yellow]not recorded[/]: {escape(note)}', soft_wrap=True)
        if licence is None:
            problems.print('[yellow]no licence is stated[/]: --licence says which', soft_wrap=True)
        if dry_run is not None:
            for name in FILES:
                console.print(f'written: {escape(str(dry_run / name))}', soft_wrap=True)
            return
        console.print(f'pushed: {escape(push(folder, model, private, message))}', soft_wrap=True)
    console.print(f'use it: amhp score photos/ --weights {escape(str(model))}', soft_wrap=True)
