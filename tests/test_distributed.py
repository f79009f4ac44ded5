"""Two processes train as one does with batches twice as large (Gloo, on the CPU)."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from train_helpers import load_weights, read_log, write_options

from pyiqa_amhp.train.pipeline import run_train


@pytest.fixture
def trained(training_options, rated_images, tmp_path, monkeypatch):
    """The folders of a training by one process, and of the same training by two.

    The two are launched as ``torchrun`` does it, but forked, which saves their imports;
    ``perf/training_trust.py processes`` runs ``torchrun`` itself.
    """
    table = pd.read_csv(rated_images)
    val = table.index[table['split'] == 'val']
    table.loc[val[0], 'split'] = 'train'  # an odd number of images to validate
    table.to_csv(rated_images, index=False)
    names = table['img_name'][table['split'] == 'train']
    (rated_images.parent / 'images' / names.iloc[1]).write_bytes(b'')
    # Paths decide which texts are dropped: relative ones are the same in every run of the tests.
    monkeypatch.chdir(rated_images.parent)

    def options(batch_size):
        opt = training_options(Path(rated_images.name))
        opt['train'].update(total_epoch=3)
        # AdamW would make whole steps of gradients that are rounding alone.
        opt['train']['optim'].update(eps=1e-4)
        opt['network'].update(fc_init='default', predictor='feature')
        opt['datasets']['train'].update(batch_size_per_gpu=batch_size, skip_bad_images=True)
        opt['val'].update(val_freq=2)
        opt['logger'].update(use_tb_logger=False)
        return write_options(tmp_path / f'{batch_size}.yml', opt)

    one, two = tmp_path / 'one', tmp_path / 'two'
    run_train(options(4), [], one)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend='c10d',
        rdzv_endpoint='localhost:0',
        max_restarts=0,
        monitor_interval=0.1,
        start_method='fork',
    )
    elastic_launch(config, run_train)(options(2), [], two)
    return one, two


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(trained):
    logs = [read_log(root) for root in trained]
    losses = [[float(value) for value in re.findall(r'l_mos: (\S+)', log)] for log in logs]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and len(losses[0]) >= 9
    a, b = (load_weights(root / 'experiments/tiny/models/net_latest.pth') for root in trained)
    far = torch.cat([(a[key].double() - b[key].double()).abs().flatten() > 1e-4 for key in a])
    assert far.double().mean() < 0.05
    assert '(2 processes)' in logs[1]
    metrics = [re.findall(r'# (?:srcc|mse): \S+', log) for log in logs]
    assert metrics[0] == metrics[1] and metrics[0]
    assert 'unreadable.txt' in logs[1]
    files = [len(list(root.rglob('*.pth'))) + len(list(root.rglob('*.log'))) for root in trained]
    assert files[0] == files[1]  # one process writes
