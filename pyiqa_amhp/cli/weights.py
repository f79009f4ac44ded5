"""The commands ``amhp weights``: the local store of trained weights, and sharing them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.output import console, error_console, escape, print_written

weights_app = typer.Typer(
    help='Manage the local store of trained AMHP weights, and share weights.', no_args_is_help=True
)


@weights_app.command('list')
def weights_list() -> None:
    """List the weights in the store."""
    from pyiqa_amhp.model.config import complete_checkpoint
    from pyiqa_amhp.weights import store
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    table = Table('name', 'scale', 'variant', 'protocol', 'backbone', 'file')
    notes = {}
    for name, path in store.stored().items():
        if name == store.TANET:
            table.add_row(name, '1..10', '', '', 'TANet', str(path))
            continue
        config = complete_checkpoint(read_checkpoint(path)).config
        if config.get('note'):
            notes[name] = config['note']
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
        for name, note in notes.items():
            console.print(f'[yellow]{name}:[/] {escape(note)}', soft_wrap=True)
    else:
        console.print(f'no weights in {store.store_path()}; add some: amhp weights add FILE')


@weights_app.command('add')
def weights_add(
    file: Annotated[
        str, typer.Argument(help='Trained checkpoint: FILE or hf-hub:user/name.', metavar='FILE')
    ],
    name: Annotated[
        str | None,
        typer.Option(
            '--as',
            help='Name in the store; amhp uses ava, amhp-para uses para, amhp-aadb uses aadb, '
            'tanet uses tanet.',
            show_default='ava, or tanet for a TANet',
        ),
    ] = None,
) -> None:
    """Check a checkpoint and copy it to the store; with `--as ava`, amhp uses it."""
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.model.config import complete_checkpoint
    from pyiqa_amhp.weights import store
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    store.store_path(name)  # a bad name is an error before anything is downloaded
    if store.is_tanet(file):
        from pyiqa_amhp.model.tanet import add_to_store

        if name not in (None, store.TANET):
            raise AMHPError(f'{file}: a TANet, which is stored as {store.TANET!r}, not {name!r}')
        stored = add_to_store(file)
    else:
        checkpoint = complete_checkpoint(read_checkpoint(file, newest=True))
        stored = store.add_to_store(checkpoint, name or 'ava')
        if note := checkpoint.config.get('note'):
            error_console.print(f'[yellow]{escape(note)}[/]', soft_wrap=True)
    console.print(f'stored: {escape(str(stored))}')


@weights_app.command('remove')
def weights_remove(
    name: Annotated[str, typer.Argument(help='Name in the store.')],
) -> None:
    """Delete weights from the store."""
    from pyiqa_amhp.weights import store

    console.print(f'removed: {escape(str(store.remove_from_store(name)))}')


@weights_app.command('path')
def weights_path(
    name: Annotated[
        str | None, typer.Argument(help='Name in the store; without it, the whole store.')
    ] = None,
) -> None:
    """Print the path of the store, or of weights in it."""
    from pyiqa_amhp.weights import store

    print(store.store_path(name))


@weights_app.command('push')
def weights_push(
    file: Annotated[str, typer.Argument(help='A trained checkpoint.', metavar='FILE')],
    to: Annotated[
        str, typer.Argument(help='Repository on the hub: hf-hub:user/name.', metavar='MODEL')
    ],
    private: Annotated[
        bool, typer.Option('--private', help='Make a new repository private.')
    ] = False,
    experiment: Annotated[
        Path | None,
        typer.Option(
            help='Folder experiments/NAME of the training.', show_default='the folder of FILE'
        ),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help='Folder results/NAME of amhp test; may be repeated.')
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            '--licence', '--license', help='Licence of the weights: apache-2.0, cc-by-nc-4.0 ...'
        ),
    ] = None,
    message: Annotated[str | None, typer.Option(help='Commit message.')] = None,
    dry_run: Annotated[
        Path | None, typer.Option(help='Write the files to this folder, and push nothing.')
    ] = None,
) -> None:
    """Share a checkpoint on the Hugging Face hub, with a model card."""
    from pyiqa_amhp.sharing.push import FILES, push, write_repository
    from pyiqa_amhp.weights.hub import hub_id

    model = hub_id(to)
    with TemporaryDirectory() as temporary:
        folder = dry_run or Path(temporary)
        notes = write_repository(file, model, folder, licence, experiment, results or ())
        for note in notes:
            error_console.print(f'[yellow]not recorded[/]: {escape(note)}', soft_wrap=True)
        if licence is None:
            error_console.print(
                '[yellow]no licence is stated[/]: give one with --licence', soft_wrap=True
            )
        if dry_run is not None:
            print_written(dry_run / name for name in FILES)
            return
        console.print(f'pushed: {escape(push(folder, model, private, message))}', soft_wrap=True)
    console.print(f'use it: amhp score photos/ --weights {escape(str(model))}', soft_wrap=True)
