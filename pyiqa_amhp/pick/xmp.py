"""Star ratings in XMP sidecars, which Lightroom, digiKam and darktable read.

A sidecar is a file beside the photograph, ``photo.jpg.xmp`` (digiKam, darktable) or ``photo.xmp``
(Lightroom, for raw files). The photograph itself is never written. A sidecar that exists keeps all
that is in it but the rating.
"""

from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import write_atomically

RDF = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#'
XMP = 'http://ns.adobe.com/xap/1.0/'
RATING = f'{{{XMP}}}Rating'
NEW = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:xmp="{XMP}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
STARS = ((0.9, 5), (0.7, 4), (0.4, 3), (0.15, 2), (0.0, 1))
"""Least share of photographs that score lower, and the stars for it (our choice)."""


def stars_for(percentile: float) -> int:
    """Return the stars, 1 to 5, of a photograph.

    Args:
        percentile: the share of the other photographs that score lower, 0 to 1.
    """
    return next(stars for least, stars in STARS if percentile >= least)


def sidecar(photo: str | Path) -> Path:
    """Return the path of a photograph's sidecar: the one that exists, else ``photo.jpg.xmp``."""
    photo = Path(photo)
    full = photo.with_name(photo.name + '.xmp')
    short = photo.with_suffix('.xmp')
    return short if short.exists() and not full.exists() else full


def read_rating(path: Path) -> int | None:
    """Read the rating in a sidecar, -1 (rejected) to 5; None if there is no file or no rating.

    Raises:
        AMHPError: the file is no XMP, or the package lxml is missing.
    """
    if not path.exists():
        return None
    found = _find(_parse(path))
    try:
        return None if found is None else int(float(found))
    except ValueError:
        return None


def write_rating(path: Path, stars: int) -> None:
    """Write a rating into a sidecar, which is made if there is none.

    Args:
        path: the sidecar.
        stars: 0 to 5.

    Raises:
        AMHPError: the file is no XMP, it cannot be written, or the package lxml is missing.
    """
    etree = import_extra('lxml.etree', 'pick')
    if path.exists():
        tree = _parse(path)
    else:
        tree = etree.ElementTree(etree.fromstring(NEW.encode(), _parser()))
    _set(tree, str(stars), path)
    data = etree.tostring(tree, encoding='UTF-8', xml_declaration=False)
    write_atomically(path, lambda file: file.write_bytes(data))


def _parser() -> Any:
    etree = import_extra('lxml.etree', 'pick')
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)


def _parse(path: Path) -> Any:
    etree = import_extra('lxml.etree', 'pick')
    try:
        tree = etree.parse(str(path), _parser())
    except (etree.XMLSyntaxError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise AMHPError(f'{path}: not an XMP file ({reason}); move it away, or mend it') from error
    if tree.find(f'.//{{{RDF}}}Description') is None:
        raise AMHPError(f'{path}: no RDF description in it, so it is not an XMP file; move it away')
    return tree


def _find(tree: Any) -> str | None:
    """Find the rating: an attribute of a description, or an element in it."""
    for description in tree.iter(f'{{{RDF}}}Description'):
        if RATING in description.attrib:
            return description.get(RATING)
        element = description.find(RATING)
        if element is not None:
            return element.text
    return None


def _set(tree: Any, rating: str, path: Path) -> None:
    for description in tree.iter(f'{{{RDF}}}Description'):
        element = description.find(RATING)
        if element is not None:
            element.text = rating
            return
        if RATING in description.attrib:
            description.set(RATING, rating)
            return
    tree.find(f'.//{{{RDF}}}Description').set(RATING, rating)
