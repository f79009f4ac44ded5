"""The commands ``amhp benchmark`` and ``amhp reproduce``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyiqa_amhp.cli.options import (
    BatchSize,
    ColorProfiles,
    Device,
    MaxPixels,
    MetaFolder,
    parse_pairs,
)  # fmt: skip
from pyiqa_amhp.cli.output import console, error_console, escape, print_written, progress


def benchmark(
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help='No-reference metrics of pyiqa: amhp nima musiq-ava, or amhp,nima.',
            show_default='required; six of aesthetics with --speed',
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help='A CSV of rated images, its folder, or a prepared ava, para or aadb.',
            show_default='required; --images are enough with --speed',
        ),
    ] = None,
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
    batch_size: BatchSize = None,
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    device: Device = None,
    speed: Annotated[
        bool,
        typer.Option('--speed', help='Measure images a second instead; needs no ratings.'),
    ] = False,
) -> None:
    """Measure metrics of pyiqa on rated images; the same command resumes an interrupted run.

    A metric that could not be measured is a row with its reason, and the exit code is 1.
    """
    import yaml

    from pyiqa_amhp.evaluation import benchmark as run
    from pyiqa_amhp.evaluation.rated_set import load_rated
    from pyiqa_amhp.evaluation.tables import to_terminal
    from pyiqa_amhp.utils.files import check_folder

    if not speed:
        for name, value in (('metrics', metrics), ('data', data)):
            if not value:
                raise typer.BadParameter(f"Missing option '--{name}'; only --speed needs none.")
    if speed and not (data or images):
        raise typer.BadParameter('--speed needs photographs: --images FOLDER, or --data.')
    unread = {
        '--published': published,
        '--batch-size': batch_size,
        '--max-pixels': max_pixels,
        '--no-color-profiles': not color_profiles,
        '--option': option and not data,
        '--text-source': text_source,
    }
    if speed and (given := [name for name, value in unread.items() if value]):
        raise typer.BadParameter(f'{", ".join(given)}: not read with --speed; leave it out.')
    check_folder(out)
    names = [name for value in metrics or () for name in value.split(',') if name]
    checkpoints = [value if '=' in value else f'amhp={value}' for value in weights or ()]
    options = {key: yaml.safe_load(value) for key, value in parse_pairs('option', option).items()}
    if speed and not data:
        _measure_speed(names, [images], out, checkpoints, device)
        return
    rated = load_rated(str(data), images, split, text_source, options, meta)
    if speed:
        _measure_speed(names, rated.paths, out, checkpoints, device)
        return
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
    _fail_if_not_measured([row.method for row in measured if row.error], len(measured))


def _fail_if_not_measured(failed: list[str], count: int) -> None:
    """End with exit code 1 if some of ``count`` metrics could not be measured."""
    if failed:
        shown = escape(', '.join(failed))
        title = f'{len(failed)} of {count} metrics could not be measured'
        error_console.print(f'[bold red]{title}:[/] {shown}', soft_wrap=True)
        raise typer.Exit(1)


def _measure_speed(
    metrics: list[str], images: Any, out: Path, checkpoints: list[str], device: str | None
) -> None:
    """Measure and print images a second."""
    from pyiqa_amhp.evaluation.speed import measure_speed
    from pyiqa_amhp.evaluation.speed_tables import remarks, speed_to_terminal

    weights = parse_pairs('weights', checkpoints)
    result = measure_speed(metrics, images, out, weights, device, progress=progress)
    console.print(speed_to_terminal(result.rows, result.title))
    for note in [*result.notes, *remarks(result.rows)]:
        console.print(escape(note), soft_wrap=True)
    print_written(result.files)
    _fail_if_not_measured([row.metric for row in result.rows if row.error], len(result.rows))


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
