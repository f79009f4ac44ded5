"""Read the texts of images from a CSV, matched by file names."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyiqa_amhp.datasets.csv import parse_csv
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.image_names import image_key
from pyiqa_amhp.utils.text import given_text

logger = logging.getLogger('pyiqa_amhp')


def read_texts(path: str | Path, images: Sequence[Path]) -> list[str | None]:
    """Read the texts of images from a CSV with the columns ``img_name`` and ``text``.

    An ``img_name`` is the whole path of an image or any end of it, at least the file name.

    Returns:
        The text of each image, ``(N,)``; None for an image without one.

    Raises:
        AMHPError: no such file, not a CSV, a missing column, two texts for one name, a name that
            fits several images, or no name that fits any image.
    """
    lookup = TextLookup(path)
    texts = [lookup.find(image) for image in images]
    lookup.check_matches(len(images), images[0])
    return texts


class TextLookup:
    """The same, image by image: ``find`` for each, then ``check_matches``."""

    def __init__(self, path: str | Path):
        self.path = path
        self._text_of_name = _read_table(path)
        self._matched: dict[str, Path | str] = {}
        self._with_text = 0

    def find(self, image: Path | str) -> str | None:
        """Return the text of an image, given its path or its address; None if it has none.

        Raises:
            AMHPError: the name of its text fitted another image before.
        """
        name = next((end for end in _path_ends(image) if end in self._text_of_name), None)
        if name is None:
            return None
        if name in self._matched:
            raise AMHPError(
                f'{self.path}: {name!r} fits both {self._matched[name]} and {image}; give more of '
                'their paths'
            )
        self._matched[name] = image
        text = given_text(self._text_of_name[name])
        self._with_text += bool(text)
        return text or None

    def check_matches(self, images: int, first: Path | str) -> None:
        """Warn how many images have no text.

        Args:
            images: number of images that were looked up.
            first: path of the first one, for the message.

        Raises:
            AMHPError: no image has a text.
        """
        if not self._matched:
            raise AMHPError(
                f'{self.path}: no img_name fits any of the {images} images (first: {first})'
            )
        if without := images - self._with_text:
            logger.warning('%s: %d of %d images have no text', self.path, without, images)


def _read_table(path: str | Path) -> dict[str, str]:
    """Read the text of each name."""
    table = parse_csv(path, dtype=str, keep_default_na=False)
    if missing := {'img_name', 'text'} - set(table.columns):
        raise AMHPError(f'{path}: no column {" and ".join(sorted(missing))}')
    names = table['img_name'].map(image_key)
    if names.duplicated().any():
        raise AMHPError(f'{path}: two texts for {names[names.duplicated()].iloc[0]!r}')
    return dict(zip(names, table['text'], strict=True))


def _path_ends(image: Path | str) -> Iterator[str]:
    """Yield the ends of a path: ``/a/b/c.jpg``, ``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = image_key(image if isinstance(image, str) else image.absolute().as_posix()).split('/')
    return ('/'.join(parts[i:]) for i in range(len(parts)))
