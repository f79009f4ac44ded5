"""The command ``amhp fit``."""

from pathlib import Path
from typing import Annotated

import typer

from pyiqa_amhp.cli.output import INTERRUPTED, console, escape
from pyiqa_amhp.errors import AMHPError


def fit(
    images: Annotated[Path, typer.Option(help='Folder of the photographs.')],
    out: Annotated[Path, typer.Option(help='Checkpoint: FILE.pth or FILE.safetensors.')],
    ratings: Annotated[
        Path | None,
        typer.Argument(help='CSV with img_name and MOS, or votes; not with --stars.'),
    ] = None,
    stars: Annotated[
        bool,
        typer.Option(
            '--stars', help='Use the stars of the photographs: xmp:Rating in files or sidecars.'
        ),
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(help='Scale of the ratings, LOW..HIGH.', show_default='inferred'),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help='Column, or folder: photographs with one value are on one side of the split.'
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help='Column with train, val, test, if there are several.')
    ] = None,
    text_source: Annotated[
        str | None,
        typer.Option(help='Texts: comments, labels or none.', show_default='any there is'),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help='Encoder: EfficientNet-Lite0 or a CLIP of open_clip.')
    ] = 'EfficientNet-Lite0',
    clip_weights: Annotated[
        str | None, typer.Option(help="CLIP's weights for --encoder: FILE or a tag of open_clip.")
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            help='Activation of --clip-weights, where the file does not say.', show_default=False
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help='What is not trained: trunk, image, text, both, none.',
            show_default='by the number of photographs',
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help='Most epochs.', show_default='by the number of photographs'),
    ] = None,
    lr: Annotated[float | None, typer.Option(help='Learning rate.', show_default='3e-4')] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help='Photographs in a batch.', show_default='32, or 64 unfrozen'),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help='Seed of the split and of training.')] = 0,
    overwrite: Annotated[
        bool, typer.Option('--overwrite', help='Replace an earlier checkpoint and its folder.')
    ] = False,
) -> None:
    """Train a model on your own ratings: a CSV, or the stars of your photographs.

    The checkpoint goes to --out; a folder beside it gets the option file for `amhp train`, the
    scores of held-out photographs, a plot and the log. After Ctrl-C the best epoch so far is kept.
    """
    if stars == (ratings is not None):
        raise AMHPError('give either a CSV of ratings or --stars')
    csv_only = {'--scale': scale, '--split': split, '--text-source': text_source}
    if stars and (given := [name for name, value in csv_only.items() if value is not None]):
        raise AMHPError(f'{given[0]} is for a CSV of ratings, not for --stars')
    from pyiqa_amhp.fit import FitSettings
    from pyiqa_amhp.fit import fit as run_fit

    settings = FitSettings(
        scale=scale,
        split=split,
        group=group,
        text_source=text_source,
        encoder=encoder,
        clip_weights=clip_weights,
        quick_gelu=quick_gelu,
        freeze=freeze,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
    )
    result = run_fit(ratings, images, out, settings, overwrite, _tell, show_bars=None)
    names = ', '.join(file.name for file in result.files)
    _tell(f'written: {result.checkpoint}, and in {result.files[0].parent}: {names}')
    _tell(f'{result.seconds:.0f} s')
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _tell(line: str) -> None:
    """Print a line above a progress bar, if there is one."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        console.print(escape(line), highlight=False, soft_wrap=True)
