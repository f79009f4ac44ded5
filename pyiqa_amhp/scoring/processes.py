"""Image files read by processes, torch's DataLoader, for a GPU that is faster than threads read.

Threads share one interpreter: with 16 cores they gave 430 images of 640 x 427 pixels a second,
processes 2,600, where an H100 scores 10,000 with ViT-B/16.
"""

import copy
import logging
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.preprocess import Preprocess
from pyiqa_amhp.utils.environment import usable_cores

MIN_IMAGES = 512
"""Number of images from which processes start by themselves. Threads read so many in a second, the
time that processes take to start (our choice)."""

MAX_PROCESSES = 32
"""Largest number of processes that start by themselves (our choice). They read some 5,500 images a
second; each takes about 100 MB."""

PIECE = 32
"""Images that a process reads at once (our choice). A whole batch of 256 would take one process two
seconds, during which a GPU waits for its first batch."""

PREFETCH = 2  # pieces that each process reads ahead: torch's own default
SHARED_MEMORY = Path('/dev/shm')  # where processes on Linux put tensors

logger = logging.getLogger('pyiqa_amhp')

Pair = tuple[Any, str]  # an image and its text
Batch = tuple[list[Pair], list[torch.Tensor], list[str]]
"""Images with their texts, the inputs of those that could be read, and an error for each image,
``''`` if there is none."""


@dataclass(frozen=True)
class Reader:
    """Reads image files as inputs of an AMHP; it goes to the processes, so it is on the CPU.

    Attributes:
        preprocess: the preprocessing of the AMHP.
        exact: whether to decode and resize as a metric call does.
        reading: options of ``read_image``.
    """

    preprocess: Preprocess
    exact: bool = False
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def on_cpu(cls, preprocess: Preprocess, exact: bool, reading: dict[str, Any]) -> 'Reader':
        """Make a reader with a copy of the preprocessing on the CPU."""
        return cls(copy.deepcopy(preprocess).cpu(), exact, reading)

    def __call__(self, path: str) -> torch.Tensor:
        """Read a view ``(size, size, 3)``, uint8; with ``exact`` the input ``(3, size, size)``.

        Raises:
            ImageReadError: see ``read_image``.
        """
        if self.exact:
            return self.preprocess(to_tensor(read_image(path, **self.reading))[None])[0]
        return torch.from_numpy(self.preprocess.view_file(path, **self.reading))

    @property
    def bytes_each(self) -> int:
        """Bytes of one input."""
        return 3 * self.preprocess.size**2 * (4 if self.exact else 1)


class Files(Dataset):
    """A data set whose indices are the paths themselves, so that it needs no list of them."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __getitem__(self, path: str) -> tuple[torch.Tensor | None, str]:
        """Read one file: its input and ``''``, or None and the reason why there is none."""
        try:
            return self.reader(path), ''
        except ImageReadError as error:
            return None, str(error)

    def __getitems__(self, paths: Sequence[str]) -> tuple[torch.Tensor | None, list[str]]:
        """Read N files: the inputs of M of them, ``(M, ...)``, and N errors, ``''`` for none."""
        inputs, errors = zip(*(self[path] for path in paths), strict=True)
        read = [x for x in inputs if x is not None]
        return torch.stack(read) if read else None, list(errors)


def choose_processes(
    images: Iterable[Any], reader: Reader, device: torch.device, workers: int | None
) -> int:
    """Choose the number of processes that read images; 0 if threads are to read them.

    Processes take a GPU, a list of ``MIN_IMAGES`` paths or more, two cores and memory to share.
    They are forked, since a program that starts them otherwise must have been written for it
    (``if __name__ == '__main__'``).

    Args:
        images: the images; only those of a list, or of another collection, are counted.
        reader: what the processes run.
        device: where the model is.
        workers: the user's number; None: one for each core, at most ``MAX_PROCESSES``.
    """
    if device.type != 'cuda' or not isinstance(images, Sized) or len(images) < MIN_IMAGES:
        return 0
    workers = min(usable_cores(), MAX_PROCESSES) if workers is None else workers
    is_daemon = multiprocessing.current_process().daemon  # which may start no process
    can_fork = multiprocessing.get_start_method() == 'fork' and not is_daemon
    if workers < 2 or not can_fork or not all(isinstance(image, str | Path) for image in images):
        return 0
    needed = (PREFETCH * workers + 2) * PIECE * reader.bytes_each
    if SHARED_MEMORY.is_dir() and (free := _free(SHARED_MEMORY)) < needed:
        logger.warning(
            'Threads read the images, which is slower than processes: %s has %d MB free, and %d '
            'processes need %d MB (docker run --shm-size=8g, or fewer workers).',
            SHARED_MEMORY, free >> 20, workers, needed >> 20,
        )  # fmt: skip
        return 0
    return workers


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def read_in_processes(
    pairs: Iterable[Pair], reader: Reader, batch_size: int, workers: int, pin_memory: bool
) -> Generator[Batch]:
    """Read files in their order, in batches and in constant memory.

    Args:
        pairs: paths and their texts, any iterable.
        reader: reads one file.
        batch_size: files in a batch, to which unreadable ones count too.
        workers: number of processes.
        pin_memory: whether the inputs are to be in memory from which a GPU copies them while it
            computes.

    Yields:
        Batches. Each input has images in its first dimension.

    Raises:
        AMHPError: a source that is not a path, or a process that ended unexpectedly.
    """
    asked: deque[list[Pair]] = deque()

    def pieces() -> Iterator[list[str]]:
        rest = iter(pairs)
        while batch := list(islice(rest, batch_size)):
            for start in range(0, len(batch), PIECE):
                piece = batch[start : start + PIECE]
                asked.append(piece)
                yield [_path(source) for source, _ in piece]

    with clear_errors():
        read = iter(
            DataLoader(
                Files(reader),
                batch_sampler=pieces(),
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=pin_memory,
                prefetch_factor=PREFETCH,
            )
        )
        try:
            batch: Batch = [], [], []
            for inputs, errors in read:
                piece = asked.popleft()
                batch[0].extend(piece)
                batch[1].extend([] if inputs is None else [inputs])
                batch[2].extend(errors)
                if len(batch[0]) == batch_size:
                    yield batch
                    batch = [], [], []
            if batch[0]:
                yield batch
        finally:
            # `del read` would do, but not while the traceback of an error holds the iterator.
            getattr(read, '_shutdown_workers', lambda: None)()


def _path(source: Any) -> str:
    if not isinstance(source, str | Path):
        raise AMHPError(
            f'processes=True reads paths of files, and got {type(source).__name__}: leave it out'
        )
    return os.fspath(source)


def _as_it_is(piece: Any) -> Any:
    return piece


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn torch's error about a process that ended into one that says what to do.

    In the main thread torch raises it wherever the program is, also in code that uses results.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A process may also end while it hands a tensor over, which breaks that connection.
        if isinstance(error, RuntimeError) and 'DataLoader worker' not in str(error):
            raise
        reason = ' '.join(str(error).split())
        raise AMHPError(
            f'a process that reads images ended unexpectedly ({reason}); was there too little '
            'memory? Give fewer workers, or more shared memory (docker run --shm-size=8g)'
        ) from error
