"""The demo's results to look at: one page that needs no other file, and a picture for the README.

matplotlib and jinja2 come with the extra ``demo`` and are imported only when something is drawn.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.plotting import (
    MUTED,
    PREDICTED,
    RATED,
    SERIES,
    data_uri,
    drawing,
    render_page,
    svg_uri,
)

# Key in ModelResult.metrics, its name, and whether more is better.
METRICS = (
    ('acc', 'ACC', True), ('srcc', 'SRCC', True), ('plcc', 'PLCC', True), ('krcc', 'KRCC', True),
    ('mse', 'MSE', False), ('emd1', 'EMD1', False), ('emd2', 'EMD2', False),
)  # fmt: skip
CARD_COLUMN, MARGIN, LINE_HEIGHT, CARD_DPI = 500, 36, 25, 100  # pixels, the last per inch


@dataclass(frozen=True)
class ModelResult:
    """What one model learned and how it did on the test images.

    Attributes:
        title: what the model sees, in words.
        metrics: ``acc, srcc, plcc, krcc, mse, emd1, emd2`` on the test images.
        predicted: scores ``(N,)`` of the test images.
        rated: their MOS ``(N,)``, on the same scale.
        losses: pairs (iteration, training loss).
        validation: pairs (iteration, SRCC on the validation images).
    """

    title: str
    metrics: dict[str, float]
    predicted: np.ndarray
    rated: np.ndarray
    losses: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Example:
    """One held-out image, what was said about it, how it was rated and judged.

    Attributes:
        image: the file.
        text: the comment; '' where there is none.
        rated, predicted: MOS and score, on the same scale.
        rated_dist, predicted_dist: shares of the levels, worst first; each sums to 1.
        caption: why it is shown.
    """

    image: Path
    text: str
    rated: float
    predicted: float
    rated_dist: Sequence[float]
    predicted_dist: Sequence[float]
    caption: str


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    Attributes:
        models: results by name; ``full`` (with text) and ``image`` in the demo.
        examples: images to show.
        levels: the words of the levels, worst first.
        splits: number of images in ``train``, ``val`` and ``test``.
        sources: number of photographs that the images of each split were cut from.
        comments: number of test images by kind of comment: ``attribute``, ``praise``, ``none``.
        seed: what the run was started with.
        seconds: how long it took.
    """

    models: dict[str, ModelResult]
    examples: Sequence[Example]
    levels: Sequence[str]
    splits: dict[str, int]
    sources: dict[str, int]
    comments: dict[str, int]
    seed: int
    seconds: float


def write_report(path: Path, report: Report) -> Path:
    """Write ``report`` as one HTML file; pictures and curves are inside it.

    Raises:
        AMHPError: jinja2 or matplotlib is missing, a picture cannot be read, or a distribution
            has another length than there are levels.
    """
    _check_examples(report.examples, report.levels)
    page = render_page(
        Path(__file__).with_name('report.html'),
        report=report,
        metrics=METRICS,
        best=_best_values(report.models),
        examples=[(example, data_uri(example.image)) for example in report.examples],
        tallest=_tallest(report.examples),
        curves=_curve_figures(report.models),
        scatters=_scatter_figures(report.models),
        model_colors=_model_colors(report.models),
    )
    return write_atomically(path, lambda file: file.write_text(page, encoding='utf-8'))


def write_card(path: Path, examples: Sequence[Example], levels: Sequence[str]) -> Path:
    """Draw ``examples`` side by side in one PNG, CARD_COLUMN pixels wide each.

    Raises:
        AMHPError: matplotlib is missing, there is no example, a picture cannot be read, or a
            distribution has another length than there are levels.
    """
    if not examples:
        raise AMHPError('a card needs at least one example, got none')
    _check_examples(examples, levels)
    words = [_comment_lines(example.text) for example in examples]
    bars_top = CARD_COLUMN + 44 + LINE_HEIGHT * max(len(lines) for lines in words)
    height = bars_top + 150
    with drawing() as new_figure:
        figure = new_figure(
            figsize=(CARD_COLUMN * len(examples) / CARD_DPI, height / CARD_DPI), dpi=CARD_DPI
        )
        for column, (example, lines) in enumerate(zip(examples, words, strict=True)):
            left = CARD_COLUMN * column
            _draw_example(figure, left, example, lines)
            _draw_bars(figure, left, bars_top, example, levels, _tallest(examples))
        return write_atomically(
            path, lambda file: figure.savefig(file, format='png', dpi=CARD_DPI, facecolor='white')
        )


def _check_examples(examples: Sequence[Example], levels: Sequence[str]) -> None:
    for example in examples:
        for name in ('rated_dist', 'predicted_dist'):
            n = len(getattr(example, name))
            if n != len(levels):
                raise AMHPError(
                    f'{example.image}: {name} has {n} values, expected one for each of the '
                    f'{len(levels)} levels ({", ".join(levels)})'
                )
        read_image(example.image)  # here: a browser would show a broken picture in silence


def _tallest(examples: Sequence[Example]) -> float:
    """The largest share in any distribution: bars of all examples are drawn to one scale."""
    shares = [share for e in examples for share in (*e.rated_dist, *e.predicted_dist)]
    return max(shares, default=1) or 1


def _best_values(models: dict[str, ModelResult]) -> dict[str, float]:
    return {
        key: (max if more else min)(model.metrics[key] for model in models.values())
        for key, _, more in METRICS
        if models
    }


def _model_colors(models: dict[str, ModelResult]) -> dict[str, str]:
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(models)}


def _curve_figures(models: dict[str, ModelResult]) -> list[tuple[str, str]]:
    """Pairs of picture and description: the loss and the validation SRCC over the training."""
    pictures = []
    colors = _model_colors(models)
    with drawing() as new_figure:
        for label in ('training loss', 'SRCC on validation'):
            figure = new_figure(figsize=(5.6, 3.1), layout='constrained')
            axes = figure.add_subplot(xlabel='iteration')
            axes.set_title(label, loc='left', fontsize=10.5)
            for name, model in models.items():
                if label == 'training loss':
                    steps, values = _columns(model.losses)
                    axes.plot(steps, values, color=colors[name], alpha=0.25, linewidth=1)
                    values, marker = smooth(values), ''
                else:
                    steps, values = _columns(model.validation)
                    marker = 'o'
                axes.plot(
                    steps, values, marker=marker, color=colors[name], linewidth=2, ms=4, label=name
                )
            axes.set_xlim(left=0)
            if models:
                axes.legend()
            pictures.append((svg_uri(figure), f'{label} of {" and ".join(models)}'))
    return pictures


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return steps, values


def smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over about a tenth of the values, narrower at the ends; same length."""
    reach = len(values) // 20 + 1
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return np.array([window.mean() for window in windows])


def _scatter_figures(models: dict[str, ModelResult]) -> list[tuple[str, str]]:
    """Pairs of picture and description: predicted over rated MOS, all on the same axes."""
    scores = [values for m in models.values() for values in (m.rated, m.predicted)]
    if not scores:
        return []
    low, high = np.floor(np.min(np.concatenate(scores))), np.ceil(np.max(np.concatenate(scores)))
    pictures = []
    with drawing() as new_figure:
        for name, color in _model_colors(models).items():
            model = models[name]
            figure = new_figure(figsize=(5.0, 4.6), layout='constrained')
            axes = figure.add_subplot(
                xlabel='rated MOS', ylabel='predicted', xlim=(low, high), ylim=(low, high)
            )
            axes.set_aspect('equal')
            axes.plot([low, high], [low, high], color=RATED, linewidth=1)
            axes.scatter(model.rated, model.predicted, s=16, color=color, alpha=0.55, linewidths=0)
            axes.set_title(f'{name}: SRCC {model.metrics["srcc"]:.3f}', loc='left', fontsize=10.5)
            pictures.append((svg_uri(figure), f'predicted over rated MOS, {model.title}'))
    return pictures


def _comment_lines(text: str) -> list[str]:
    return textwrap.wrap(f'“{text}”' if text else 'no comment', 44, max_lines=7, placeholder=' …')


def _draw_example(figure, left: int, example: Example, lines: list[str]) -> None:
    """Picture, scores and comment in the column that begins ``left`` pixels from the side."""
    side = CARD_COLUMN - 2 * MARGIN

    def write(x: int, y: int, text: str, **style) -> None:
        # Without parse_math two dollar signs in a comment would start a formula.
        position = _box(figure, left + MARGIN + x, y, 0, 0)[:2]
        figure.text(*position, text, va='top', parse_math=False, **style)

    picture = figure.add_axes(_box(figure, left + MARGIN, MARGIN, side, side))
    picture.imshow(np.asarray(read_image(example.image)), interpolation='lanczos')
    picture.set_axis_off()
    top = MARGIN + side + 18
    write(0, top, f'rated {example.rated:.2f}', color=MUTED, fontsize=17)
    strong = {'color': PREDICTED, 'fontsize': 17, 'weight': 'bold', 'ha': 'right'}
    write(side, top, f'AMHP {example.predicted:.2f}', **strong)
    tone = {} if example.text else {'style': 'italic', 'color': MUTED}
    write(0, top + 42, '\n'.join(lines), fontsize=13, linespacing=1.35, **tone)


def _draw_bars(
    figure, left: int, top: int, example: Example, levels: Sequence[str], tallest: float
) -> None:
    """Rated and predicted shares of the levels, in the same column, ``top`` pixels down."""
    bars = figure.add_axes(_box(figure, left + MARGIN, top, CARD_COLUMN - 2 * MARGIN, 96))
    place = np.arange(len(levels))
    bars.bar(place - 0.19, example.rated_dist, 0.36, color=RATED)
    bars.bar(place + 0.19, example.predicted_dist, 0.36, color=PREDICTED)
    bars.set(ylim=(0, tallest), yticks=[])
    bars.set_xticks(place, levels, fontsize=12)
    bars.spines['left'].set_visible(False)
    bars.grid(False)


def _box(figure, left: int, top: int, width: int, height: int) -> tuple[float, ...]:
    """Pixels from the top left corner as matplotlib's fractions from the bottom left one."""
    across, down = figure.get_size_inches() * CARD_DPI
    return left / across, 1 - (top + height) / down, width / across, height / down
