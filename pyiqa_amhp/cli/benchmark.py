"""The commands ``amhp benchmark`` and ``amhp reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from pyiqa_amhp.cli.options import ColorProfiles, Device, MaxPixels, MetaFolder, parse_pairs
from pyiqa_amhp.cli.output import console, error_console, escape, print_written, progress


def benchmark(
    metrics: Annotated[
        list[str],
        typer.Option(help='No-reference metrics of pyiqa: amhp nima musiq-ava, or amhp,nima.'),
    ],
    data: Annotated[
        str,
        typer.Option(help='A CSV of rated images, its folder, or a prepared ava, para or aadb.'),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help='Folder of the images.', show_default='found with the data'),
    ] = None,
    split: Annotated[
        str, typer.Option(help='Images to measure on: train, val, test or all.')
    ] = 'test',
    text_source: Annotated[
        str | None,
        typer.Option(help='Texts for AMHP: comments, labels or none.', show_default='any there is'),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help='Checkpoints: FILE for amhp, or NAME=FILE for any metric.'),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help='Options of the data set, NAME=VALUE: text_column=theme level_values=[1,4,7].'
        ),
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(help='Published results to add: table1 .. table5, newer.'),
    ] = None,
    meta: MetaFolder = Path('datasets_meta'),
    out: Annotated[Path, typer.Option(help='Folder for scores and tables.')] = Path(
        'amhp_benchmark'
    ),
    batch_size: Annotated[
        int, typer.Option(min=1, help='Images in a batch of AMHP; other metrics get one.')
    ] = 8,
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    device: Device = None,
) -> None:
    """Measure metrics of pyiqa on rated images; the same command resumes an interrupted run.

    A metric that could not be measured is a row with its reason, and the exit code is 1.
    """
    import yaml

    from pyiqa_amhp.evaluation import benchmark as run
    from pyiqa_amhp.evaluation.rated_set import load_rated
    from pyiqa_amhp.evaluation.tables import to_terminal
    from pyiqa_amhp.utils.files import check_folder

    check_folder(out)
    names = [name for value in metrics for name in value.split(',') if name]
    checkpoints = [value if '=' in value else f'amhp={value}' for value in weights or ()]
    options = {key: yaml.safe_load(value) for key, value in parse_pairs('option', option).items()}
    rated = load_rated(data, images, split, text_source, options, meta)
    result = run.benchmark(
        names,
        rated,
        out,
        parse_pairs('weights', checkpoints),
        published or (),
        device,
        batch_size,
        progress=progress,
        max_pixels=max_pixels,
        color_profiles=color_profiles,
    )
    console.print(to_terminal(result.rows, result.title, console.width))
    for note in result.notes:
        console.print(escape(note), soft_wrap=True)
    print_written(result.files)
    measured = [row for row in result.rows if row.kind == 'measured']
    if failed := [row.method for row in measured if row.error]:
        shown = escape(', '.join(failed))
        title = f'{len(failed)} of {len(measured)} metrics could not be measured'
        error_console.print(f'[bold red]{title}:[/] {shown}', soft_wrap=True)
        raise typer.Exit(1)


def reproduce(
    what: Annotated[str, typer.Argument(help='table1 .. table5, fig3 or fig4')],
    root: Annotated[Path, typer.Option(help='Folder with AVA, PARA and AADB.')] = Path('datasets'),
    meta: MetaFolder = Path('datasets_meta'),
    options: Annotated[Path, typer.Option(help='Folder of the option files.')] = Path('options'),
    out: Annotated[Path, typer.Option(help='Folder for trainings and results.')] = Path(
        'reproduced'
    ),
    small: Annotated[
        bool,
        typer.Option('--small', help="Use the demo's photographs and model: offline, in minutes."),
    ] = False,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help='Random seed; the same seed gives the same numbers. Several: a table of means.',
            show_default='0',
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help='Other encoders: EfficientNet-Lite0, ...', show_default='ViT-B-16'),
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help='What is not trained: trunk, image, text or both.')
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help='ava, para or aadb in place of the one of the paper.'),
    ] = None,
    ratings: Annotated[
        Path | None,
        typer.Option(help='CSV in place of the prepared one, with a column for the split.'),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help='Folder of the images, if it is another one.')
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help='Epochs to train.', show_default='as the options say')
    ] = None,
) -> None:
    """Train and test for a table or figure of the paper, and show it beside the published one."""
    from pyiqa_amhp.evaluation.plans import Changes
    from pyiqa_amhp.evaluation.reproduce import reproduce as run
    from pyiqa_amhp.evaluation.tables import to_terminal

    changes = Changes(encoder, freeze, dataset, ratings, images, epochs)
    result = run(what, out, root, meta, options, small, seed or (0,), changes=changes)
    if result.rows:
        console.print(to_terminal(result.rows, result.title, console.width))
    print_written(result.files)
