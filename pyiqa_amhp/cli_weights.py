"""The commands ``amhp weights``: the user's store of trained weights."""

from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli_output import console, escape

weights_app = typer.Typer(help='The store of trained AMHP weights.', no_args_is_help=True)


@weights_app.command('list')
def weights_list() -> None:
    """What the store holds."""
    from pyiqa_amhp.model import weights

    table = Table('name', 'scale', 'variant', 'protocol', 'backbone', 'file')
    for name, path in weights.stored().items():
        config = weights.read_checkpoint(path).config
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
    from pyiqa_amhp.model import weights

    console.print(f'stored: {escape(str(weights.add_to_store(file, name)))}')


@weights_app.command('remove')
def weights_remove(name: str) -> None:
    """Delete an entry of the store."""
    from pyiqa_amhp.model import weights

    console.print(f'removed: {escape(str(weights.remove_from_store(name)))}')


@weights_app.command('path')
def weights_path(name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Where the store is, or one entry of it."""
    from pyiqa_amhp.model import weights

    print(weights.store_path(name))
