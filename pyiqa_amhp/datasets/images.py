"""Read image files as upright RGB, and find the image files in folders and globs."""

import glob
import io
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pyiqa_amhp.errors import AMHPError, ImageReadError

IMAGE_SUFFIXES = frozenset((
    '.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.mpo', '.pbm', '.pgm',
    '.png', '.pnm', '.ppm', '.tga', '.tif', '.tiff', '.webp',
))  # fmt: skip
"""Suffixes of image files in folders and globs, in upper or lower case (our choice)."""

FORMATS = (
    'AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TGA', 'TIFF', 'WEBP',
)  # fmt: skip
"""Formats that are read, whatever the name of a file. Pillow knows more, some of which run programs
(Ghostscript for EPS) or hold images larger than their header says (ICO, ICNS, FITS)."""

MAX_PIXELS = 178_956_970
"""Limit on the pixels of an image, unless an option gives another: Pillow's own limit."""


Source = str | Path | bytes | bytearray | memoryview | IO[bytes]


def read_image(
    source: Source,
    at_least: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Read an image as viewers show it: upright, RGB, 8 bits a channel, transparency on white.

    EXIF orientation is applied. Of animations and files of many pages, the first frame is read.
    16-bit grey is scaled, not clipped. 32-bit integers that fit in 16 bits are read as 16-bit;
    floats as 0..1, 0..255 or 0..65535, the first of these ranges that holds them. Colour profiles
    are not applied, as in pyiqa. All of this is our choice; the paper does not say.

    Args:
        source: path, bytes of a file, or open binary file (read from its start, left open).
        at_least: pixels that are enough for each side. A JPEG is decoded at 1/2, 1/4 or 1/8 of
            its size, which is several times faster, if both sides keep as many.
        max_pixels: limit on the pixels of an image, checked before it is decoded. None:
            ``MAX_PIXELS``, whatever limit Pillow is set to. For more than that, raise
            ``PIL.Image.MAX_IMAGE_PIXELS`` too.

    Returns:
        An image of mode ``RGB`` that does not need the file any more.

    Raises:
        ImageReadError: the file is missing, empty, truncated, damaged, too large or not an image;
            the message begins with the path. Truncated images are refused even if Pillow is set
            to load them.
        TypeError: another type of source.
    """
    name = _source_name(source)
    try:
        with _strict_pillow(), Image.open(_as_file(source), formats=_formats()) as image:
            _check_size(image, max_pixels or MAX_PIXELS)
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # does nothing to other formats
            image.load()
            with suppress(Exception):  # damaged EXIF data: the image stays as it is stored
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise almost any error on damaged files
        raise ImageReadError(f'{name}: {_reason(source, error)}') from error


def _formats() -> list[str]:
    """List those of ``FORMATS`` that the installed Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(image: Image.Image, limit: int) -> None:
    pixels = image.width * image.height
    if pixels > limit:
        raise Image.DecompressionBombError(
            f'{image.width} x {image.height} are {pixels:,} pixels, and {limit:,} the limit'
        )


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Find the image files of files, folders and globs, each once, in the given order.

    Args:
        paths: files, folders and globs (``**`` is any depth). A folder is searched to any depth
            in sorted order. In folders and globs, only names that end in one of
            ``IMAGE_SUFFIXES`` and do not begin with a dot count.

    Returns:
        Paths; relative ones stay relative. A file that is given itself is kept even if it does
        not exist or is not an image: reading it reports that.

    Raises:
        AMHPError: a folder or a glob without images.
    """
    found: dict[str, Path] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in expand(Path(path)):
            found.setdefault(os.path.normcase(os.path.abspath(file)), file)
    return list(found.values())


def expand(path: Path) -> Iterator[Path]:
    """Yield the image files of one path as ``find_images`` does; a folder may hold millions."""
    if path.is_dir():
        files, what = _images_in(path), 'folder'
    elif glob.has_magic(str(path)) and not path.exists():  # a file may be called photo[1].jpg
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        folders = [file for match in matches if match.is_dir() for file in _images_in(match)]
        files = iter(sorted([match for match in matches if _is_image(match)] + folders))
        what = 'glob'
    else:
        yield path
        return
    first = next(files, None)
    if first is None:
        raise AMHPError(
            f'{path}: no images in this {what}; expected files that end in '
            f'{", ".join(sorted(IMAGE_SUFFIXES))}'
        )
    yield first
    yield from files


def _images_in(folder: Path, visited: set[str] | None = None) -> Iterator[Path]:
    """Yield the images in a folder, sorted; each real folder once, since links may lead back."""
    visited = set() if visited is None else visited
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    with suppress(PermissionError):
        for name in sorted(os.listdir(folder)):
            path = folder / name
            if path.is_dir() and not name.startswith('.'):
                yield from _images_in(path, visited)
            elif _is_image(path):
                yield path


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith('.')
        and not path.is_dir()
    )


_pillow_lock = threading.Lock()
_pillow_readers = 0
_load_truncated_before = False


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Make Pillow refuse truncated files, and restore its setting after the last reader.

    The setting belongs to the process, and pyiqa's AVA data set turns it on. If other code turns
    it on meanwhile, it stays on.
    """
    global _pillow_readers, _load_truncated_before
    with _pillow_lock:
        if _pillow_readers == 0:
            _load_truncated_before = ImageFile.LOAD_TRUNCATED_IMAGES
        elif ImageFile.LOAD_TRUNCATED_IMAGES:
            _load_truncated_before = True
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        _pillow_readers += 1
    try:
        yield
    finally:
        with _pillow_lock:
            _pillow_readers -= 1
            if _pillow_readers == 0 and not ImageFile.LOAD_TRUNCATED_IMAGES:
                ImageFile.LOAD_TRUNCATED_IMAGES = _load_truncated_before


def _source_name(source: Source) -> str:
    """Return the name of an image in messages."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f'<{len(source)} bytes>'
    if hasattr(source, 'read'):
        return str(getattr(source, 'name', '<file>'))
    raise TypeError(f'image: expected a path, bytes or a binary file, got {type(source).__name__}')


def _as_file(source: Source) -> str | Path | IO[bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return source


def _is_empty(source: Source) -> bool:
    if isinstance(source, str | Path):
        return os.path.getsize(source) == 0
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source) == 0
    source.seek(0)
    return not source.read(1)


def _reason(source: Source, error: Exception) -> str:
    """Describe what is wrong with the file, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return 'no such file; check the path'
    if isinstance(error, IsADirectoryError) or (
        isinstance(source, str | Path) and os.path.isdir(source)
    ):
        return 'a folder, not an image; give the path of an image'
    if isinstance(error, PermissionError):
        return 'may not be read; check the permissions of the file and its folder'
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limits = 'max_pixels and PIL.Image.MAX_IMAGE_PIXELS'
        return f'too large ({error}); scale it down, or raise {limits}'
    with suppress(OSError, ValueError):
        if _is_empty(source):
            return 'the file is empty; copy or download it again'
    if isinstance(error, UnidentifiedImageError):
        return 'not an image that Pillow can read; convert it to JPEG or PNG'
    return f'a damaged or truncated image ({error}); copy or download it again'


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode; transparent pixels become white."""
    mode = image.mode
    if mode == 'F' or mode.startswith('I'):
        image = _grey_to_8_bits(image)
    elif mode == 'LAB':
        image = _lab_to_rgb(image)
    elif _is_transparent(image):
        image = image.convert('LA') if mode == 'La' else image
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image.convert('RGBA'))
    return image.convert('RGB')


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        return True
    return image.mode == 'P' and image.palette is not None and image.palette.mode == 'RGBA'


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a grey image of mode ``I;16*``, ``I`` or ``F`` to mode ``L``."""
    values = np.asarray(image)  # (H, W)
    largest = float(values.max())
    if not np.isfinite([largest, values.min()]).all():
        raise ValueError('pixels that are NaN or infinite')
    if image.mode == 'F':
        top = next((top for top in (1, 255, 65535) if largest <= top), largest)
    else:
        top = 65535 if largest <= 65535 else 2**31 - 1
    grey = np.empty(values.shape, np.uint8)
    for row, result in zip(values, grey, strict=True):  # a whole image in float64 is large
        result[:] = np.round(row.astype(np.float64).clip(0) * (255 / top))
    return Image.fromarray(grey)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # an optional part of Pillow, present in its wheels

    lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
    rgb = ImageCms.profileToProfile(image, lab, srgb, outputMode='RGB')
    assert rgb is not None  # it is None only when it converts in place
    return rgb
