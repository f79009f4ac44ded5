"""Options that several commands share, and helpers that read them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from pyiqa_amhp.errors import AMHPError

Paths = Annotated[
    list[str], typer.Argument(help='Image files, folders or globs.', metavar='PATH...')
]
Text = Annotated[str | None, typer.Option(help='A comment that applies to all images.')]
Texts = Annotated[
    Path | None, typer.Option(help='CSV with the columns img_name and text: a text per image.')
]
# Not a Path, which would read `hf-hub:owner/name` as the name of a local file.
Weights = Annotated[str | None, typer.Option(help='Trained checkpoint: FILE or hf-hub:user/name.')]
AMHPMetric = Annotated[
    str, typer.Option(help='A metric of arch AMHP: amhp, amhp-para, amhp-aadb or amhp-clip.')
]
Device = Annotated[
    str | None,
    typer.Option(help='Device of torch: cpu, cuda, cuda:1, mps.', show_default='a GPU if any'),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help='Images in a batch of AMHP; other metrics get one.',
        show_default='8; 256 on a GPU',
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help='Most pixels of an image that is read.', show_default='178,956,970'),
]
ColorProfiles = Annotated[
    bool,
    typer.Option(
        ' /--no-color-profiles',
        help='Do not convert images with a colour profile (ICC) to sRGB, as pyiqa.',
        show_default=False,
    ),
]
MetaFolder = Annotated[Path, typer.Option(help='Folder that amhp prepare wrote to.')]


def find_images_and_texts(
    paths: list[str], text: str | None, texts: Path | None
) -> tuple[list[Path], list[str | None]]:
    """Find the image files and the text of each.

    Args:
        paths: files, folders and globs.
        text: a text for all images.
        texts: a CSV with a text for each image.

    Raises:
        AMHPError: both a text and a CSV, no images, or a CSV that does not fit the images.
    """
    from pyiqa_amhp.datasets.images import find_images
    from pyiqa_amhp.datasets.texts import read_texts

    if text is not None and texts is not None:
        raise AMHPError('give --text (one for all images) or --texts (a CSV), not both')
    images = find_images(paths)
    return images, [text] * len(images) if texts is None else read_texts(texts, images)


def check_amhp_metric(metric: str) -> None:
    """Refuse a metric that is not an AMHP; an unknown name is left to ``create_metric``.

    Raises:
        AMHPError: the metric has another arch.
    """
    from pyiqa_amhp.scoring.scorer import arch_of

    if arch_of(metric) not in ('AMHP', None):
        raise AMHPError(f'metric {metric!r} has no explanations; only AMHP has')


class MultiValueCommand(TyperCommand):
    """A command without arguments whose options accept several values: ``--metrics a b c``."""

    def parse_args(self, ctx, args):
        """Rewrite ``--metrics a b c`` as ``--metrics a --metrics b --metrics c``."""
        multiple = {opt for p in self.params if getattr(p, 'multiple', False) for opt in p.opts}
        rewritten, option = [], None
        for arg in args:
            if arg.startswith('-'):
                option = arg.partition('=')[0]
            elif option in multiple and rewritten[-1] != option:
                rewritten.append(option)
            rewritten.append(arg)
        return super().parse_args(ctx, rewritten)


def parse_pairs(option: str, pairs: Iterable[str] | None) -> dict[str, str]:
    """Parse the values ``NAME=VALUE`` of an option into a dict.

    Args:
        option: the name of the option, for messages.
        pairs: the values; None if the option was not given.

    Raises:
        AMHPError: a value that is not ``NAME=VALUE``, or a name that is given twice.
    """
    values: dict[str, str] = {}
    for pair in pairs or ():
        name, _, value = pair.partition('=')
        if not (name and value):
            raise AMHPError(f'--{option} {pair!r}: expected NAME=VALUE')
        if name in values:
            raise AMHPError(f'--{option}: {name} is given twice')
        values[name] = value
    return values
