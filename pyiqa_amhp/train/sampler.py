"""Batches that depend only on the seed, the epoch and their number.

So a training can resume in the middle of an epoch with any number of worker processes, and several
training processes together read the batches that one would read.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


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


def train_loader(dataset, opt: dict[str, Any], batches: EpochBatches) -> DataLoader:
    """Build the loader of a training set."""
    return DataLoader(dataset, batch_sampler=batches, **_loader_options(opt))


def test_loader(dataset, opt: dict[str, Any], rank: int = 0, world_size: int = 1) -> DataLoader:
    """Build the loader of this process's shard of a data set, in order."""
    if world_size > 1:
        dataset = Shard(dataset, rank, world_size)
    return DataLoader(
        dataset, batch_size=opt.get('batch_size_per_gpu') or 1, **_loader_options(opt)
    )


def _loader_options(opt: dict[str, Any]) -> dict[str, Any]:
    """Read what both kinds of loaders have in common from the options of a data set."""
    return {
        'num_workers': opt.get('num_worker_per_gpu') or 0,
        'pin_memory': bool(opt.get('pin_memory')),
        'generator': torch.Generator(),  # a loader leaves the global generator as it was
    }
