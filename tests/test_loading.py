"""Loaders of ``amhp train``: samples by seed, epoch and index alone; workers that stay."""

import multiprocessing
import os

import pytest
import torch
from torch.utils.data import Dataset

from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.train.sampler import EpochBatches, train_loader

SEED = 7


class Drawn(Dataset):
    """A data set whose samples say what they depend on, and which process drew them."""

    def __init__(self):
        self.seeds = None

    def __len__(self):
        return 12

    def begin_epoch(self, epoch, seed):
        self.seeds = (seed, epoch)

    def __getitem__(self, index):
        return {'drawn': torch.tensor([*self.seeds, index]), 'process': os.getpid()}


def epochs_of(loader, batches, *starts):
    """Read epochs 0, 1, .. each from the batch that ``starts`` gives."""
    read = []
    for epoch, start in enumerate(starts):
        batches.set_epoch(epoch, start)
        read.append(list(loader))
    return read


def loader_of(dataset, workers, **options):
    batches = EpochBatches(len(dataset), 4)
    opt = {'num_worker_per_gpu': workers, **options}
    return train_loader(dataset, opt, batches, SEED), batches


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_the_epoch_comes_with_the_index_to_workers_that_stay(workers):
    loader, batches = loader_of(Drawn(), workers)
    assert len(loader) == 3
    epochs = epochs_of(loader, batches, 0, 2, 0)
    for epoch, (read, start) in enumerate(zip(epochs, (0, 2, 0), strict=True)):
        batches.set_epoch(epoch, start)
        assert [batch['drawn'].tolist() for batch in read] == [
            [[SEED, epoch, index] for index in batch] for batch in batches
        ]
    processes = {pid for read in epochs for batch in read for pid in batch['process'].tolist()}
    assert len(processes) == max(workers, 1)
    assert (os.getpid() in processes) == (workers == 0)


def test_workers_can_be_new_in_each_epoch():
    loader, batches = loader_of(Drawn(), 1, persistent_workers=False)
    first, second = epochs_of(loader, batches, 0, 0)
    assert first[0]['process'][0] != second[0]['process'][0]


def test_no_worker_is_left_without_the_loader():
    loader, batches = loader_of(Drawn(), 1)
    before = set(multiprocessing.active_children())
    epochs_of(loader, batches, 0)
    assert len(set(multiprocessing.active_children()) - before) == 1
    del loader
    assert set(multiprocessing.active_children()) <= before


@pytest.fixture
def rated(training_options, shared_rated_images):
    """A training set with random crops."""
    opt = training_options(shared_rated_images)['datasets']['train'] | {'phase': 'train'}
    return AMHPDataset(opt)


@pytest.mark.slow
def test_samples_are_the_same_in_workers_that_are_spawned(rated):
    loader, batches = loader_of(rated, 0)
    expected = epochs_of(loader, batches, 0, 1)
    loader, batches = loader_of(rated, 1)
    loader.multiprocessing_context = 'spawn'
    for read, here in zip(epochs_of(loader, batches, 0, 1), expected, strict=True):
        for batch, other in zip(read, here, strict=True):
            assert torch.equal(batch['img'], other['img'])
            assert batch['img_path'] == other['img_path']
    assert not torch.equal(expected[0][0]['img'], expected[1][0]['img'])


def test_a_batch_is_made_by_the_function_that_is_given():
    batches = EpochBatches(12, 4)
    loader = train_loader(Drawn(), {}, batches, SEED, collate=lambda samples: len(samples))
    assert list(loader) == [4, 4, 4]
