"""Two processes train as one does with batches twice as large (Gloo, on the CPU)."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml

from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.sampler import EpochBatches, Shard


def losses(root):
    log = next((root / 'experiments' / 'tiny').glob('train_*.log')).read_text()
    return [float(value) for value in re.findall(r'l_mos: (\S+)', log)]


def weights(root, name='net_latest.pth'):
    return torch.load(root / 'experiments' / 'tiny' / 'models' / name, weights_only=True)['params']


@pytest.fixture
def trained(training_options, rated_images, tmp_path):
    """The roots of a training by one process and of the same by two."""
    table = pd.read_csv(rated_images)
    val = table.index[table['split'] == 'val']
    table.loc[val[0], 'split'] = 'train'  # an odd number of images to validate
    table.to_csv(rated_images, index=False)
    names = table['img_name'][table['split'] == 'train']
    (rated_images.parent / 'images' / names.iloc[1]).write_bytes(b'')

    def train(batch_size):
        opt = training_options(rated_images)
        opt['train'].update(total_epoch=3)
        opt['network'].update(fc_init='default', predictor='feature')
        opt['datasets']['train'].update(batch_size_per_gpu=batch_size, skip_bad_images=True)
        opt['val'].update(val_freq=2)
        opt['logger'].update(use_tb_logger=False)
        path = tmp_path / f'{batch_size}.yml'
        path.write_text(yaml.safe_dump(opt))
        return path

    one, two = tmp_path / 'one', tmp_path / 'two'
    two.mkdir()
    run_train(train(4), [], one)
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += ['-m', 'pyiqa_amhp', 'train', '-opt', str(train(2))]
    done = subprocess.run([sys.executable, *command], cwd=two, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return one, two


def test_two_processes_give_the_result_of_one(trained):
    one, two = trained
    assert losses(two) == pytest.approx(losses(one), abs=1e-5) and len(losses(one)) >= 9
    a, b = weights(one), weights(two)
    # AdamW makes whole steps of gradients that are rounding alone: a few weights differ by one
    far = torch.cat([(a[key].double() - b[key].double()).abs().flatten() > 1e-4 for key in a])
    assert far.double().mean() < 0.05
    said = [re.findall(r'# (?:srcc|mse): \S+', _log(root)) for root in trained]
    assert said[0] == said[1] and said[0]
    assert 'unreadable.txt' in _log(two)
    files = [len(list(root.rglob('*.pth'))) + len(list(root.rglob('*.log'))) for root in trained]
    assert files[0] == files[1]  # one process writes


def _log(root):
    return next((root / 'experiments' / 'tiny').glob('train_*.log')).read_text()


@pytest.mark.parametrize(('images', 'world_size'), [(12, 2), (13, 3), (7, 2), (100, 8)])
def test_the_processes_batches_make_up_the_large_one(images, world_size):
    size = 2
    parts = [EpochBatches(images, size, rank, world_size) for rank in range(world_size)]
    whole = EpochBatches(images, size * world_size)
    for sampler in (*parts, whole):
        sampler.set_epoch(epoch=5)
    for large, *small in zip(whole, *parts, strict=True):
        assert sorted(large) == sorted(i for batch in small for i in batch)
        assert {len(batch) for batch in small} == {size}
    whole.set_epoch(epoch=6)
    seen = [i for batch in whole for i in batch]
    assert len(set(seen)) == len(seen) == images // (size * world_size) * size * world_size


def test_an_epoch_may_begin_in_its_middle():
    batches = EpochBatches(20, 3)
    whole = list(batches)
    batches.set_epoch(0, start=4)
    assert list(batches) == whole[4:]


def test_the_order_is_that_of_pyiqas_sampler():
    from pyiqa.data.data_sampler import EnlargedSampler

    theirs = EnlargedSampler(range(10), 1, 0, 2)
    theirs.set_epoch(3)
    ours = EpochBatches(10, 4, ratio=2)
    ours.set_epoch(3)
    assert [i for batch in ours for i in batch] == list(theirs)


@pytest.mark.parametrize(('images', 'world_size'), [(7, 2), (1, 2), (9, 3)])
def test_parts_hold_every_image_once(images, world_size):
    class Images:
        opt = None

        def __len__(self):
            return images

        def __getitem__(self, index):
            return {'number': index}

    parts = [Shard(Images(), rank, world_size) for rank in range(world_size)]
    seen = [part[i] for part in parts for i in range(len(part))]
    assert sorted(sample['index'] for sample in seen) == list(range(images))
    assert all(sample['index'] == sample['number'] for sample in seen)
