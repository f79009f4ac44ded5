"""Loaders of ``amhp train``: samples by seed, epoch and index alone; workers that stay."""

import multiprocessing
import os

import pytest
import torch
from pyiqa.utils import get_root_logger
from torch.utils.data import Dataset

from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.train.data import read_data
from pyiqa_amhp.train.sampler import EpochBatches, max_workers, train_loader
from pyiqa_amhp.train.sampler import test_loader as validation_loader

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


# The number of workers, pinned memory

pretended = pytest.mark.filterwarnings('ignore:This DataLoader will create')


@pytest.fixture
def cores(monkeypatch):
    """Pretend that this process may use eight cores."""
    monkeypatch.setattr('pyiqa_amhp.train.sampler.usable_cores', lambda: 8)
    return monkeypatch


@pretended
@pytest.mark.parametrize(
    ('asked', 'processes', 'workers'),
    [(None, None, 8), (None, '2', 4), (None, '16', 1), (0, None, 0), (3, None, 3), (99, '4', 2)],
)
def test_there_are_as_many_workers_as_cores_unless_fewer_are_asked_for(
    cores, asked, processes, workers
):
    if processes:
        cores.setenv('LOCAL_WORLD_SIZE', processes)
    batches = EpochBatches(120, 4)
    loader = train_loader(Drawn(), {'num_worker_per_gpu': asked}, batches, SEED)
    assert loader.num_workers == workers
    assert loader.persistent_workers == (workers > 0)
    opt = {'num_worker_per_gpu': asked, 'batch_size_per_gpu': 1}
    assert validation_loader(Drawn(), opt).num_workers == workers
    assert not validation_loader(Drawn(), opt).persistent_workers


@pretended
def test_there_are_no_more_workers_than_batches(cores):
    assert train_loader(Drawn(), {}, EpochBatches(12, 4), SEED).num_workers == 3
    assert validation_loader(Drawn(), {'batch_size_per_gpu': 8}).num_workers == 2


def test_a_data_set_that_opens_no_image_has_no_workers_by_default(cores):
    dataset = Drawn()
    dataset.reads_images = False
    assert train_loader(dataset, {}, EpochBatches(12, 4), SEED).num_workers == 0
    opt = {'num_worker_per_gpu': 2}
    assert train_loader(dataset, opt, EpochBatches(12, 4), SEED).num_workers == 2


def test_the_cores_are_those_that_this_process_may_use():
    if hasattr(os, 'sched_getaffinity'):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert max_workers() == 1
        finally:
            os.sched_setaffinity(0, allowed)
        assert max_workers() == len(allowed)


@pytest.mark.parametrize(
    ('opt', 'on_gpu', 'pinned'),
    [({}, True, True), ({}, False, False), ({'pin_memory': False}, True, False),
     ({'pin_memory': True}, False, True)],
)  # fmt: skip
def test_batches_for_a_gpu_are_pinned_unless_the_option_says_otherwise(opt, on_gpu, pinned):
    opt = {**opt, 'num_worker_per_gpu': 1}
    loader = train_loader(Drawn(), opt, EpochBatches(12, 4), SEED, on_gpu=on_gpu)
    assert loader.pin_memory == pinned
    assert loader.prefetch_factor == (4 if on_gpu else 2)
    assert validation_loader(Drawn(), opt, on_gpu=on_gpu).pin_memory == pinned


@pytest.mark.filterwarnings('error:This DataLoader will create')
def test_more_workers_than_cores_are_a_line_in_the_log(
    cores, training_options, shared_rated_images, pyiqa_log
):
    cores.setattr('pyiqa_amhp.train.sampler.usable_cores', lambda: 1)
    opt = training_options(shared_rated_images)
    opt.update(rank=0, world_size=1)
    for phase, options in opt['datasets'].items():
        options.update(phase=phase, num_worker_per_gpu=999)
    data = read_data(opt, get_root_logger())
    assert [loader.num_workers for loader in (data.train, *data.val)] == [1, 1]
    assert pyiqa_log.text.count('num_worker_per_gpu: 999 lowered to 1') == 1
