"""Draws the pictures of the method: python docs/pictures/draw.py

The numbers in them are made up where they stand for what an encoder would say, and computed from
these by AMHP's own functions everywhere else.
"""

import math
from pathlib import Path

import numpy as np
import torch

from pyiqa_amhp.datasets.ratings import LEVELS, SCALES
from pyiqa_amhp.model.amhp import level_distribution, level_logits
from pyiqa_amhp.train.loss import emd
from pyiqa_amhp.utils.plotting import INK, LINE, MUTED, PREDICTED, RATED, SERIES, drawing

HERE = Path(__file__).parent
VALUES = SCALES['ava'].level_values
TEXT, LEARNED = SERIES[1], SERIES[2]
TAU = 0.07
COMMENT = '“Lovely soft light,\nstrong diagonals”'


def photograph(height: int = 90, width: int = 130) -> np.ndarray:
    """A sunset over hills, ``(height, width, 3)`` in [0, 1]: nobody's photograph."""
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    sky = np.stack([0.98 - 0.35 * (1 - y), 0.62 - 0.2 * (1 - y), 0.42 + 0.25 * (1 - y)], axis=-1)
    sun = np.exp(-(((x - 0.95) ** 2 + (y - 0.48) ** 2) / 0.012))[..., None]
    picture = sky + sun * (np.array([1.0, 0.93, 0.7]) - sky)
    for base, swing, shade in ((0.62, 0.07, 0.45), (0.76, 0.05, 0.25)):
        hill = y > base + swing * np.sin(6 * x + 5 * base)
        picture[hill] = np.array([0.35, 0.32, 0.42]) * shade * 1.6
    return np.clip(picture, 0, 1)


def canvas(new_figure, width: float, height: float):
    """A figure, and axes over all of it in units of a tenth of an inch."""
    figure = new_figure(figsize=(width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis('off')
    return figure, axes


def box(axes, x, y, width, height, text, color=PREDICTED, size=9.5, filled=False):
    """A rounded box with words in its middle."""
    from matplotlib.patches import FancyBboxPatch

    style = f'round,pad=0,rounding_size={min(width, height) / 6}'
    face = color if filled else 'white'
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=face, ec=color, lw=1.2))
    ink = 'white' if filled else INK
    axes.text(x + width / 2, y + height / 2, text, ha='center', va='center', size=size, color=ink)


def arrow(axes, start, end, color=MUTED, **style):
    """An arrow between two points."""
    arrowprops = {'arrowstyle': '-|>', 'color': color, 'lw': 1.2, 'shrinkA': 0, 'shrinkB': 0}
    axes.annotate('', xy=end, xytext=start, arrowprops=arrowprops | style)


def save(figure, name: str) -> Path:
    """An SVG that is the same each time."""
    metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(HERE / name, format='svg', metadata=metadata, facecolor='white')
    return HERE / name


def example():
    """Features in a plane that stand for CLIP's: of the image, the fused ones, of the levels."""

    def unit(degrees):
        angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    Fx, FTa = unit([79.0]), unit([128.0, 108.0, 88.0, 68.0, 48.0])
    R = torch.tensor([[0.36, -0.02]], dtype=torch.float64)
    return Fx, R, R + Fx, FTa  # Eq. 5


def distribution(feature, FTa):
    """Eq. 6 and 7 on features of the example: ``(k,)``."""
    logit = level_logits(feature, FTa)
    return level_distribution(logit, torch.tensor(math.log(1 / TAU)))[0]


def draw_overview(new_figure) -> Path:
    """Both levels of prompts, from the photograph to the score."""
    figure, axes = canvas(new_figure, 86, 47)
    label = {'size': 9, 'color': MUTED, 'ha': 'center', 'va': 'center'}

    axes.imshow(photograph(), extent=(1.5, 14.5, 33, 42), aspect='auto', zorder=2)
    axes.text(8, 44, 'image $x$', **label)
    axes.text(8, 26.5, COMMENT, size=9, style='italic', color=INK, ha='center', va='center')
    axes.text(8, 30, 'text $t$', **label)
    sentences = [f'A photo with {level} aesthetics.' for level in LEVELS]
    for i, sentence in enumerate(sentences):
        axes.text(1, 14 - 2.6 * i, sentence, size=8, color=INK, va='center')
    axes.text(8, 17.2, '$k$ quality levels $T_a$', **label)

    box(axes, 21, 34.2, 11, 6.6, 'image\nencoder', PREDICTED, filled=True)
    box(axes, 21, 23.2, 11, 6.6, 'text\nencoder', TEXT, filled=True)
    box(axes, 21, 5.6, 11, 6.6, 'text\nencoder', TEXT, filled=True)
    arrow(axes, (15, 37.5), (20.7, 37.5))
    arrow(axes, (15.6, 26.5), (20.7, 26.5))
    arrow(axes, (17.2, 8.9), (20.7, 8.9))
    axes.plot([26.5, 26.5], [12.6, 22.8], color=TEXT, lw=1, ls=(0, (2, 2)))
    axes.text(27.2, 17.6, 'the same', size=8, color=MUTED, va='center')

    axes.text(34.8, 38.9, '$F_x$', size=11, color=PREDICTED, ha='center')
    axes.text(34.8, 27.9, '$F_t$', size=11, color=TEXT, ha='center')
    axes.text(34.8, 10.3, '$F_{T_a}$', size=11, color=TEXT, ha='center')
    box(axes, 40, 27, 8, 9.8, 'concat\nEq. 4', MUTED)
    arrow(axes, (32.4, 37.5), (38, 37.5))
    arrow(axes, (38, 37.5), (39.8, 33.8))
    arrow(axes, (32.4, 26.5), (37, 26.5))
    arrow(axes, (37, 26.5), (39.8, 29.6))
    box(axes, 51, 28.9, 6, 6, 'FC', LEARNED, filled=True)
    arrow(axes, (48.3, 31.9), (50.8, 31.9))
    axes.text(59.3, 32.9, '$R$', size=11, color=LEARNED, ha='center')
    arrow(axes, (57.2, 31.9), (61.5, 31.9))
    axes.text(63.2, 31.9, '+', size=15, color=INK, ha='center', va='center')
    axes.plot([38, 38, 63.2, 63.2], [37.5, 41.5, 41.5, 41.5], color=PREDICTED, lw=1.2)
    arrow(axes, (63.2, 41.5), (63.2, 33.7), color=PREDICTED)
    axes.text(50, 42.9, 'norm$(F_x)$', size=9, color=PREDICTED, ha='center', va='center')
    axes.text(67, 37.2, 'Eq. 5', **label)

    box(axes, 58.2, 5.6, 10, 6.6, 'cosine\nEq. 6', MUTED)
    arrow(axes, (32.4, 8.9), (58, 8.9))
    arrow(axes, (63.2, 30), (63.2, 12.5))
    axes.text(65.3, 21, '$F_m$', size=11, color=PREDICTED, ha='center', va='center')
    arrow(axes, (68.4, 8.9), (72.6, 8.9))
    axes.text(70.5, 11.2, 'softmax\nEq. 7', size=8, color=MUTED, ha='center', va='bottom')

    _, _, Fm, FTa = example()
    p = distribution(Fm, FTa)
    for i, (level, share) in enumerate(zip(LEVELS, p.tolist(), strict=True)):
        y = 3.2 + 2.6 * i
        axes.barh(y, 11 * share, height=1.8, left=73.5, color=PREDICTED)
        axes.text(73.8 + 11 * share, y, level, size=8, color=INK, va='center')
    axes.text(78, 19.4, f'score {float(p @ torch.tensor(VALUES).double()):.1f}', size=12,
              color=INK, ha='center', va='center', weight='bold')  # fmt: skip

    first = {'fc': 'none', 'ec': LINE, 'lw': 1}
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((36.3, 22.5), 34, 24, **first))
    axes.text(49, 24.2, 'first level: what is said about it', **label)
    axes.add_patch(Rectangle((36.3, 0.8), 34, 16.5, **first))
    axes.text(46.5, 15.4, 'second level: how good', **label)
    return save(figure, 'overview.svg')


def draw_fusion(new_figure) -> Path:
    """What the first level does to the feature, in a plane in place of CLIP's 512 dimensions."""
    Fx, _, Fm, FTa = example()
    figure, axes = canvas(new_figure, 70, 40)
    center, radius = np.array([24.0, 5.0]), 27.0

    def at(point, scale=1.0):
        return center + scale * radius * np.asarray(point, dtype=float)

    angles = np.radians(np.linspace(30, 146, 100))
    axes.plot(*at(np.stack([np.cos(angles), np.sin(angles)], axis=1)).T, color=LINE, lw=1.2)
    for level, feature in zip(LEVELS, FTa.tolist(), strict=True):
        axes.plot(*at(feature), 'o', color=TEXT, ms=7)
        x, y = at(feature, 0.91)
        axes.text(x, y, level, size=9.5, color=TEXT, ha='center', va='center')
    arrow(axes, center, at(Fx[0]), PREDICTED, lw=1.8)
    arrow(axes, at(Fx[0]), at(Fm[0]), LEARNED, lw=1.8)
    arrow(axes, center, at(Fm[0]), INK, lw=1.8)
    axes.text(*at([0.05, 0.5]), 'norm$(F_x)$', size=11, color=PREDICTED, ha='right')
    axes.text(*at([0.4, 1.03]), '$R$', size=12, color=LEARNED, ha='center')
    axes.text(*at([0.37, 0.45]), '$F_m$', size=12, color=INK)

    for row, (title, feature) in enumerate((('image alone', Fx), ('with what is said', Fm))):
        p = distribution(feature, FTa).tolist()
        left, base = 51, 24 - 20 * row
        axes.text(left, base + 12, title, size=9.5, color=MUTED, va='center')
        for i, (level, share) in enumerate(zip(LEVELS, p, strict=True)):
            axes.bar(left + 0.8 + 3.6 * i, 16 * share, width=2.6, bottom=base, color=PREDICTED)
            axes.text(left + 0.8 + 3.6 * i, base - 1.2, level, size=6.5, color=MUTED, ha='center')
    return save(figure, 'fusion.svg')


def draw_score(new_figure) -> Path:
    """From levels to a score, and how far the prediction is from the ratings."""
    _, _, Fm, FTa = example()
    p = distribution(Fm, FTa).numpy()
    q = np.array([0.03, 0.1, 0.32, 0.41, 0.14])
    values = np.array(VALUES)
    score = float(p @ values)
    figure = new_figure(figsize=(8.6, 3.0), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.bar(values - 0.35, q, 0.65, color=RATED, label='rated $q$')
    left.bar(values + 0.35, p, 0.65, color=PREDICTED, label='predicted $p$')
    left.axvline(score, color=INK, lw=1.2, ls=(0, (4, 2)))
    top = float(max(p.max(), q.max()))
    left.text(score - 0.12, top * 1.12, f'score {score:.2f}', size=9, ha='right', color=INK)
    left.set(ylim=(0, top * 1.22), title='Levels to a score')
    left.set_xticks(values, [f'{v:g}\n{w}' for v, w in zip(VALUES, LEVELS, strict=True)])
    left.legend(loc='upper left', fontsize=8)

    steps = np.arange(len(LEVELS))
    cdf_p, cdf_q = p.cumsum(), q.cumsum()
    right.plot(steps, cdf_q, 'o-', color=RATED, lw=1.6)
    right.plot(steps, cdf_p, 'o-', color=PREDICTED, lw=1.6)
    right.vlines(steps, cdf_p, cdf_q, color=SERIES[1], lw=4, alpha=0.6)
    distance = float(emd(*torch.from_numpy(np.stack([p, q]))[:, None]))
    right.text(2.55, 0.06, f'EMD ($r = 2$): {distance:.3f}', size=9, color=INK)
    right.set(ylim=(0, 1.05), title='Eq. 8: the distance of their sums')
    right.set_xticks(steps, LEVELS)
    for axes in (left, right):
        axes.title.set(size=10, color=INK)
        axes.tick_params(labelsize=8)
    return save(figure, 'score.svg')


def main() -> list[Path]:
    """All pictures."""
    with drawing() as new_figure:
        return [draw(new_figure) for draw in (draw_overview, draw_fusion, draw_score)]


if __name__ == '__main__':
    for path in main():
        print(path)
