"""What a person sees of a training on a terminal: a bar for each epoch, a row for each validation.

The log file has everything; on anything but a terminal the log's lines are shown as they come.
"""

import math
import sys
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from pyiqa_amhp.train.loop import TrainProgress

WIDTH = 8  # of a column of the table


class TrainingView:
    """Shows the progress of a training; given to ``run_train`` as ``report``.

    Args:
        file: a stream; the table goes there too, above the bar.
    """

    def __init__(self, file: TextIO | None = None):
        self.file = file or sys.stderr
        self.write: Callable[[str], object] = lambda line: tqdm.write(line, file=self.file)
        self.bar: tqdm | None = None
        self.epoch = 0
        self.names: list[str] = []

    def __call__(self, progress: TrainProgress) -> None:
        """Show the progress after a batch."""
        per_epoch = progress.iterations // progress.epochs
        done = progress.iteration - (progress.epoch - 1) * per_epoch
        if progress.epoch != self.epoch or self.bar is None:
            self.close()
            self.epoch = progress.epoch
            self.bar = tqdm(
                total=per_epoch,
                initial=done - 1,
                desc=f'epoch {progress.epoch} of {progress.epochs}',
                unit='batch',
                leave=False,
                file=self.file,
            )
        self.bar.update(done - self.bar.n)
        if progress.validated:
            self._row(progress)
        if progress.iteration == progress.iterations:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _row(self, progress: TrainProgress) -> None:
        """Write a row of the table of validations, and its head before the first one."""
        if list(progress.metrics) != self.names:
            self.names = list(progress.metrics)
            cells = ['epoch', 'step', 'loss', *self.names]
            self.write(' '.join(cell.rjust(WIDTH) for cell in cells))
        loss = sum(progress.losses.values()) if progress.losses else math.nan
        numbers = [loss, *progress.metrics.values()]
        shown = ['-' if math.isnan(value) else f'{value:.4f}' for value in numbers]
        cells = [str(progress.epoch), str(progress.iteration), *shown]
        row = ' '.join(cell.rjust(WIDTH) for cell in cells)
        self.write(row + ('  best so far' if progress.is_best else ''))
