"""Batches that depend on the seed, the epoch and their number alone, not on what ran before.

So a training can go on in the middle of an epoch, with any number of workers, and several
processes see what one would have seen.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class EpochBatches(Sampler[list[int]]):
    """The batches of one process in one epoch, in the order of pyiqa's own sampler.

    The processes' batches of one number make up the batch of one process that is as large as all
    of them. An incomplete one at the end is left out, as in pyiqa.

    Args:
        images: how many there are.
        batch_size: of one process.
        rank, world_size: which process, of how many.
        ratio: how often an image comes in an epoch (``dataset_enlarge_ratio``).
        shuffle: in another order in each epoch.
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
        return self.total // self.size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.total)
        if self.shuffle:
            order = torch.randperm(self.total, generator=torch.Generator().manual_seed(self.epoch))
        order %= self.images
        for number in range(self.start, len(self)):
            batch = order[number * self.size : (number + 1) * self.size]
            yield batch[self.rank :: self.world_size].tolist()

    def begin(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch to begin with."""
        self.epoch, self.start = epoch, start


class Shard(Dataset):
    """Every ``world_size``-th sample of a data set, from ``rank`` on, none twice and none lost.

    A sample has its ``index`` in the whole with it.
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
    """Samples in the given batches; its own random numbers leave the process's alone."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=opt.get('num_worker_per_gpu') or 0,
        pin_memory=bool(opt.get('pin_memory')),
        generator=torch.Generator(),
    )


def test_loader(dataset, opt: dict[str, Any], rank: int = 0, world_size: int = 1) -> DataLoader:
    """This process's share of a data set, in order."""
    return DataLoader(
        Shard(dataset, rank, world_size) if world_size > 1 else dataset,
        batch_size=opt.get('batch_size_per_gpu') or 1,
        num_workers=opt.get('num_worker_per_gpu') or 0,
        pin_memory=bool(opt.get('pin_memory')),
        generator=torch.Generator(),
    )
