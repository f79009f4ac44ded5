"""How our pages and figures look, and what they are made with.

matplotlib and jinja2 come with the extra ``demo`` and are imported only when something is drawn.
"""

import base64
import importlib
import io
import mimetypes
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pyiqa_amhp.errors import AMHPError

INK, MUTED, LINE = '#1d2730', '#66727d', '#dfe4e8'
RATED, PREDICTED = '#a9b4be', '#17697a'
SERIES = (PREDICTED, '#c47f2c', '#7a5c8e', '#5b7f3a')  # of what stands side by side
STYLE = {
    'font.family': 'DejaVu Sans',  # inside matplotlib, so the same everywhere
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
    'svg.hashsalt': 'amhp',  # the same ids each time
}
COLORS = {'rated': RATED, 'predicted': PREDICTED, 'ink': INK, 'muted': MUTED, 'line': LINE}
PAGE_STYLE = Path(__file__).with_name('page_style.html')


def demo_module(name: str) -> ModuleType:
    """A library of the extra ``demo``.

    Raises:
        AMHPError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise AMHPError(
            f'pages and figures need {error.name}, which is not installed: '
            "pip install 'pyiqa-amhp[demo]'"
        ) from error


@contextmanager
def drawing():
    """Our style for a while, and a way to make figures that leaves pyplot and its screen alone."""
    matplotlib = demo_module('matplotlib')
    figure = demo_module('matplotlib.figure').Figure
    with matplotlib.rc_context(STYLE):
        yield figure


def data_uri(image: Path) -> str:
    """The file itself, as the address of a picture."""
    kind = mimetypes.guess_type(image.name)[0] or 'application/octet-stream'
    return bytes_uri(kind, image.read_bytes())


def bytes_uri(kind: str, data: bytes) -> str:
    """Bytes of a MIME type as the address of a picture, which needs no other file."""
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def svg_uri(figure) -> str:
    """The figure as an image of its own: ids in one never meet ids of another."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', metadata=metadata)
    return bytes_uri('image/svg+xml', buffer.getvalue())


def render_page(template: Path, **values: Any) -> str:
    """An HTML page from a jinja2 template, which may include ``page_style.html``.

    Raises:
        AMHPError: jinja2 is missing.
    """
    jinja2 = demo_module('jinja2')
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([template.parent, PAGE_STYLE.parent]),
    )
    return environment.get_template(template.name).render(colors=COLORS, **values)
