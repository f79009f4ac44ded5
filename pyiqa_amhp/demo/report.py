"""Results of the demo as an HTML page, and as a picture for the README."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.demo.training import METRICS
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.utils.plotting import (
    MUTED,
    PREDICTED,
    RATED,
    SERIES,
    data_uri,
    drawing,
    render_page,
    save_png,
    svg_uri,
)

# Key in ModelResult.metrics, title, whether a higher value is better.
METRIC_COLUMNS = tuple(
    (key, key.upper(), options.get('better') != 'lower') for key, options in METRICS.items()
)
CARD_COLUMN, MARGIN, LINE_HEIGHT = 500, 36, 25  # pixels
CARD_DPI = 100
Picture = tuple[str, str]  # data URI and description


@dataclass(frozen=True)
class ModelResult:
    """Training curves and test results of one model.

    Attributes:
        title: inputs of the model, in words.
        metrics: ``acc, srcc, plcc, krcc, mse, emd1, emd2`` on the test images.
        predicted: predicted scores of the test images, ``(N,)``.
        rated: MOS of the test images, ``(N,)``, on the same scale.
        losses: pairs of iteration and training loss.
        validation: pairs of iteration and SRCC on the validation images.
    """

    title: str
    metrics: dict[str, float]
    predicted: np.ndarray
    rated: np.ndarray
    losses: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Example:
    """One held-out image with its comment, its rating and its prediction.

    Attributes:
        image: the image file.
        text: the comment; '' for an image without one.
        rated: the MOS.
        predicted: the predicted score, on the same scale.
        rated_dist: rated shares of the levels, worst first; they sum to 1.
        predicted_dist: predicted shares of the levels, worst first; they sum to 1.
        caption: why the image is shown.
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
    """Content of the page.

    Attributes:
        models: results by name; ``full`` (with text) and ``image`` in the demo.
        examples: images to show.
        levels: level words, worst first.
        splits: number of images in ``train``, ``val`` and ``test``.
        sources: number of source photographs of each split.
        comments: number of test images by kind of comment: ``attribute``, ``praise``, ``none``.
        seed: seed of the run.
        seconds: duration of the run.
        encoder: the encoders, in words.
        note: note of the models, see ``AMHPConfig``.
    """

    models: dict[str, ModelResult]
    examples: Sequence[Example]
    levels: Sequence[str]
    splits: dict[str, int]
    sources: dict[str, int]
    comments: dict[str, int]
    seed: int
    seconds: float
    encoder: str
    note: str


def write_report(path: Path, report: Report) -> Path:
    """Write the page as one HTML file that needs no other.

    Raises:
        AMHPError: jinja2 or matplotlib is missing, an image cannot be read, or a distribution
            does not have one value for each level.
    """
    _check_examples(report.examples, report.levels)
    page = render_page(
        Path(__file__).with_name('report.html'),
        report=report,
        metrics=METRIC_COLUMNS,
        best=_best_values(report.models),
        examples=[(example, data_uri(example.image)) for example in report.examples],
        tallest=_tallest(report.examples),
        curves=_curve_figures(report.models),
        scatters=_scatter_figures(report.models),
        model_colors=_model_colors(report.models),
    )
    return write_text(path, page)


def write_card(
    path: Path, examples: Sequence[Example], levels: Sequence[str], note: str = ''
) -> Path:
    """Draw examples side by side as PNG, CARD_COLUMN pixels wide each.

    Args:
        path: the file to write.
        examples: the examples.
        levels: level words, worst first.
        note: a line below them; '' for none.

    Raises:
        AMHPError: matplotlib is missing, there is no example, an image cannot be read, or a
            distribution does not have one value for each level.
    """
    if not examples:
        raise AMHPError('a card needs at least one example, got none')
    _check_examples(examples, levels)
    comments = [_comment_lines(example.text) for example in examples]
    bars_top = CARD_COLUMN + 44 + LINE_HEIGHT * max(len(lines) for lines in comments)
    height = bars_top + 150 + 40 * bool(note)
    with drawing() as new_figure:
        figure = new_figure(
            figsize=(CARD_COLUMN * len(examples) / CARD_DPI, height / CARD_DPI), dpi=CARD_DPI
        )
        for column, (example, lines) in enumerate(zip(examples, comments, strict=True)):
            left = CARD_COLUMN * column
            _draw_example(figure, left, example, lines)
            _draw_bars(figure, left, bars_top, example, levels, _tallest(examples))
        if note:
            place = _box(figure, MARGIN, height - 40, 0, 0)[:2]
            figure.text(*place, note, va='top', fontsize=13, color=MUTED, parse_math=False)
        return save_png(figure, path, CARD_DPI)


def _check_examples(examples: Sequence[Example], levels: Sequence[str]) -> None:
    for example in examples:
        for name in ('rated_dist', 'predicted_dist'):
            n = len(getattr(example, name))
            if n != len(levels):
                raise AMHPError(
                    f'{example.image}: {name} has {n} values, expected one for each of the '
                    f'{len(levels)} levels ({", ".join(levels)})'
                )
        read_image(example.image)  # a browser would show a broken image without a message


def _tallest(examples: Sequence[Example]) -> float:
    """Find the largest share in any distribution; the bars of all examples have one scale."""
    shares = [share for e in examples for share in (*e.rated_dist, *e.predicted_dist)]
    return max(shares, default=1) or 1


def _best_values(models: dict[str, ModelResult]) -> dict[str, float]:
    return {
        key: (max if higher_better else min)(model.metrics[key] for model in models.values())
        for key, _, higher_better in METRIC_COLUMNS
        if models
    }


def _model_colors(models: dict[str, ModelResult]) -> dict[str, str]:
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(models)}


def _curve_figures(models: dict[str, ModelResult]) -> list[Picture]:
    """Draw the training loss and the validation SRCC by iteration."""
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
    """Compute a running mean over about a tenth of the values, narrower at the ends."""
    reach = len(values) // 20 + 1
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return np.array([window.mean() for window in windows])


def _scatter_figures(models: dict[str, ModelResult]) -> list[Picture]:
    """Draw predicted over rated scores of each model, all with the same limits of the axes."""
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


def _draw_example(figure: Any, left: int, example: Example, lines: list[str]) -> None:
    """Draw the image, scores and comment of an example.

    Args:
        figure: figure of the card.
        left: left end of the example's column, in pixels.
        example: the example.
        lines: lines of its comment.
    """
    side = CARD_COLUMN - 2 * MARGIN

    def write(x: int, y: int, text: str, **style: Any) -> None:
        # parse_math=False: two dollar signs in a comment are no formula.
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
    figure: Any, left: int, top: int, example: Example, levels: Sequence[str], tallest: float
) -> None:
    """Draw bars of the rated and predicted shares of the levels.

    Args:
        figure: figure of the card.
        left: left end of the example's column, in pixels.
        top: upper end of the bars, in pixels from the top.
        example: the example.
        levels: level words.
        tallest: share that a bar of full height stands for.
    """
    bars = figure.add_axes(_box(figure, left + MARGIN, top, CARD_COLUMN - 2 * MARGIN, 96))
    x = np.arange(len(levels))
    bars.bar(x - 0.19, example.rated_dist, 0.36, color=RATED)
    bars.bar(x + 0.19, example.predicted_dist, 0.36, color=PREDICTED)
    bars.set(ylim=(0, tallest), yticks=[])
    bars.set_xticks(x, levels, fontsize=12)
    bars.spines['left'].set_visible(False)
    bars.grid(False)


def _box(figure: Any, left: int, top: int, width: int, height: int) -> tuple[float, ...]:
    """Convert pixels from the top left corner to fractions of a figure from the bottom left."""
    across, down = figure.get_size_inches() * CARD_DPI
    return left / across, 1 - (top + height) / down, width / across, height / down
