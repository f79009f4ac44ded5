"""What ``fit`` shows of a training: a bar that each batch advances, and a line for each epoch."""

import math
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from pyiqa_amhp.train.loop import TrainProgress

SHOWN = ('srcc', 'plcc')  # measures of the validation in a line

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
        self.losses: list[float] = []
        self.epoch = self.best_epoch = 0

    def __call__(self, progress: TrainProgress) -> None:
        self.bar.total = progress.iterations
        self.bar.update(progress.iteration - self.bar.n)
        self.losses.append(sum(progress.losses.values()))
        if not progress.ends_epoch:
            return
        self.epoch = progress.epoch
        if progress.is_best:
            self.best_epoch = progress.epoch
        loss, self.losses = float(np.mean(self.losses)), []
        validation = ''.join(
            f'   {name.upper()} {"none" if math.isnan(value) else f"{value:.3f}"}'
            for name, value in progress.metrics.items()
            if name in SHOWN
        )
        self.tell(
            f'epoch {progress.epoch:>{len(str(progress.epochs))}} of {progress.epochs}   loss '
            f'{loss:.4f}   val{validation}{"   best" if progress.is_best else ""}'
        )
