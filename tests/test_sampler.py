"""Batches of epochs, and shards of data sets."""

import pytest

from pyiqa_amhp.train.sampler import EpochBatches, Shard


@pytest.mark.parametrize(('images', 'world_size'), [(12, 2), (13, 3), (7, 2), (100, 8)])
def test_the_batches_of_all_processes_make_up_the_large_one(images, world_size):
    size = 2
    parts = [EpochBatches(images, size, rank, world_size) for rank in range(world_size)]
    whole = EpochBatches(images, size * world_size)
    for sampler in (*parts, whole):
        sampler.set_epoch(5)
    for large, *small in zip(whole, *parts, strict=True):
        assert sorted(large) == sorted(i for batch in small for i in batch)
        assert {len(batch) for batch in small} == {size}
    whole.set_epoch(6)
    seen = [i for batch in whole for i in batch]
    assert len(set(seen)) == len(seen) == images // (size * world_size) * size * world_size


def test_an_epoch_can_start_in_its_middle():
    batches = EpochBatches(20, 3)
    whole = list(batches)
    batches.set_epoch(0, start=4)
    assert list(batches) == whole[4:]


def test_the_order_is_that_of_pyiqas_sampler():
    from pyiqa.data.data_sampler import EnlargedSampler

    expected = EnlargedSampler(range(10), 1, 0, 2)
    expected.set_epoch(3)
    batches = EpochBatches(10, 4, ratio=2)
    batches.set_epoch(3)
    assert [i for batch in batches for i in batch] == list(expected)


@pytest.mark.parametrize(('images', 'world_size'), [(7, 2), (1, 2), (9, 3)])
def test_shards_have_every_image_once(images, world_size):
    class Images:
        opt = None

        def __len__(self):
            return images

        def __getitem__(self, index):
            return {'number': index}

    shards = [Shard(Images(), rank, world_size) for rank in range(world_size)]
    seen = [shard[i] for shard in shards for i in range(len(shard))]
    assert sorted(sample['index'] for sample in seen) == list(range(images))
    assert all(sample['index'] == sample['number'] for sample in seen)
