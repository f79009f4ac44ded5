"""Options that several commands have, and those that typer has no form for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from pyiqa_amhp.errors import AMHPError

Paths = Annotated[list[str], typer.Argument(help='Images, folders or globs.', metavar='PATH...')]
SaidText = Annotated[str | None, typer.Option(help='What is said about the images.')]
SaidTexts = Annotated[Path | None, typer.Option(help='CSV with the columns img_name and text.')]
# Not a Path, which would take `hf-hub:owner/name` for a name of the file system.
Weights = Annotated[
    str | None, typer.Option(help='A trained checkpoint: FILE or hf-hub:user/name.')
]
Device = Annotated[str | None, typer.Option(help='cpu, cuda, ...')]


def images_and_texts(
    paths: list[str], text: str | None, texts: Path | None
) -> tuple[list[Path], list[str | None]]:
    """The image files that are meant, and what is said about each.

    Raises:
        AMHPError: both options of texts, no images, or texts that do not fit.
    """
    from pyiqa_amhp.datasets.images import find_images
    from pyiqa_amhp.datasets.texts import read_texts

    if text is not None and texts is not None:
        raise AMHPError('give --text (one for all images) or --texts (a CSV), not both')
    images = find_images(paths)
    return images, [text] * len(images) if texts is None else read_texts(texts, images)


def check_explains(metric: str) -> None:
    """Refuse a metric that cannot say why; an unknown name is left to ``create_metric``.

    Raises:
        AMHPError: another arch than AMHP.
    """
    from pyiqa_amhp.scoring.scorer import arch_of

    if arch_of(metric) not in ('AMHP', None):
        raise AMHPError(f'metric {metric!r} cannot explain itself; only AMHP can')


class ListsOfWords(TyperCommand):
    """A command without arguments, whose options may take several words: ``--metrics a b c``."""

    def parse_args(self, ctx, args):
        """Read ``--metrics a b c`` as ``--metrics a --metrics b --metrics c``."""
        several = {opt for p in self.params if getattr(p, 'multiple', False) for opt in p.opts}
        spread, last = [], None
        for word in args:
            if word.startswith('-'):
                last = word.partition('=')[0]
            elif last in several and spread[-1] != last:
                spread.append(last)
            spread.append(word)
        return super().parse_args(ctx, spread)


def pairs(option: str, given: Iterable[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` words of an option, by name.

    Raises:
        AMHPError: another form, or a name twice.
    """
    found = {}
    for pair in given or ():
        name, _, value = pair.partition('=')
        if not (name and value):
            raise AMHPError(f'--{option} {pair!r}: expected NAME=VALUE')
        if name in found:
            raise AMHPError(f'--{option}: {name} is given twice')
        found[name] = value
    return found
