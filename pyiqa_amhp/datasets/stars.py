"""Read the ratings that photographers gave in their programs: ``xmp:Rating``, 1 to 5 stars.

The rating of a photograph is, in this order, that of the sidecar ``photo.jpg.xmp`` (darktable,
digiKam), of the sidecar ``photo.xmp`` (Lightroom), or of the XMP packet in the file. Programs that
write sidecars leave the file as it is, so that a sidecar is the newer one (our choice).

XMP knows two more values (Adobe, "XMP Specification Part 2", xmp:Rating): -1 is "rejected", 0 is
"unrated". Neither is a number of stars, and both are left out and counted (our choice): a rejected
photograph may be a beautiful one of which there is a better copy.
"""

import codecs
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from pyiqa_amhp.errors import AMHPError

STARS = (1.0, 5.0)
"""Ends of the scale of stars."""

XMP, RDF = 'http://ns.adobe.com/xap/1.0/', 'http://www.w3.org/1999/02/22-rdf-syntax-ns#'
RATING = f'{{{XMP}}}Rating'
DESCRIPTION = f'{{{RDF}}}Description'
JPEG_HEADER = b'http://ns.adobe.com/xap/1.0/\x00'
TIFF_TAG = 700
MAX_BYTES = 16 * 2**20  # of a packet or a sidecar (our choice); they have some kilobytes


@dataclass
class StarRatings:
    """Star ratings of photographs.

    Attributes:
        stars: the rating of each rated photograph, 1 to 5, by its path.
        sidecars: number of ratings that are from sidecars.
        unrated: number of photographs without a rating, or with 0.
        rejected: number of photographs with -1.
        problems: what is wrong with the ratings that could not be read.
    """

    stars: dict[Path, float] = field(default_factory=dict)
    sidecars: int = 0
    unrated: int = 0
    rejected: int = 0
    problems: list[str] = field(default_factory=list)


def read_stars(images: Iterable[Path]) -> StarRatings:
    """Read the star ratings of photographs.

    Args:
        images: paths of image files.
    """
    found = StarRatings()
    for image in images:
        try:
            rating, is_sidecar = _rating_of(image)
        except AMHPError as error:
            found.problems.append(str(error))
            continue
        if rating is None or rating == 0:
            found.unrated += 1
        elif rating == -1:
            found.rejected += 1
        else:
            found.stars[image] = rating
            found.sidecars += is_sidecar
    return found


def rating_in_xmp(packet: bytes, name: str) -> float | None:
    """Read ``xmp:Rating`` from an XMP packet, as an attribute or as an element.

    Args:
        packet: XML in any encoding that XMP allows.
        name: name of its file, for messages.

    Returns:
        The number; None if there is none.

    Raises:
        AMHPError: no XML, or a rating that is not -1, 0, or 1 to 5. Document types, with which XML
            can expand to any size, are refused; XMP has none.
    """
    if len(packet) > MAX_BYTES:
        raise AMHPError(f'{name}: XMP of {len(packet):,} bytes, expected {MAX_BYTES:,} at most')
    plain = packet.replace(b'\0', b'')  # UTF-16 and UTF-32 too
    if b'<!DOCTYPE' in plain or b'<!ENTITY' in plain:
        raise AMHPError(f'{name}: XMP with a document type, which is not read')
    try:
        is_wide = packet.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        root = ElementTree.fromstring(packet if is_wide else packet.strip(b'\0 \t\r\n'))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AMHPError(f'{name}: damaged XMP ({error})') from None
    for description in root.iter(DESCRIPTION):
        text = description.get(RATING)
        if text is None:
            text = description.findtext(RATING)
        if text is not None and text.strip():
            return _number(text.strip(), name)
    return None


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number in (-1, 0) or STARS[0] <= number <= STARS[1]):
        raise AMHPError(f'{name}: xmp:Rating {text[:20]!r}, expected -1, 0, or 1 to 5')
    return number


def _rating_of(image: Path) -> tuple[float | None, bool]:
    """Return the rating of a photograph, and whether it is from a sidecar."""
    for sidecar in (Path(f'{image}.xmp'), Path(f'{image}.XMP'), image.with_suffix('.xmp')):
        if sidecar.is_file():
            try:
                if os.path.getsize(sidecar) > MAX_BYTES:
                    raise AMHPError(f'{sidecar}: larger than {MAX_BYTES:,} bytes')
                content = sidecar.read_bytes()
            except OSError as error:
                raise AMHPError(f'{sidecar}: cannot be read ({error.strerror})') from None
            rating = rating_in_xmp(content, str(sidecar))
            if rating is not None:
                return rating, True
    packet = _packet_in(image)
    return (rating_in_xmp(packet, str(image)) if packet else None), False


def _packet_in(path: Path) -> bytes:
    """Return the XMP packet in an image file; b'' if there is none, or it is no image."""
    try:
        with Image.open(path) as image:
            info = image.info
            packet = info.get('xmp') or info.get('XML:com.adobe.xmp') or b''
            if not packet and hasattr(image, 'tag_v2'):
                packet = image.tag_v2.get(TIFF_TAG) or b''
            for marker, content in getattr(image, 'applist', ()):  # of JPEG, in older Pillow
                if not packet and marker == 'APP1' and content.startswith(JPEG_HEADER):
                    packet = content
    except Exception:  # a damaged image; reading its pixels reports that
        return b''
    if isinstance(packet, tuple):  # TIFF's bytes as numbers
        packet = bytes(packet)
    packet = packet.encode() if isinstance(packet, str) else bytes(packet)
    return packet.removeprefix(JPEG_HEADER)
