"""What ``fit`` shows: a line for each epoch; measures and a plot of held-out photographs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pyiqa_amhp.datasets.rated_images import RatedImages
from pyiqa_amhp.datasets.raw import Progress
from pyiqa_amhp.evaluation.measures import Evaluation, evaluate
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.scorer import Scorer, create_metric
from pyiqa_amhp.train.loop import TrainProgress
from pyiqa_amhp.utils.plotting import LINE, PREDICTED, drawing, save_png

VALIDATED = ('srcc', 'plcc')  # measures of the validation in the line of an epoch
SHOWN = ('srcc', 'plcc', 'acc')  # measures of the test, on the screen and in the plot
DPI = 130

Tell = Callable[[str], object]
"""Prints a line."""


class EpochLines:
    """Advances a bar with each batch, and prints a line for each epoch.

    Args:
        bar: the bar, of any length.
        tell: prints a line.

    Attributes:
        epoch: the number of epochs done.
        best_epoch: the best epoch so far, from 1; 0: none yet.
    """

    def __init__(self, bar: tqdm, tell: Tell):
        self.bar, self.tell = bar, tell
        self.epoch = self.best_epoch = 0

    def __call__(self, progress: TrainProgress) -> None:
        self.bar.total = progress.iterations
        self.bar.update(progress.iteration - self.bar.n)
        if not progress.ends_epoch:
            return
        self.epoch = progress.epoch
        if progress.is_best:
            self.best_epoch = progress.epoch
        loss = sum(progress.losses.values())
        validation = ''.join(
            f'   {name.upper()} {"none" if math.isnan(value) else f"{value:.3f}"}'
            for name, value in progress.metrics.items()
            if name in VALIDATED
        )
        self.tell(
            f'epoch {progress.epoch:>{len(str(progress.epochs))}} of {progress.epochs}   loss '
            f'{loss:.4f}   val{validation}{"   best" if progress.is_best else ""}'
        )


@dataclass(frozen=True)
class Tested:
    """Scores of the held-out photographs.

    Attributes:
        table: a row for each photograph: ``img_name``, ``MOS``, ``score``, ``p_<level>``.
        texts: whether the texts of the photographs were read.
        evaluation: the measures.
    """

    table: pd.DataFrame
    texts: bool
    evaluation: Evaluation


def test_scores(
    checkpoint: Path, rated: RatedImages, with_texts: bool, progress: Progress
) -> Tested:
    """Score held-out photographs as ``amhp score --exact`` does, and compare with the ratings.

    Args:
        checkpoint: the trained weights.
        rated: the photographs with their ratings.
        with_texts: whether to give their texts.
        progress: shows the progress.
    """
    scorer = Scorer(create_metric('amhp', str(checkpoint)))
    count = len(rated.names)
    paths = [rated.path(i) for i in range(count)]
    texts = [rated.text(i) if with_texts else '' for i in range(count)]
    title = 'Testing' if with_texts or rated.texts is None else 'Testing without texts'
    results = list(progress(score_images(paths, texts, scorer, exact=True), count, title))
    good = [i for i, result in enumerate(results) if not result.error]
    rows = [
        {'img_name': rated.names[i], 'MOS': rated.mos[i], 'score': results[i].score}
        | {f'p_{level}': p for level, p in results[i].levels.items()}
        for i in good
    ]
    evaluation = evaluate(
        [results[i].score for i in good],
        rated.mos[good],
        [list(results[i].levels.values()) for i in good],
        rated.dist[good],
        threshold=float(rated.level_values[0] + rated.level_values[-1]) / 2,
    )
    return Tested(pd.DataFrame(rows), with_texts, evaluation)


def measure_text(evaluation: Evaluation, names: Iterable[str] = SHOWN) -> list[str]:
    """Write measures with their intervals: ``SRCC 0.671 (0.56 to 0.76)``."""
    lines = []
    for name in names:
        value = evaluation.values[name]
        if value.value is None:
            lines.append(f'{name.upper()} none ({value.reason})')
        elif value.low is None:
            lines.append(f'{name.upper()} {value.value:.3f} ({value.reason})')
        else:
            lines.append(f'{name.upper()} {value.value:.3f} ({value.low:.2f} to {value.high:.2f})')
    return lines


def draw_scatter(path: Path, tested: Tested, scale: Sequence[float], title: str) -> Path:
    """Draw predicted scores of the held-out photographs beside their ratings.

    Args:
        path: the PNG to write.
        tested: the scores.
        scale: ends of the scale of both.
        title: text above the plot.
    """
    rated, predicted = (tested.table[name].to_numpy(float) for name in ('MOS', 'score'))
    # Stars lie on a few values: a little to both sides shows how many there are.
    is_coarse = len(np.unique(rated)) <= 10 < len(rated)
    width = 0.012 * (scale[1] - scale[0])
    shift = np.random.default_rng(0).uniform(-width, width, len(rated)) if is_coarse else 0
    with drawing() as new_figure:
        figure = new_figure(figsize=(5.2, 5.4), dpi=DPI, layout='constrained')
        axes = figure.add_subplot(xlabel='rated', ylabel='predicted')
        axes.plot(scale, scale, color=LINE, linewidth=1.5, zorder=1)
        axes.scatter(rated + shift, predicted, s=18, color=PREDICTED, alpha=0.65, linewidth=0)
        margin = 0.03 * (scale[1] - scale[0])
        ends = (scale[0] - margin, scale[1] + margin)
        axes.set(xlim=ends, ylim=ends, aspect='equal')
        lines = '\n'.join([title, *measure_text(tested.evaluation)])
        axes.set_title(lines, loc='left', fontsize=9, linespacing=1.4)
        return save_png(figure, path, DPI)
