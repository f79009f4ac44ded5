"""The command ``amhp``. Heavy imports wait until a command needs them."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.app import app as serve_page
from pyiqa_amhp.cli.benchmark import benchmark, reproduce
from pyiqa_amhp.cli.explain import explain
from pyiqa_amhp.cli.options import Device, ListsOfWords, Weights
from pyiqa_amhp.cli.output import console, escape, list_problems, problems, progress
from pyiqa_amhp.cli.score import score
from pyiqa_amhp.cli.weights import weights_app
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import limit_thread_spin

app = typer.Typer(
    name='amhp',
    help='AMHP: how beautiful a photograph is, judged from what people say about it and how good '
    'it looks. A plug-in for pyiqa.',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={'help_option_names': ['-h', '--help']},
)
app.add_typer(weights_app, name='weights')
tanet_app = typer.Typer(help='Checkpoints of TANet, a metric beside AMHP.', no_args_is_help=True)
app.add_typer(tanet_app, name='tanet')
PASS_ON = {'allow_extra_args': True, 'ignore_unknown_options': True}
DEBUG_VARIABLE = 'PYIQA_AMHP_DEBUG'


def main() -> None:
    """Run a command; what a user can mend ends in one message and exit code 1."""
    limit_thread_spin()
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # typer's own word for Ctrl-C
            raise
        problems.print('Interrupted.')
        sys.exit(130)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        kind = '' if isinstance(error, AMHPError) else f'{type(error).__name__}: '
        problems.print(f'[bold red]error:[/] {escape(kind + str(error))}', soft_wrap=True)
        if kind:
            problems.print(f'({DEBUG_VARIABLE}=1 shows where it happened)')
        sys.exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help='Folder for data, checkpoints and the report.')] = Path(
        'amhp_demo'
    ),
    seed: Annotated[int, typer.Option(help='Same seed, same numbers.')] = 0,
) -> None:
    """Train a small AMHP offline on rated photographs made here, and report how well it judges."""
    from pyiqa_amhp.demo.run import run_demo

    run_demo(out, seed)


app.command()(score)
app.command()(explain)
app.command('app')(serve_page)
app.command(cls=ListsOfWords)(benchmark)
app.command()(reproduce)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help='ava, para or aadb')],
    root: Annotated[Path, typer.Option(help='Folder of the download.')],
    out: Annotated[Path, typer.Option(help='Folder for the meta file.')] = Path('datasets_meta'),
    comments: Annotated[
        Path | None, typer.Option(help="AVA's comments, where they are not under --root.")
    ] = None,
    verify_images: Annotated[
        bool, typer.Option('--verify-images', help='Open every image; can be interrupted.')
    ] = False,
    val_images: Annotated[
        int | None,
        typer.Option(min=0, help='Training images to validate on, where there is no such split.'),
    ] = None,
    seed: Annotated[int, typer.Option(help='Of the validation split.')] = 0,
    force: Annotated[bool, typer.Option('--force', help='Overwrite an earlier result.')] = False,
) -> None:
    """Turn a download of AVA, PARA or AADB into a checked meta file, and say what was wrong."""
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
        problems.print(
            f'[yellow]{problem.count:,} {escape(problem.what)}[/]: {escape(first)}',
            soft_wrap=True,
        )
    for file in (*report.files, out / preparing.REPORT_FILE):
        console.print(f'written: {escape(str(file))}', soft_wrap=True)
    folder = escape(report.images_folder)
    console.print(f'in the option files: dataroot_target: {folder}', soft_wrap=True)


@app.command(context_settings=PASS_ON)
def train(
    ctx: typer.Context,
    opt: Annotated[Path, typer.Option('-opt', '--opt', help='Option file (YAML).')],
) -> None:
    """Train as a pyiqa option file says, and write to ./experiments.

    Our own loop on pyiqa's model class: it resumes exactly (--auto_resume) and runs in several
    processes (torchrun). Further arguments are pyiqa's: --force_yml, --auto_resume, --debug.
    """
    from pyiqa_amhp.train.pipeline import run_train

    run_train(opt, ctx.args, Path.cwd())


@app.command(context_settings=PASS_ON)
def test(
    ctx: typer.Context,
    opt: Annotated[Path, typer.Option('-opt', '--opt', help='Option file (YAML).')],
) -> None:
    """Test as a pyiqa option file says, and write to ./results.

    pyiqa's own test on our model class. Further arguments are pyiqa's.
    """
    from pyiqa_amhp.train.pipeline import run_test

    run_test(opt, ctx.args, Path.cwd())


@tanet_app.command('calibrate')
def tanet_calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' checkpoint for AVA.")],
    images: Annotated[
        list[str], typer.Argument(help='Images, folders or globs.', metavar='IMAGES...')
    ],
    out: Annotated[Path, typer.Option(help='FILE.pth or FILE.safetensors')],
    device: Device = None,
) -> None:
    """Estimate the batch-norm statistics that the authors' checkpoint lacks, and store both."""
    from pyiqa_amhp.datasets.images import find_images
    from pyiqa_amhp.model.tanet_calibration import calibrate_tanet

    files = find_images(images)
    bar = progress(files, len(files), 'Calibrating')
    found = calibrate_tanet(checkpoint, bar, out, device)
    if found.errors:
        title = f'[yellow]{len(found.errors)} of {len(files)} images were left out[/]'
        list_problems(title, found.errors)
    console.print(
        f'{found.images} images: mean {found.mean:.6g}, variance {found.variance:.6g}',
        soft_wrap=True,
    )
    console.print(f'written: {escape(str(out))}', soft_wrap=True)


@app.command()
def info() -> None:
    """Versions, devices, what is registered, which weights are found where."""
    from pyiqa_amhp.cli.info import collect_info

    for title, rows in collect_info().items():
        table = Table(title=title, title_justify='left', show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow='fold')
        for name, value in rows.items():
            table.add_row(name, escape(value))
        console.print(table)


@app.command()
def export(
    onnx: Annotated[Path, typer.Option(help='FILE.onnx; texts go to FILE_text.onnx.')],
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='amhp or another metric of that arch.')] = 'amhp',
) -> None:
    """Write AMHP as ONNX graphs for onnxruntime, OpenVINO and others, checked beside torch."""
    from pyiqa_amhp.model.export import TOLERANCE, check_file, export_onnx
    from pyiqa_amhp.scoring.scorer import create_metric

    check_file(onnx)
    exported = export_onnx(create_metric(metric, weights, 'cpu').net, onnx)
    for file in exported.files:
        console.print(f'written: {escape(str(file))}', soft_wrap=True)
    if exported.difference is None:
        console.print("not checked: onnxruntime is missing (pip install 'pyiqa-amhp\\[onnx]')")
    else:
        console.print(
            f'largest score difference to torch: {exported.difference:.1e} on a scale of 1 to 10 '
            f'(at most {TOLERANCE:g})'
        )
