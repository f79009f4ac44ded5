"""Batches that depend only on the seed, the epoch and their number, and the loaders that read them.

So a training can resume in the middle of an epoch with any number of worker processes, and several
training processes together read the batches that one would read.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pyiqa_amhp.utils.environment import usable_cores
from pyiqa_amhp.utils.options import flag

PREFETCH = 4  # batches that each worker reads ahead for a GPU (our choice)


class EpochBatches(Sampler[list[int]]):
    """The batches of one process in one epoch, in the order of pyiqa's own sampler.

    The batches that all processes read at one iteration make up one large batch. An incomplete
    large batch at the end of an epoch is left out, as in pyiqa.

    Args:
        images: the number of images.
        batch_size: the number of images in a batch of one process.
        rank: the number of this process.
        world_size: the number of processes.
        ratio: how often an image comes in an epoch (``dataset_enlarge_ratio``).
        shuffle: whether to use another order in each epoch.

    Attributes:
        total: the number of images of an epoch.
        size: the number of images that all processes read at one iteration.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        ratio: float = 1,
        shuffle: bool = True,
    ):
        self.images, self.rank, self.world_size = images, rank, world_size
        self.total = math.ceil(images * ratio)
        self.size = batch_size * world_size
        self.shuffle = shuffle
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.total // self.size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.total)
        if self.shuffle:
            order = torch.randperm(self.total, generator=torch.Generator().manual_seed(self.epoch))
        order %= self.images
        for number in range(self.start, len(self)):
            batch = order[number * self.size : (number + 1) * self.size]
            yield batch[self.rank :: self.world_size].tolist()

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch, and the number of its first batch to read."""
        self.epoch, self.start = epoch, start


class Shard(Dataset):
    """The samples ``rank``, ``rank + world_size``, ... of a data set.

    The shards of all processes have each sample once. A sample gets its ``index`` in the whole
    data set.
    """

    def __init__(self, dataset, rank: int, world_size: int):
        self.dataset, self.opt = dataset, dataset.opt
        self.indices = range(rank, len(dataset), world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = self.indices[index]
        return {**self.dataset[index], 'index': index}


class EpochSamples(Dataset):
    """The samples of a data set by epoch and index.

    Worker processes stay between epochs, so that the epoch has to come to them with the index. A
    data set with a method ``begin_epoch(epoch, seed)`` gets it before the first sample of an epoch.

    Args:
        dataset: a data set.
        seed: seed of the random parts of its samples.
    """

    def __init__(self, dataset, seed: int):
        self.dataset, self.seed = dataset, seed
        self.epoch: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if epoch != self.epoch and hasattr(self.dataset, 'begin_epoch'):
            self.dataset.begin_epoch(epoch, self.seed)
        self.epoch = epoch
        return self.dataset[index]


class _EpochKeys(Sampler[list[tuple[int, int]]]):
    """The batches of ``EpochBatches``, with the epoch beside each index."""

    def __init__(self, batches: EpochBatches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batches.epoch
        for batch in self.batches:
            yield [(epoch, index) for index in batch]


def max_workers() -> int:
    """Return how many workers a loader may have: cores over training processes, at least 1."""
    processes = int(os.environ.get('LOCAL_WORLD_SIZE') or 1)  # set by torchrun
    return max(1, usable_cores() // max(1, processes))


def train_loader(
    dataset,
    opt: dict[str, Any],
    batches: EpochBatches,
    seed: int = 0,
    collate: Callable[[list], Any] | None = None,
    on_gpu: bool = False,
) -> DataLoader:
    """Build the loader of a training set.

    Its workers stay between epochs (our choice), unless ``persistent_workers: false``.

    Args:
        dataset: the data set; the ``dataset`` of the loader is ``EpochSamples`` of it.
        opt: the options of the data set.
        batches: the batches; ``set_epoch`` before each epoch.
        seed: seed of the random parts of the samples.
        collate: makes a batch of a list of samples, in the workers; default: torch's.
        on_gpu: whether the batches go to a GPU.
    """
    options = _loader_options(dataset, opt, len(batches), on_gpu)
    if options['num_workers']:
        options['persistent_workers'] = flag(opt, 'persistent_workers', True)
    samples = EpochSamples(dataset, seed)
    return DataLoader(samples, batch_sampler=_EpochKeys(batches), collate_fn=collate, **options)


def test_loader(
    dataset, opt: dict[str, Any], rank: int = 0, world_size: int = 1, on_gpu: bool = False
) -> DataLoader:
    """Build the loader of this process's shard of a data set, in order.

    Its workers end with each validation (our choice): 16 of them start in half a second, and
    while they wait they would keep their memory beside those of the training set.
    """
    size = opt.get('batch_size_per_gpu') or 1
    reads = dataset
    if world_size > 1:
        dataset = Shard(dataset, rank, world_size)
    options = _loader_options(reads, opt, math.ceil(len(dataset) / size), on_gpu)
    return DataLoader(dataset, batch_size=size, **options)


def _loader_options(dataset, opt: dict[str, Any], batches: int, on_gpu: bool) -> dict[str, Any]:
    """Read what both kinds of loaders have in common from the options of a data set.

    All of this is our choice. Without ``num_worker_per_gpu`` there are as many workers as cores;
    none for a data set that opens no images (``freeze``). There are never more than batches.
    """
    workers, pin = opt.get('num_worker_per_gpu'), opt.get('pin_memory')
    if workers is None:
        workers = max_workers() if getattr(dataset, 'reads_images', True) else 0
    workers = min(workers, max_workers(), batches)
    return {
        'num_workers': workers,
        'pin_memory': on_gpu if pin is None else bool(pin),
        'prefetch_factor': PREFETCH if workers and on_gpu else None,  # None: torch's 2
        'generator': torch.Generator(),  # a loader leaves the global generator as it was
    }
