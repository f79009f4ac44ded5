"""Read image files as upright RGB, and find the image files in folders and globs."""

import functools
import glob
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pyiqa_amhp.datasets.color_profiles import is_transparent, to_srgb
from pyiqa_amhp.datasets.formats import (
    FOLDERS_OF_PROGRAMS,
    IMAGE_SUFFIXES,
    Skipped,
    extra_for,
    has_extra,
    is_image_name,
    open_image,
)
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.text import writable

MAX_PIXELS = 178_956_970
"""Limit on the pixels of an image, unless an option gives another: Pillow's own limit."""


Source = str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image


def read_image(
    source: Source,
    at_least: int | None = None,
    max_pixels: int | None = None,
    color_profiles: bool = True,
) -> Image.Image:
    """Read an image as viewers show it: upright, sRGB, 8 bits a channel, transparency on white.

    EXIF orientation is applied. Of animations and files of many pages, the first frame is read.
    16-bit grey is scaled, not clipped. 32-bit integers that fit in 16 bits are read as 16-bit;
    floats as 0..1, 0..255 or 0..65535, the first of these ranges that holds them. An embedded
    colour profile is applied, to wide grey after it was scaled to 8 bits; see
    :func:`pyiqa_amhp.datasets.color_profiles.to_srgb`. All of this is our choice; the paper does
    not say.

    Args:
        source: path, bytes of a file, open binary file (read from its start, left open), or
            Pillow image of any mode (left as it is).
        at_least: pixels that are enough for each side. A JPEG file is decoded at 1/2, 1/4 or 1/8
            of its size, which is several times faster, if both sides keep as many.
        max_pixels: limit on the pixels of an image, checked before it is decoded, in the place of
            Pillow's own. None: ``MAX_PIXELS``, also if Pillow's limit was raised; a program that
            lowered it (``PIL.Image.MAX_IMAGE_PIXELS``) keeps its own.
        color_profiles: whether to convert images with a colour profile to sRGB. False: their
            numbers are taken as sRGB, as in pyiqa.

    Returns:
        An image of mode ``RGB`` without metadata, that does not need the file any more.

    Raises:
        ImageReadError: the file is missing, empty, truncated, damaged, too large or not an image;
            the message begins with the path. Truncated images are refused even if Pillow is set
            to load them.
        TypeError: another type of source.
    """
    name = _source_name(source)
    try:
        with _strict_pillow(), _without_pillow_limit(max_pixels), _opened(source) as image:
            _check_size(image, max_pixels or MAX_PIXELS)
            if at_least is not None and image is not source:
                image.draft(None, (at_least, at_least))  # does nothing to other formats
            image.load()
            profile = image.info.get('icc_profile') if color_profiles else None
            with suppress(Exception):  # damaged EXIF data: the image stays as it is stored
                if image is source:  # the caller's image stays as it is
                    image = ImageOps.exif_transpose(image)
                else:
                    ImageOps.exif_transpose(image, in_place=True)
            rgb = _to_rgb(image, profile, shared=image is source)
    except Exception as error:  # Pillow's decoders raise almost any error on damaged files
        raise ImageReadError(f'{name}: {_reason(source, error)}') from error
    rgb.info = {}  # read again, the image stays as it is: it has no profile, no EXIF data
    return rgb


def odd_pixel_sum(image: Image.Image) -> bool:
    """Whether the sum of all numbers of an 8-bit image is odd: see ``should_mirror``."""
    return bool(np.bitwise_xor.reduce(np.asarray(image), axis=None) & 1)


def _opened(source: Source) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # it is the caller's to close
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    return open_image(source)


def _check_size(image: Image.Image, limit: int) -> None:
    pixels = image.width * image.height
    if pixels > limit:
        raise Image.DecompressionBombError(
            f'{image.width} x {image.height} are {pixels:,} pixels, and {limit:,} the limit'
        )


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Find the image files of files, folders and globs, each once, in the given order.

    HEIC and raw files in folders that no installed package reads, and folders in which other
    programs keep thumbnails, are left out and counted in a warning.

    Args:
        paths: files, folders and globs (``**`` is any depth). A folder is searched to any depth
            in sorted order. In folders and globs, only names that end in one of
            ``IMAGE_SUFFIXES``, or of ``EXTRA_SUFFIXES`` where its extra is installed, and do not
            begin with a dot count.

    Returns:
        Paths; relative ones stay relative. A file that is given itself is kept even if it does
        not exist or is not an image: reading it reports that.

    Raises:
        AMHPError: a folder or a glob without images.
    """
    found: dict[str, Path] = {}
    skipped = Skipped()
    try:
        for path in [paths] if isinstance(paths, str | Path) else paths:
            for file in expand(Path(path), skipped):
                found.setdefault(os.path.normcase(os.path.abspath(file)), file)
    finally:
        skipped.report()
    return list(found.values())


def expand(path: Path, skipped: Skipped | None = None) -> Iterator[Path]:
    """Yield the image files of one path as ``find_images`` does; a folder may hold millions.

    Args:
        path: a file, a folder or a glob.
        skipped: counts what is left out.
    """
    skipped = skipped or Skipped()
    if path.is_dir():
        files, what = _images_in(path, skipped), 'folder'
    elif glob.has_magic(str(path)) and not path.exists():  # a file may be called photo[1].jpg
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        folders = [m for match in matches if match.is_dir() for m in _images_in(match, skipped)]
        images = [match for match in matches if _is_image(match, skipped)]
        files = iter(sorted(images + folders))
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


def _images_in(folder: Path, skipped: Skipped, visited: set[str] | None = None) -> Iterator[Path]:
    """Yield the images in a folder, sorted; each real folder once, since links may lead back."""
    visited = set() if visited is None else visited
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    with suppress(PermissionError):
        for name in sorted(os.listdir(folder)):
            path = folder / name
            if path.is_dir():
                if name.lower() in FOLDERS_OF_PROGRAMS:
                    skipped.folders += 1
                elif not name.startswith('.'):
                    yield from _images_in(path, skipped, visited)
            elif _is_image(path, skipped):
                yield path


def _is_image(path: Path, skipped: Skipped) -> bool:
    if path.is_dir():
        return False
    if not is_image_name(path):
        skipped.count(path)
        return False
    return True


_pillow_lock = threading.Lock()
_pillow_readers = 0
_load_truncated_before = False


def _after_fork() -> None:
    """Free the lock in a forked process: a thread may hold it that exists in the parent only."""
    global _pillow_lock, _pillow_readers
    _pillow_lock = threading.Lock()
    if _pillow_readers:
        ImageFile.LOAD_TRUNCATED_IMAGES = _load_truncated_before
    _pillow_readers = 0


if hasattr(os, 'register_at_fork'):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


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


class _OwnLimit(threading.local):
    """Whether this thread reads an image whose ``max_pixels`` replaces Pillow's own limit."""

    replaces_pillows = False


_own_limit = _OwnLimit()


def _check_unless_own(check: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(check)
    def checked(size: tuple[int, int]) -> None:
        if not _own_limit.replaces_pillows:
            check(size)

    return checked


# Pillow's limit is a variable of the process, and raising it for a moment would leave all other
# threads without it. So the check itself, which readers of TIFF and GIF call too, is left out in
# the thread that has another limit.
Image._decompression_bomb_check = _check_unless_own(  # type: ignore[assignment]
    Image._decompression_bomb_check
)


@contextmanager
def _without_pillow_limit(max_pixels: int | None) -> Iterator[None]:
    _own_limit.replaces_pillows = max_pixels is not None
    try:
        yield
    finally:
        _own_limit.replaces_pillows = False


def _source_name(source: Source) -> str:
    """Return the name of an image in messages."""
    if isinstance(source, str | Path):
        return writable(source)
    if isinstance(source, Image.Image):
        name = writable(getattr(source, 'filename', '') or '')
        return name or f'<image of {source.width} x {source.height}>'
    if isinstance(source, bytes | bytearray | memoryview):
        return f'<{len(source)} bytes>'
    if hasattr(source, 'read'):
        return str(getattr(source, 'name', '<file>'))
    raise TypeError(
        'image: expected a path, bytes, a binary file or a Pillow image, got '
        f'{type(source).__name__}'
    )


def _is_empty(source: Source) -> bool:
    if isinstance(source, str | Path):
        return os.path.getsize(source) == 0
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source) == 0
    if isinstance(source, Image.Image):
        return False
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
        return (
            f'too large ({error}); scale it down, or raise the limit (--max-pixels; in Python and '
            'option files max_pixels)'
        )
    with suppress(OSError, ValueError):
        if _is_empty(source):
            return 'the file is empty; copy or download it again'
    if isinstance(error, AMHPError):  # a package is missing
        return str(error)
    extra = extra_for(_source_name(source))
    if extra and not has_extra(extra):
        return f"a file that needs an extra: pip install 'pyiqa-amhp[{extra}]' reads it"
    if isinstance(error, UnidentifiedImageError):
        return 'not an image that Pillow can read; convert it to JPEG or PNG'
    return f'a damaged or truncated image ({error}); copy or download it again'


def _to_rgb(image: Image.Image, profile: object, shared: bool) -> Image.Image:
    """Convert an image of any mode by its colour profile, if any; transparent pixels are white.

    Args:
        image: a loaded image.
        profile: the bytes of its colour profile, or None.
        shared: whether the image is the caller's, so that the result needs its own pixels.
    """
    loaded = image
    if image.mode == 'LAB':
        return _lab_to_rgb(image)
    if image.mode == 'F' or image.mode.startswith('I'):
        image = _grey_to_8_bits(image)
    image = to_srgb(image, profile)
    if is_transparent(image):
        image = image.convert('LA') if image.mode == 'La' else image
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image.convert('RGBA'))
    if image is loaded and image.mode == 'RGB' and not (shared or image.readonly):
        return image._new(image.im)  # without a copy, which takes a tenth of the time of a JPEG
    return image.convert('RGB')


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
