"""Explanations of many images as a folder: JSON, a card for each image, and a sortable page."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import ImageReadError
from pyiqa_amhp.explain import words
from pyiqa_amhp.explain.card import draw_card
from pyiqa_amhp.explain.explanation import Explanation, explain
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import check_folder, write_text, writing_to
from pyiqa_amhp.utils.plotting import jpeg_uri, render_page
from pyiqa_amhp.utils.text import writable

CARDS, JSON_NAME, PAGE_NAME = 'cards', 'explanations.json', 'index.html'
THUMBNAIL = 320  # pixels of the longer side
MAX_NAME = 120  # bytes of a card's name; file systems allow 255


@dataclass
class Entry:
    """Explanation of one image of many.

    Attributes:
        path: the path of the image, as it was given.
        explanation: the explanation; None if the image could not be read.
        card: the file name of the card in the folder of cards, ``''`` if there is none.
        thumbnail: a small picture as a data URI, ``''`` if there is none.
        error: the reason why there is no explanation, else ``''``.
    """

    path: str
    explanation: Explanation | None = None
    card: str = ''
    thumbnail: str = ''
    error: str = ''

    @property
    def name(self) -> str:
        """Name of the image file as it is shown, see ``writable``."""
        return writable(Path(self.path).name)

    def to_dict(self) -> dict[str, Any]:
        """Convert to values for JSON: ``path``, and either ``error`` or the explanation."""
        if self.explanation is None:
            return {'path': writable(self.path), 'error': writable(self.error)}
        card = {'card': f'{CARDS}/{self.card}'} if self.card else {}
        return {'path': writable(self.path), **card, **self.explanation.to_dict()}


def check_output(out: Path) -> Path:
    """Check that the folder can be written, before any explanation is computed.

    Returns:
        Its path; ``~`` is expanded.

    Raises:
        AMHPError: matplotlib or jinja2 is missing, the path is that of a file, or the folder
            cannot be made.
    """
    out = check_folder(out)
    for name in ('matplotlib', 'jinja2'):
        import_extra(name, 'demo')
    with writing_to(out):
        (out / CARDS).mkdir(parents=True, exist_ok=True)
    return out


def explain_files(
    net: AMHP,
    paths: Iterable[str | Path],
    texts: Iterable[str | None],
    out: Path | None = None,
    max_pixels: int | None = None,
) -> Iterator[Entry]:
    """Explain image files one after the other.

    Args:
        net: an AMHP.
        paths: image files.
        texts: a text for each image, None for no text.
        out: a folder; its folder ``cards`` gets a card for each image. None: no cards.
        max_pixels: limit on the pixels of an image, see ``read_image``.

    Yields:
        An entry for each image. An image that cannot be read has an error.
    """
    taken: set[str] = set()
    for path, text in zip(paths, texts, strict=True):
        entry = Entry(str(path))
        try:
            image = read_image(path, None, max_pixels, net.color_profiles)
        except ImageReadError as error:
            entry.error = str(error)
        else:
            entry.explanation = explain(net, image, text)
            if out is not None:
                entry.card = card_name(Path(path).stem, taken)
                entry.thumbnail = thumbnail(image)
                draw_card(out / CARDS / entry.card, entry.name, image, entry.explanation)
        yield entry


def card_name(stem: str, taken: set[str]) -> str:
    """Choose a unique name for the card of an image, even if the file system ignores case.

    Args:
        stem: name of the image without its suffix. Characters that some file systems or URLs do
            not allow become ``_``.
        taken: the names in use, case-folded. The new name is added.
    """
    plain = re.sub(r'[^\w .()+-]', '_', stem).encode()[:MAX_NAME].decode('utf-8', 'ignore')
    plain = plain.strip(' .') or 'image'
    name, number = plain, 1
    while name.casefold() in taken:
        number += 1
        name = f'{plain}-{number}'
    taken.add(name.casefold())
    return f'{name}.png'


def thumbnail(image: Image.Image) -> str:
    """Encode a small JPEG of an image as a data URI."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return jpeg_uri(small, quality=80)


def write_folder(out: Path, entries: list[Entry], title: str) -> list[Path]:
    """Write ``explanations.json`` and ``index.html`` beside the cards.

    Args:
        out: the folder.
        entries: the entries that ``explain_files`` yielded.
        title: a line below the heading of the page.

    Returns:
        The two files.
    """
    values = json.dumps([entry.to_dict() for entry in entries], indent=1) + '\n'
    best_first = sorted(entries, key=lambda e: -e.explanation.score if e.explanation else math.inf)
    page = render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        notes=dict.fromkeys(
            e.explanation.note for e in entries if e.explanation and e.explanation.note
        ),
        entries=best_first,
        failed=sum(entry.explanation is None for entry in entries),
        with_map=any(e.explanation and e.explanation.relevance for e in entries),
        address=lambda entry: f'{CARDS}/{quote(entry.card)}',
        words=words,
    )
    return [
        write_text(out / JSON_NAME, values),
        write_text(out / PAGE_NAME, page),
    ]
