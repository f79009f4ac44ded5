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
    by_name = dict(zip(names, table['text'], strict=True))
    texts: list[str | None] = [None] * len(images)
    taken: dict[str, Path] = {}
    for i, image in enumerate(images):
        name = next((end for end in _ends(image) if end in by_name), None)
        if name is None:
            continue
        if name in taken:
            raise AMHPError(
                f'{path}: {name!r} fits both {taken[name]} and {image}; give more of their paths'
            )
        taken[name], texts[i] = image, by_name[name]
    if not taken:
        raise AMHPError(
            f'{path}: no img_name fits any of the {len(images)} images (first: {images[0]})'
        )
    if len(taken) < len(images):
        logger.warning(
            '%s: %d of %d images have no text', path, len(images) - len(taken), len(images)
        )
    return texts


def _ends(image: Path) -> Iterator[str]:
    """``/a/b/c.jpg``, ``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = image.absolute().as_posix().split('/')
    return ('/'.join(parts[i:]) for i in range(len(parts)))
