"""Drawing by pixels from the top left corner, as a page is read."""

from collections.abc import Sequence
from pathlib import Path

from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.plotting import INK

DPI = 100
FONT = 'DejaVu Sans'  # as in pyiqa_amhp/utils/plotting.py


def text_width(text: str, size: float, weight: str = 'normal') -> float:
    """Pixels that a line of text takes."""
    renderer = import_extra('matplotlib.backends.backend_agg', 'demo').RendererAgg(1, 1, DPI)
    fonts = import_extra('matplotlib.font_manager', 'demo')
    font = fonts.FontProperties(family=FONT, size=size, weight=weight)
    return renderer.get_text_width_height_descent(text, font, ismath=False)[0]


def wrapped(text: str, size: float, width: float, lines: int) -> list[str]:
    """The text in at most ``lines`` lines of ``width`` pixels, the last one cut if need be."""
    found = [' '.join(words) for words in flowed(text.split(), size, width)]
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1] + ' …']
    return [fitted(line, size, width) for line in found]


def flowed(words: Sequence[str], size: float, width: float, gap: float = 0) -> list[list[str]]:
    """The words in lines of ``width`` pixels, with ``gap`` pixels more between two."""
    lines: list[list[str]] = []
    left, blank = 0.0, text_width('n n', size) - text_width('nn', size) + gap
    for word in words:
        wide = text_width(word, size)
        if not lines or left + wide > width:
            lines.append([])
            left = 0.0
        lines[-1].append(word)
        left += wide + blank
    return lines


def fitted(text: str, size: float, width: float) -> str:
    """One line of text, cut in the middle where it is wider than ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    keep = len(text)
    while keep > 1:
        keep -= max(1, keep // 20)
        short = text[: (keep + 1) // 2] + '…' + text[len(text) - keep // 2 :]
        if text_width(short, size) <= width:
            return short
    return '…'


class PixelCanvas:
    """A figure on which places are pixels.

    Args:
        new_figure: what ``pyiqa_amhp.utils.plotting.drawing`` gives.
        width, height: in pixels.
    """

    def __init__(self, new_figure, width: int, height: int):
        self.width, self.height = width, height
        self.figure = new_figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = self.axes(0, 0, width, height)
        self.canvas.set(xlim=(0, width), ylim=(height, 0))

    def axes(self, left: float, top: float, width: float, height: float):
        """Bare axes in a box."""
        axes = self.figure.add_axes(
            (
                left / self.width,
                1 - (top + height) / self.height,
                width / self.width,
                height / self.height,
            )
        )
        axes.set_axis_off()
        return axes

    def write(self, x: float, y: float, text: str, size: float, color: str = INK, **style) -> None:
        """Text whose upper left corner is at (x, y); ``ha`` and ``va`` as in matplotlib."""
        # Without parse_math two dollar signs would start a formula.
        style = {'va': 'top', 'parse_math': False, **style}
        self.canvas.text(x, y, text, fontsize=size, color=color, **style)

    def box(self, left: float, top: float, width: float, height: float, color, **style) -> None:
        """A filled rectangle."""
        rectangle = import_extra('matplotlib.patches', 'demo').Rectangle
        patch = rectangle((left, top), width, height, facecolor=color, linewidth=0, **style)
        self.canvas.add_patch(patch)

    def save(self, path: Path) -> Path:
        """Write the sheet as a PNG, whole or not at all."""
        return write_atomically(
            path, lambda file: self.figure.savefig(file, format='png', dpi=DPI, facecolor='white')
        )
