"""The command ``amhp``. Heavy imports wait until a command needs them."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.app import app as serve_page
from pyiqa_amhp.cli.explain import explain
from pyiqa_amhp.cli.options import Device, ListsOfWords, pairs
from pyiqa_amhp.cli.output import console, escape, list_problems, problems, progress
from pyiqa_amhp.cli.score import export, score
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


@app.command(cls=ListsOfWords)
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


@app.command()
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


@app.command(context_settings=PASS_ON)
def train(
    ctx: typer.Context,
    opt: Annotated[Path, typer.Option('-opt', '--opt', help='Option file (YAML).')],
) -> None:
    """pyiqa's training pipeline, writing to ./experiments; further arguments are pyiqa's."""
    from pyiqa_amhp.train.pipeline import run_train

    run_train(opt, ctx.args, Path.cwd())


@app.command(context_settings=PASS_ON)
def test(
    ctx: typer.Context,
    opt: Annotated[Path, typer.Option('-opt', '--opt', help='Option file (YAML).')],
) -> None:
    """pyiqa's testing pipeline, writing to ./results; further arguments are pyiqa's."""
    from pyiqa_amhp.train.pipeline import run_test

    run_test(opt, ctx.args, Path.cwd())


app.command()(export)


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
