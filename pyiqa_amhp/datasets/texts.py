"""Texts that a user gives for images: a CSV, matched by file names."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pyiqa_amhp.errors import AMHPError

logger = logging.getLogger('pyiqa_amhp')


def read_texts(path: str | Path, images: Sequence[Path]) -> list[str | None]:
    """The texts of a CSV with the columns ``img_name`` and ``text``, one for each image.

    An ``img_name`` is an image's whole path or any end of it, the file name at least.

    Raises:
        AMHPError: no such file, not a CSV, columns missing, two texts for one name, a name that
            fits several images, or no name that fits any image.
    """
    given = TextLookup(path)
    texts = [given.of(image) for image in images]
    given.check(len(images), images[0])
    return texts


class TextLookup:
    """The same, image by image: ``of`` each, ``check`` at the end."""

    def __init__(self, path: str | Path):
        self.path = path
        self._by_name = _by_name(path)
        self._taken: dict[str, Path | str] = {}

    def of(self, image: Path | str) -> str | None:
        """An image's text; None where there is none. An address is a name as it is."""
        name = next((end for end in _ends(image) if end in self._by_name), None)
        if name is None:
            return None
        if name in self._taken:
            raise AMHPError(
                f'{self.path}: {name!r} fits both {self._taken[name]} and {image}; give more of '
                'their paths'
            )
        self._taken[name] = image
        return self._by_name[name]

    def check(self, images: int, first: Path | str) -> None:
        """Say how many of the images have no text; none that has one is an error."""
        if not self._taken:
            raise AMHPError(
                f'{self.path}: no img_name fits any of the {images} images (first: {first})'
            )
        if len(self._taken) < images:
            without = images - len(self._taken)
            logger.warning('%s: %d of %d images have no text', self.path, without, images)


def _by_name(path: str | Path) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', pd.errors.ParserWarning)  # it would cut long rows
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except pd.errors.ParserWarning:
        raise AMHPError(
            f'{path}: more values than the header has columns; put a text with commas in double '
            'quotes'
        ) from None
    except (OSError, ValueError) as error:
        raise AMHPError(f'{path}: cannot be read as CSV ({error})') from error
    if missing := {'img_name', 'text'} - set(table.columns):
        raise AMHPError(f'{path}: no column {" and ".join(sorted(missing))}')
    names = table['img_name'].str.replace('\\', '/')
    if names.duplicated().any():
        raise AMHPError(f'{path}: two texts for {names[names.duplicated()].iloc[0]!r}')
    return dict(zip(names, table['text'], strict=True))


def _ends(image: Path | str) -> Iterator[str]:
    """``/a/b/c.jpg``, ``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = (image if isinstance(image, str) else image.absolute().as_posix()).split('/')
    return ('/'.join(parts[i:]) for i in range(len(parts)))
