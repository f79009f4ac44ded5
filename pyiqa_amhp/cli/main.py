"""The command ``amhp`` and its small subcommands. Heavy packages are imported inside them."""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from pyiqa_amhp import __version__
from pyiqa_amhp.cli.app import app as serve_page
from pyiqa_amhp.cli.benchmark import benchmark, reproduce
from pyiqa_amhp.cli.explain import explain
from pyiqa_amhp.cli.fit import fit
from pyiqa_amhp.cli.info import info
from pyiqa_amhp.cli.options import (
    AMHPMetric,
    ColorProfiles,
    Device,
    MaxPixels,
    MultiValueCommand,
    Weights,
)  # fmt: skip
from pyiqa_amhp.cli.output import (
    INTERRUPTED,
    console,
    error_console,
    escape,
    list_errors,
    print_written,
    progress,
)
from pyiqa_amhp.cli.pick import pick
from pyiqa_amhp.cli.prepare import prepare
from pyiqa_amhp.cli.score import score
from pyiqa_amhp.cli.weights import weights_app
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import limit_thread_spin

DEBUG_VARIABLE = 'PYIQA_AMHP_DEBUG'
PASS_ON = {'allow_extra_args': True, 'ignore_unknown_options': True}
OptionFile = Annotated[Path, typer.Option('-opt', '--opt', help='Option file of pyiqa (YAML).')]

app = typer.Typer(
    name='amhp',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={'help_option_names': ['-h', '--help']},
)
tanet_app = typer.Typer(help='Checkpoints of TANet, another metric.', no_args_is_help=True)
app.add_typer(weights_app, name='weights')
app.add_typer(tanet_app, name='tanet')


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f'pyiqa-amhp {__version__}', highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option('--version', help='Show the version.', callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """AMHP scores the aesthetics of photographs from comments, attributes and quality levels.

    A plug-in for pyiqa.
    """


def main() -> None:
    """Run a command. An error that the user can mend ends in one message and exit code 1."""
    limit_thread_spin()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console may lack characters of a file's name
            stream.reconfigure(errors='backslashreplace')
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as error:
        # typer turns Ctrl-C into SystemExit with its own message.
        if isinstance(error, SystemExit) and error.code != INTERRUPTED:
            raise
        error_console.print('Interrupted.')
        sys.exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        kind = '' if isinstance(error, AMHPError) else f'{type(error).__name__}: '
        error_console.print(f'[bold red]error:[/] {escape(kind + str(error))}', soft_wrap=True)
        if kind:
            error_console.print(f'({DEBUG_VARIABLE}=1 shows the traceback)')
        sys.exit(1)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help='Folder for the data, the checkpoints and the report.')
    ] = Path('amhp_demo'),
    seed: Annotated[
        int, typer.Option(help='Random seed; the same seed gives the same numbers.')
    ] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            help='EfficientNet-Lite0 (ImageNet weights, extra lite), or scratch (a small CLIP from '
            'random weights).',
            show_default='EfficientNet-Lite0 if the extra lite is installed',
        ),
    ] = None,
) -> None:
    """Train and test a small AMHP offline, on generated photographs and simulated ratings."""
    from pyiqa_amhp.demo.run import run_demo

    run_demo(out, seed, encoder=encoder)


app.command()(score)
app.command()(explain)
app.command()(pick)
app.command('app')(serve_page)
app.command(cls=MultiValueCommand)(benchmark)
app.command(cls=MultiValueCommand)(reproduce)
app.command()(fit)
app.command()(prepare)


@app.command(context_settings=PASS_ON)
def train(ctx: typer.Context, opt: OptionFile) -> None:
    """Train with an option file of pyiqa, and write to ./experiments.

    Our own loop on pyiqa's model class: it resumes exactly (--auto_resume) and runs in several
    processes (torchrun). --set SECTION.NAME=VALUE changes options, as in --set train.optim.lr=1e-5.
    Further arguments are pyiqa's: --force_yml (the same with colons), --auto_resume, --debug.
    """
    from pyiqa_amhp.train.pipeline import run_train

    view = None
    if sys.stderr.isatty() and os.environ.get('RANK', '0') == '0':
        from pyiqa_amhp.train.view import TrainingView

        view = TrainingView()
    try:
        results = run_train(opt, ctx.args, Path.cwd(), view)
    finally:
        if view is not None:
            view.close()
    if view is not None:
        for name, metrics in results.items():
            best = ', '.join(
                f'{metric} {result["val"]:.4f} (step {result["iter"]})'
                for metric, result in metrics.items()
                if result['iter'] is not None
            )
            console.print(escape(f'best on {name}: {best}'), soft_wrap=True)


@app.command(context_settings=PASS_ON)
def test(ctx: typer.Context, opt: OptionFile) -> None:
    """Test with an option file of pyiqa, and write to ./results.

    pyiqa's own test on our model class. --set SECTION.NAME=VALUE changes options. Further arguments
    are pyiqa's.
    """
    from pyiqa_amhp.train.pipeline import run_test

    run_test(opt, ctx.args, Path.cwd())


@tanet_app.command('calibrate')
def tanet_calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' checkpoint for AVA.")],
    images: Annotated[
        list[str], typer.Argument(help='Image files, folders or globs.', metavar='IMAGES...')
    ],
    out: Annotated[Path, typer.Option(help='The new checkpoint: FILE.pth or FILE.safetensors.')],
    method: Annotated[
        str,
        typer.Option(
            help="stored: scores as in a batch with stored images, closer to the authors' own; "
            'needs 48 images. diagonal: two numbers in place of images; needs 2.'
        ),
    ] = 'stored',
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    device: Device = None,
) -> None:
    """Add the batch statistics that the authors' checkpoint lacks, in a new checkpoint.

    In their code a score depends on the batch. Here it never does, and a hundred images or more of
    the kind that will be scored take the place of the batch.
    """
    from pyiqa_amhp.datasets.images import find_images
    from pyiqa_amhp.model.tanet_calibration import calibrate_tanet

    files = find_images(images)
    bar = progress(files, len(files), 'Calibrating')
    reading = {'max_pixels': max_pixels, 'color_profiles': color_profiles}
    calibration = calibrate_tanet(checkpoint, bar, out, device, method, **reading)
    if calibration.errors:
        title = f'[yellow]{len(calibration.errors)} of {len(files)} images were left out[/]'
        list_errors(title, calibration.errors)
    stored = f', {calibration.stored} of them stored' if calibration.stored else ', diagonal'
    console.print(
        f'{calibration.images} images{stored}: mean {calibration.mean:.6g}, '
        f'variance {calibration.variance:.6g}',
        soft_wrap=True,
    )
    print_written([out])


app.command()(info)


@app.command()
def export(
    onnx: Annotated[
        Path, typer.Option(help='Graph of images, FILE.onnx; the text encoder is FILE_text.onnx.')
    ],
    weights: Weights = None,
    metric: AMHPMetric = 'amhp',
) -> None:
    """Export AMHP as ONNX graphs for onnxruntime, OpenVINO and others, and compare with torch."""
    from pyiqa_amhp.model.export import TOLERANCE, check_file, export_onnx
    from pyiqa_amhp.scoring.scorer import create_metric

    check_file(onnx)
    exported = export_onnx(create_metric(metric, weights, 'cpu').net, onnx)
    print_written(exported.files)
    if exported.difference is None:
        console.print("not checked: onnxruntime is missing (pip install 'pyiqa-amhp\\[onnx]')")
    else:
        console.print(
            f'largest score difference to torch: {exported.difference:.1e} on a scale of 1 to 10 '
            f'(at most {TOLERANCE:g})'
        )
