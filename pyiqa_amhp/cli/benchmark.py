"""The commands ``amhp benchmark`` and ``amhp reproduce``: figures beside published ones."""

from pathlib import Path
from typing import Annotated

import typer

from pyiqa_amhp.cli.options import Device, pairs
from pyiqa_amhp.cli.output import console, escape, problems, progress


def benchmark(
    metrics: Annotated[
        list[str],
        typer.Option(help='No-reference metrics of pyiqa: amhp nima musiq-ava, or amhp,nima.'),
    ],
    data: Annotated[
        str, typer.Option(help='A CSV of rated images, its folder, or ava, para, aadb.')
    ],
    images: Annotated[Path | None, typer.Option(help='Folder of the images.')] = None,
    split: Annotated[str, typer.Option(help='train, val, test or all.')] = 'test',
    text_source: Annotated[
        str | None, typer.Option(help='What AMHP reads: comments, labels or none.')
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help='FILE for amhp, or NAME=FILE for any metric.')
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help='NAME=VALUE: of the data set (text_column=theme level_values=[1,4,7]).'),
    ] = None,
    published: Annotated[
        list[str] | None, typer.Option(help='Published rows below: table1 .. table5, newer.')
    ] = None,
    meta: Annotated[Path, typer.Option(help='What amhp prepare wrote.')] = Path('datasets_meta'),
    out: Annotated[Path, typer.Option(help='Folder for scores and tables.')] = Path(
        'amhp_benchmark'
    ),
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    device: Device = None,
) -> None:
    """Measure metrics of pyiqa on rated images; an interrupted run goes on where it stopped."""
    import yaml

    from pyiqa_amhp.evaluation import benchmark as run
    from pyiqa_amhp.evaluation.rated_set import load_rated
    from pyiqa_amhp.evaluation.tables import to_terminal

    names = [name for given in metrics for name in given.split(',') if name]
    named = [given if '=' in given else f'amhp={given}' for given in weights or ()]
    options = {key: yaml.safe_load(value) for key, value in pairs('option', option).items()}
    rated = load_rated(data, images, split, text_source, options, meta)
    result = run.benchmark(
        names,
        rated,
        out,
        pairs('weights', named),
        published or (),
        device,
        batch_size,
        progress=progress,
    )
    console.print(to_terminal(result.rows, result.title, console.width))
    for note in result.notes:
        console.print(escape(note), soft_wrap=True)
    for file in result.files:
        console.print(f'written: {escape(str(file))}', soft_wrap=True)
    if all(row.error for row in result.rows if row.kind == 'measured'):
        problems.print('[bold red]no metric could be measured[/]')
        raise typer.Exit(1)


def reproduce(
    what: Annotated[str, typer.Argument(help='table1 .. table5, fig3 or fig4')],
    root: Annotated[Path, typer.Option(help='Folder with AVA, PARA, AADB.')] = Path('datasets'),
    meta: Annotated[Path, typer.Option(help='What amhp prepare wrote.')] = Path('datasets_meta'),
    options: Annotated[Path, typer.Option(help='The option files.')] = Path('options'),
    out: Annotated[Path, typer.Option(help='Folder for runs and results.')] = Path('reproduced'),
    small: Annotated[
        bool, typer.Option('--small', help="The demo's photographs and model: offline, in minutes.")
    ] = False,
    seed: Annotated[int, typer.Option(help='Same seed, same numbers.')] = 0,
) -> None:
    """Train and test what a table or figure of the paper needs, beside the published figures."""
    from pyiqa_amhp.evaluation.reproduce import reproduce as run
    from pyiqa_amhp.evaluation.tables import to_terminal

    result = run(what, out, root, meta, options, small, seed)
    if result.rows:
        console.print(to_terminal(result.rows, result.title, console.width))
    for file in result.files:
        console.print(f'written: {escape(str(file))}', soft_wrap=True)
