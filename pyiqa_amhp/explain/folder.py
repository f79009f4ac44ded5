"""Explanations of many images as a folder: JSON, a card each, and a page that can be sorted."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import ImageReadError
from pyiqa_amhp.explain import words
from pyiqa_amhp.explain.explanation import Explanation, explain
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.plotting import bytes_uri, render_page

CARDS, JSON_NAME, PAGE_NAME = 'cards', 'explanations.json', 'index.html'
THUMBNAIL = 320  # pixels of the longer side
LONGEST_NAME = 120  # bytes of a card's name: file systems take 255


@dataclass
class Entry:
    """What became of one image.

    Attributes:
        path: as it was given. found: None where the image could not be read.
        card: the name of its card, in the folder of cards. thumbnail: as the address of a picture.
        error: why there is no explanation, else ''.
    """

    path: str
    found: Explanation | None = None
    card: str = ''
    thumbnail: str = ''
    error: str = ''

    @property
    def name(self) -> str:
        """The file's name, in characters that can be written."""
        return Path(self.path).name.encode('utf-8', 'replace').decode()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; ``path``, and ``error`` or all of the explanation."""
        if self.found is None:
            return {'path': self.path, 'error': self.error}
        card = {'card': f'{CARDS}/{self.card}'} if self.card else {}
        return {'path': self.path, **card, **self.found.to_dict()}


def check_output(out: Path) -> None:
    """See that a folder can be written, before anything is computed for it.

    Raises:
        AMHPError: matplotlib or jinja2 is missing.
        OSError: a file of that name, or a folder that may not be made.
    """
    for name in ('matplotlib', 'jinja2'):
        import_extra(name, 'demo')
    (out / CARDS).mkdir(parents=True, exist_ok=True)


def explain_files(net, paths, texts, out: Path | None = None) -> Iterator[Entry]:
    """Explain image files one after the other; with ``out``, draw their cards there.

    Args:
        net: an AMHP. paths: image files. texts: one for each, None where there is none.

    Yields:
        An ``Entry`` each; of a file that cannot be read, with its error.
    """
    taken: set[str] = set()
    for path, text in zip(paths, texts, strict=True):
        entry = Entry(str(path))
        try:
            image = read_image(path)
        except ImageReadError as error:
            entry.error = str(error)
        else:
            entry.found = explain(net, image, text)
            if out is not None:
                from pyiqa_amhp.explain.card import draw_card

                entry.card = card_name(Path(path).stem, taken)
                entry.thumbnail = thumbnail(image)
                draw_card(out / CARDS / entry.card, entry.name, image, entry.found)
        yield entry


def card_name(stem: str, taken: set[str]) -> str:
    """A name for an image's card that no other has, on file systems blind to case too.

    Args:
        stem: the image's name without its suffix; characters that some file systems or addresses
            do not take become ``_``.
        taken: the names so far, in lower case; gets this one.
    """
    plain = re.sub(r'[^\w .()+-]', '_', stem).encode()[:LONGEST_NAME].decode('utf-8', 'ignore')
    plain = plain.strip(' .') or 'image'
    name, number = plain, 1
    while name.casefold() in taken:
        number += 1
        name = f'{plain}-{number}'
    taken.add(name.casefold())
    return f'{name}.png'


def thumbnail(image: Image.Image) -> str:
    """A small JPEG as the address of a picture."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=80)
    return bytes_uri('image/jpeg', buffer.getvalue())


def write_folder(out: Path, entries: list[Entry], title: str) -> list[Path]:
    """Write ``explanations.json`` and ``index.html`` beside the cards.

    Args:
        title: what the page is of, below its heading.

    Returns:
        The two files.
    """
    values = json.dumps([entry.to_dict() for entry in entries], indent=1) + '\n'
    best_first = sorted(entries, key=lambda e: -e.found.score if e.found else float('inf'))
    page = render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        entries=best_first,
        failed=sum(entry.found is None for entry in entries),
        address=lambda entry: f'{CARDS}/{quote(entry.card)}',
        readable=lambda text: text.encode('utf-8', 'replace').decode(),
        words=words,
    )
    return [
        write_atomically(out / JSON_NAME, lambda file: file.write_text(values, 'utf-8')),
        write_atomically(out / PAGE_NAME, lambda file: file.write_text(page, 'utf-8')),
    ]
