"""The command ``amhp pick``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.options import ColorProfiles, Device, MaxPixels, Paths, Weights
from pyiqa_amhp.cli.output import console, escape, list_errors, print_written, progress


def pick(
    paths: Paths,
    out: Annotated[Path, typer.Option(help='Folder for the page, the picks and the table.')] = Path(
        'amhp_pick'
    ),
    top: Annotated[int, typer.Option(min=1, help='How many photographs to pick.')] = 20,
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='A no-reference metric of pyiqa.')] = 'amhp',
    copy: Annotated[
        bool, typer.Option('--copy', help='Copy the picks; without it there are links to them.')
    ] = False,
    xmp: Annotated[
        bool,
        typer.Option('--xmp', help='Write stars by percentile into XMP sidecars of all.'),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Replace ratings that sidecars have already.')
    ] = False,
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    device: Device = None,
) -> None:
    """Pick the best photographs of a folder, one of each burst; the same command resumes."""
    from pyiqa_amhp.datasets.images import find_images
    from pyiqa_amhp.pick import run
    from pyiqa_amhp.scoring.device import default_precision
    from pyiqa_amhp.scoring.processes import clear_errors
    from pyiqa_amhp.scoring.scorer import Scorer, arch_of, create_metric
    from pyiqa_amhp.utils.environment import check_device

    out = run.check_output(out, xmp)
    images = find_images(paths)
    check_device(device)
    precision = default_precision(arch_of(metric), device)
    scorer = Scorer(create_metric(metric, weights, device, precision=precision), color_profiles)
    title = f'{metric}, {len(images)} photographs of {" ".join(paths[:3])}'
    with clear_errors():
        result = run.pick(
            images,
            scorer,
            out,
            top,
            title + ' ...' * (len(paths) > 3),
            copy=copy,
            xmp=xmp,
            overwrite=overwrite,
            inputs=paths,
            progress=progress,
            max_pixels=max_pixels,
            color_profiles=color_profiles,
        )
    table = Table(title=f'{metric}, scale {scorer.scale_text}', title_justify='left')
    if scorer.note:
        table.caption, table.caption_justify = f'[yellow]{escape(scorer.note)}[/]', 'left'
    for name, justify in (('score', 'right'), ('stars', 'left'), ('alike', 'right')):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column('image', overflow='fold')
    table.add_column('attributes')
    for photo in result.picks:
        stars = '*' * photo.stars
        cells = (f'{photo.score:.4f}', stars, str(photo.alike), escape(photo.path), photo.words)
        table.add_row(*cells)
    console.print(table)
    if xmp:
        kept = f', {result.kept} kept the rating that they had' if result.kept else ''
        console.print(f'{result.rated} sidecars written{kept}')
    print_written(result.files)
    if failed := [photo.error for photo in result.photos if photo.error]:
        title = f'[bold red]{len(failed)} of {len(images)} photographs could not be read[/]'
        list_errors(title, failed)
        raise typer.Exit(1)
