"""Which files are images: suffixes, and formats that packages of extras read (HEIC, raw files)."""

import io
import logging
from collections import Counter
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image

from pyiqa_amhp.utils.environment import import_extra

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

EXTRA_SUFFIXES = {
    'heif': frozenset(('.heic', '.heif', '.hif')),
    'raw': frozenset((
        '.3fr', '.arw', '.cr2', '.cr3', '.crw', '.dng', '.erf', '.fff', '.iiq', '.kdc', '.mef',
        '.mos', '.mrw', '.nef', '.nrw', '.orf', '.pef', '.raf', '.rw2', '.sr2', '.srf', '.srw',
        '.x3f',
    )),
}  # fmt: skip
"""Suffixes that an extra adds, by its name."""

PACKAGES = {'heif': 'pillow_heif', 'raw': 'rawpy'}
MIN_PREVIEW = 1024  # pixels of the longer side of a raw file's preview; a smaller one is not used
FOLDERS_OF_PROGRAMS = frozenset(('@eadir', '#recycle', '__macosx'))
"""Folders, in lower case, in which other programs keep thumbnails (Synology, macOS, ...)."""

SUBFILE_TYPE = 254  # tag of TIFF; bit 0: a smaller version of another image in the file
ORIENTATION = {3: 3, 5: 8, 6: 6}  # of LibRaw, in EXIF's numbers

logger = logging.getLogger('pyiqa_amhp')


@cache
def has_extra(extra: str) -> bool:
    """Whether the package that reads the formats of an extra is installed."""
    return find_spec(PACKAGES[extra]) is not None


def extra_for(name: str | Path) -> str:
    """Return the extra that reads files of this name; '' if none is needed."""
    suffix = Path(name).suffix.lower()
    return next((extra for extra, known in EXTRA_SUFFIXES.items() if suffix in known), '')


def is_image_name(path: Path) -> bool:
    """Whether a file of this name in a folder is an image that can be read here."""
    extra = extra_for(path)
    known = has_extra(extra) if extra else path.suffix.lower() in IMAGE_SUFFIXES
    return known and not path.name.startswith('.')


class Skipped:
    """Counts what a search of folders leaves out, and says so once.

    Attributes:
        files: the number of files, by the extra that would read them.
        folders: the number of folders of other programs.
    """

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.folders = 0

    def count(self, path: Path) -> None:
        """Count a file that is no image, if an extra would read it."""
        extra = extra_for(path)
        if extra and not has_extra(extra) and not path.name.startswith('.'):
            self.files[extra] += 1

    def report(self) -> None:
        """Warn with the numbers, if there are any."""
        for extra, number in self.files.items():
            what = {'heif': 'HEIC', 'raw': 'raw'}[extra]
            logger.warning(
                "%d %s file%s skipped: pip install 'pyiqa-amhp[%s]' reads them",
                number,
                what,
                ' was' if number == 1 else 's were',
                extra,
            )
        if self.folders:
            one = self.folders == 1
            logger.warning(
                "%d folder%s of other programs' thumbnails %s skipped (@eaDir, __MACOSX, ...)",
                self.folders,
                '' if one else 's',
                'was' if one else 'were',
            )


def readable_formats() -> list[str]:
    """List the formats that Pillow can read here, with HEIF where its package is installed."""
    Image.init()
    if has_extra('heif') and 'HEIF' not in Image.OPEN:
        import_extra('pillow_heif', 'heif').register_heif_opener()
    return [name for name in (*FORMATS, 'HEIF') if name in Image.OPEN]


def open_image(source: str | Path | IO[bytes]) -> Image.Image:
    """Open a file of any readable format; pixels are decoded later.

    Raises:
        AMHPError: a raw file, and the package rawpy is missing.
        Exception: whatever Pillow or rawpy raise for files that they cannot read.
    """
    name = source if isinstance(source, str | Path) else getattr(source, 'name', '')
    if extra_for(str(name)) == 'raw':
        return open_raw(source)
    image = Image.open(source, formats=readable_formats())
    if image.format == 'TIFF' and image.tag_v2.get(SUBFILE_TYPE, 0) & 1:  # type: ignore[attr-defined]
        if isinstance(source, str | Path):  # a thumbnail: the file is a raw file
            image.close()
        else:
            source.seek(0)
        return open_raw(source)
    return image


def open_raw(source: str | Path | IO[bytes]) -> Image.Image:
    """Open a raw file of a camera: its embedded preview if that is large enough, else developed.

    The preview is what the camera made of it, and is read many times faster.

    Raises:
        AMHPError: the package rawpy is missing.
        Exception: whatever rawpy raises for files that it cannot read.
    """
    rawpy: Any = import_extra('rawpy', 'raw')
    with rawpy.imread(str(source) if isinstance(source, Path) else source) as raw:
        preview = None
        with suppress(rawpy.LibRawError):  # none, or one of another kind
            thumbnail = raw.extract_thumb()
            if thumbnail.format == rawpy.ThumbFormat.JPEG:
                preview = Image.open(io.BytesIO(thumbnail.data), formats=['JPEG'])
        if preview is not None and max(preview.size) >= MIN_PREVIEW:
            if ExifTags.Base.Orientation not in preview.getexif():
                preview.getexif()[ExifTags.Base.Orientation] = ORIENTATION.get(raw.sizes.flip, 1)
            return preview
        return Image.fromarray(raw.postprocess(use_camera_wb=True))  # upright
