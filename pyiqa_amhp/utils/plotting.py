"""Colours, fonts and templates shared by our figures and HTML pages.

matplotlib and jinja2 come with the extra ``demo`` and are imported only when they are needed.
"""

import base64
import io
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.text import writable

INK, MUTED, LINE = '#1d2730', '#66727d', '#dfe4e8'
RATED, PREDICTED = '#a9b4be', '#17697a'
SERIES = (PREDICTED, '#c47f2c', '#7a5c8e', '#5b7f3a')  # of models in one figure
STYLE = {
    'font.family': 'DejaVu Sans',  # ships with matplotlib, so it is the same on every machine
    'text.color': INK,
    'axes.edgecolor': LINE,
    'axes.labelcolor': MUTED,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': LINE,
    'grid.linewidth': 0.7,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
    'xtick.major.size': 0,
    'ytick.major.size': 0,
    'legend.frameon': False,
    'svg.hashsalt': 'amhp',  # the same figure gets the same element ids
}
COLORS = {'rated': RATED, 'predicted': PREDICTED, 'ink': INK, 'muted': MUTED, 'line': LINE}
PAGE_STYLE = Path(__file__).with_name('page_style.html')


@contextmanager
def drawing() -> Iterator[type]:
    """Apply our matplotlib style inside the block.

    Yields:
        matplotlib's class ``Figure``. pyplot, which may need a screen, is not used.

    Raises:
        AMHPError: matplotlib is not installed.
    """
    matplotlib = import_extra('matplotlib', 'demo')
    figure_class = import_extra('matplotlib.figure', 'demo').Figure
    with matplotlib.rc_context(STYLE):
        yield figure_class


def save_png(figure: Any, path: Path, dpi: int) -> Path:
    """Write a figure as PNG on white, atomically."""
    return write_atomically(
        path, lambda file: figure.savefig(file, format='png', dpi=dpi, facecolor='white')
    )


def data_uri(image: Path) -> str:
    """Encode an image file as a ``data:`` URI."""
    mime_type = mimetypes.guess_type(image.name)[0] or 'application/octet-stream'
    return bytes_uri(mime_type, image.read_bytes())


def bytes_uri(mime_type: str, content: bytes) -> str:
    """Encode bytes as a ``data:`` URI, so that a page needs no other file."""
    return f'data:{mime_type};base64,{base64.b64encode(content).decode()}'


def jpeg_uri(image: Image.Image, quality: int) -> str:
    """Encode an image as the ``data:`` URI of a JPEG, of Pillow's ``quality``."""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return bytes_uri('image/jpeg', buffer.getvalue())


def svg_uri(figure: Any) -> str:
    """Encode a figure as the ``data:`` URI of an SVG, whose ids cannot clash with another's."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', metadata=metadata)
    return bytes_uri('image/svg+xml', buffer.getvalue())


def render_page(template: Path, **values: Any) -> str:
    """Render an HTML page from a jinja2 template, which may include ``page_style.html``.

    Raises:
        AMHPError: jinja2 is not installed.
    """
    jinja2 = import_extra('jinja2', 'demo')
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([template.parent, PAGE_STYLE.parent]),
    )
    return writable(environment.get_template(template.name).render(colors=COLORS, **values))
