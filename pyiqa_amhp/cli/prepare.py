"""The command ``amhp prepare``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.output import console, error_console, escape, print_written, progress


def prepare(
    dataset: Annotated[str, typer.Argument(help='ava, para or aadb')],
    root: Annotated[Path, typer.Option(help='Folder of the download.')],
    out: Annotated[Path, typer.Option(help='Folder for the meta file.')] = Path('datasets_meta'),
    comments: Annotated[
        Path | None,
        typer.Option(help="File of AVA's comments.", show_default='searched below --root'),
    ] = None,
    verify_images: Annotated[
        bool,
        typer.Option(
            '--verify-images', help='Open every image; an interrupted run resumes the next time.'
        ),
    ] = False,
    val_images: Annotated[
        int | None,
        typer.Option(
            min=0,
            help='Training images to use for validation if the data set has no such split.',
            show_default='2,000, or a tenth of a small set',
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help='Random seed of the validation split.')] = 0,
    force: Annotated[bool, typer.Option('--force', help='Overwrite an earlier result.')] = False,
) -> None:
    """Convert a download of AVA, PARA or AADB to a checked meta file, and list its faults."""
    from pyiqa_amhp.datasets import prepare as preparing

    report = preparing.prepare(
        dataset, root, out, verify_images, force, seed, val_images, comments, progress
    )
    table = Table(title=f'{dataset} in {report.images_folder}', title_justify='left')
    table.add_column('')
    table.add_column('images', justify='right')
    for name, count in preparing.summary(report).items():
        table.add_row(name, f'{count:,}')
    console.print(table)
    for problem in report.problems:
        first = ', '.join(problem.where[:3]) + (', ...' if problem.count > 3 else '')
        error_console.print(
            f'[yellow]{problem.count:,} {escape(problem.what)}[/]: {escape(first)}',
            soft_wrap=True,
        )
    print_written([*report.files, out / preparing.REPORT_FILE])
    folder = escape(report.images_folder)
    console.print(f'in the option files: dataroot_target: {folder}', soft_wrap=True)
