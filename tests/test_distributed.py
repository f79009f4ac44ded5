"""Two processes train as one does with batches twice as large (Gloo, on the CPU)."""

import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from train_helpers import load_weights, read_log, write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.model import AMHPModel
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
        opt['train'].update(total_epoch=3, predictor_prompts='dropout')
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


@pytest.fixture
def run_two(training_options, rated_images, tmp_path, monkeypatch):
    """A function that trains in two processes and gives the error of each, ``''`` for none.

    They are started without ``torchrun``, which would end the second process itself; the store
    that the processes share is here, as it is in ``torchrun``.
    """
    monkeypatch.chdir(rated_images.parent)

    def run(change=None, damaged=(), in_process=None):
        opt = training_options(rated_images)
        opt['datasets']['train'].update(batch_size_per_gpu=2)
        opt['logger'].update(use_tb_logger=False)
        if change:
            change(opt)
        for name in damaged:
            (rated_images.parent / 'images' / name).write_bytes(b'')
        file, pids = write_options(tmp_path / 'two.yml', opt), []
        store = torch.distributed.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
        address = {'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(store.port)}
        for rank in (0, 1):
            pid = os.fork()
            if not pid:
                message = 'killed'
                try:
                    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
                    os.environ.update(address, TORCHELASTIC_USE_AGENT_STORE='True')
                    if in_process:
                        in_process(rank)
                    run_train(file, [], tmp_path)
                    message = ''
                except BaseException as error:
                    message = f'{type(error).__name__}: {error}'
                finally:
                    (tmp_path / f'{rank}.txt').write_text(message)
                    os._exit(0)
            pids.append(pid)
        end = time.monotonic() + 60
        while pids and time.monotonic() < end:
            pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            time.sleep(0.05)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert not pids, 'a process waits for ever'
        return [(tmp_path / f'{rank}.txt').read_text() for rank in (0, 1)]

    return run


def one_validation_image(rated_images):
    table = pd.read_csv(rated_images)
    val = table.index[table['split'] == 'val']
    table.loc[val[1:], 'split'] = 'test'
    table.to_csv(rated_images, index=False)


def test_two_processes_with_one_validation_image(run_two, rated_images, tmp_path):
    one_validation_image(rated_images)
    assert run_two(lambda opt: opt['val'].update(key_metric='mse')) == ['', '']
    assert 'no value for srcc, plcc, krcc: there is one image only' in read_log(tmp_path)
    assert (tmp_path / 'experiments/tiny/models/net_best.pth').is_file()


def test_a_process_whose_whole_share_cannot_be_read(run_two, tmp_path):
    val = [f'{i}.png' for i in (12, 14, 16)]  # the share of the first process
    assert run_two(damaged=val) == ['', '']
    assert '3 images could not be read' in read_log(tmp_path)


def test_an_error_in_one_process_ends_the_other_with_its_message(run_two):
    def fail(rank):
        if rank == 0:
            feed_data = AMHPModel.feed_data
            fed = []

            def feed_and_fail(model, data):
                fed.append(data)
                if len(fed) == 2:
                    raise AMHPError('this disk is broken')
                feed_data(model, data)

            AMHPModel.feed_data = feed_and_fail

    errors = run_two(in_process=fail)
    assert errors == [
        'AMHPError: this disk is broken',
        'AMHPError: process 0 ended the training: this disk is broken',
    ]


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(trained):
    logs = [read_log(root) for root in trained]
    losses = [[float(value) for value in re.findall(r'l_mos: (\S+)', log)] for log in logs]
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)  # the log has five digits
    assert len(losses[0]) >= 9
    a, b = (load_weights(root / 'experiments/tiny/models/net_latest.pth') for root in trained)
    far = torch.cat([(a[key].double() - b[key].double()).abs().flatten() > 1e-4 for key in a])
    assert far.double().mean() < 0.05
    assert '(2 processes)' in logs[1]
    metrics = [re.findall(r'# (?:srcc|mse): \S+', log) for log in logs]
    assert metrics[0] == metrics[1] and metrics[0]
    assert 'unreadable.txt' in logs[1]
    files = [len(list(root.rglob('*.pth'))) + len(list(root.rglob('*.log'))) for root in trained]
    assert files[0] == files[1]  # one process writes
