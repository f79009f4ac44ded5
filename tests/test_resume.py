"""A training that was interrupted ends as one that was not, bit for bit."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.loop import Training
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.state import newest_state, random_states, read_state, set_random_states

LATEST = ('experiments', 'tiny', 'models', 'net_latest.pth')
STATES = ('experiments', 'tiny', 'training_states')


class Killed(BaseException):
    """What no code catches."""


def weights(root, name='net_latest.pth'):
    path = root.joinpath(*LATEST).with_name(name)
    return torch.load(path, weights_only=True)['params']


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def options(training_options, shared_rated_images, tmp_path):
    """Write an option file of three epochs of three batches; sections may be changed."""

    def options(network=(), train=(), logger=(), data=()):
        opt = training_options(shared_rated_images)
        opt['train'] |= {'total_epoch': 3, 'ema_decay': 0.5, **dict(train)}
        opt['network'] |= {'fc_init': 'default', **dict(network)}
        opt['logger'] |= {'save_latest_freq': 2, 'use_tb_logger': False, **dict(logger)}
        opt['datasets']['train'] |= dict(data)
        path = tmp_path / 'train.yml'
        path.write_text(yaml.safe_dump(opt, sort_keys=False))
        return path

    return options


def run_killed_after(monkeypatch, path, root, iteration, what='_save'):
    """Train and stop dead in ``what`` of an iteration."""
    real = getattr(Training, what)

    def die(self, *arguments):
        if self.iteration >= iteration:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, what, die)
        with pytest.raises(Killed):
            run_train(path, [], root)


@pytest.mark.parametrize(
    ('iteration', 'what'),
    [(1, '_save'), (5, '_save'), (4, '_log'), (3, '_validate'), (6, '_validate'), (9, '_save')],
)
def test_a_killed_training_ends_as_one_that_ran_through(
    options, tmp_path, monkeypatch, iteration, what
):
    path = options(network={'predictor': 'feature'})
    expected = run_train(path, [], tmp_path / 'whole')
    run_killed_after(monkeypatch, path, tmp_path / 'cut', iteration, what)
    torch.manual_seed(iteration)  # another process has other random numbers
    assert run_train(path, ['--auto_resume'], tmp_path / 'cut') == expected
    for name in ('net_latest.pth', 'net_best.pth'):
        assert same(weights(tmp_path / 'whole', name), weights(tmp_path / 'cut', name))


def test_accumulated_gradients_are_not_lost(options, tmp_path, monkeypatch):
    path = options(train={'accumulate': 2}, logger={'save_latest_freq': 1})
    run_train(path, [], tmp_path / 'whole')
    run_killed_after(monkeypatch, path, tmp_path / 'cut', 5)
    states = {path.stem for path in (tmp_path / 'cut').joinpath(*STATES).iterdir()}
    assert states == {'2', '3'}  # the fourth batch is not a step yet
    run_train(path, ['--auto_resume'], tmp_path / 'cut')
    assert same(weights(tmp_path / 'whole'), weights(tmp_path / 'cut'))


def test_workers_change_nothing(options, tmp_path):
    run_train(options(), [], tmp_path / 'alone')
    run_train(options(data={'num_worker_per_gpu': 2}), [], tmp_path / 'helped')
    assert same(weights(tmp_path / 'alone'), weights(tmp_path / 'helped'))


def test_a_training_that_has_ended_stays_as_it_is(options, tmp_path):
    path = options()
    expected = run_train(path, [], tmp_path)
    before = weights(tmp_path)
    assert run_train(path, ['--auto_resume'], tmp_path) == expected
    logs = tmp_path.joinpath(*STATES).parent.glob('train_*.log')
    assert same(before, weights(tmp_path))
    assert any('ended already' in log.read_text() for log in logs)


def test_a_state_may_be_named(options, tmp_path):
    path = options(logger={'keep_last': 9})
    run_train(path, [], tmp_path / 'whole')
    state = (tmp_path / 'whole').joinpath(*STATES, '4.state')
    run_train(path, ['--force_yml', f'path:resume_state={state}'], tmp_path / 'more')
    assert same(weights(tmp_path / 'whole'), weights(tmp_path / 'more'))


def test_a_state_of_other_batches_is_refused(options, tmp_path, monkeypatch):
    run_killed_after(monkeypatch, options(), tmp_path, 5)
    with pytest.raises(AMHPError, match='batches of 4 images and this training has 3'):
        run_train(options(data={'batch_size_per_gpu': 3}), ['--auto_resume'], tmp_path)


def test_a_damaged_state_gives_way_to_the_one_before(options, tmp_path, monkeypatch, capsys):
    path = options()
    run_train(path, [], tmp_path / 'whole')
    run_killed_after(monkeypatch, path, tmp_path / 'cut', 7)
    newest = max((tmp_path / 'cut').joinpath(*STATES).iterdir(), key=lambda p: int(p.stem))
    newest.write_bytes(newest.read_bytes()[:1000])
    leftover = newest.with_name('.8.state.x.state')
    leftover.write_bytes(b'half')
    run_train(path, ['--auto_resume'], tmp_path / 'cut')
    assert same(weights(tmp_path / 'whole'), weights(tmp_path / 'cut'))
    assert newest.name in capsys.readouterr().out and not leftover.exists()


def test_as_many_states_and_checkpoints_are_kept_as_asked(options, tmp_path):
    run_train(options(logger={'save_checkpoint_freq': 2, 'keep_last': 3}), [], tmp_path)
    states = tmp_path.joinpath(*STATES).iterdir()
    assert sorted(int(path.stem) for path in states) == [6, 8, 9]
    numbered = {path.stem for path in tmp_path.joinpath(*LATEST).parent.iterdir()}
    assert numbered == {'net_best', 'net_latest', 'net_4', 'net_6', 'net_8'}


def test_a_state_with_code_in_it_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save({'format': 1, 'net': Evil()}, tmp_path / '3.state')
    with pytest.raises(AMHPError, match='could run code'):
        read_state(tmp_path / '3.state')
    warnings = []
    assert newest_state(tmp_path, warnings.append) is None
    assert len(warnings) == 1 and not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content', [b'', b'PK\3\4', b'\x80\2}q\0.', b'a' * 100])
def test_files_that_are_no_states_are_refused(tmp_path, content):
    path = tmp_path / '3.state'
    path.write_bytes(content)
    with pytest.raises(AMHPError, match=str(path)):
        read_state(path)


def test_random_states_are_put_back(tmp_path):
    import random

    import numpy as np

    def draw():
        return random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()

    draw()
    torch.save(random_states(), tmp_path / 'random.pt')
    expected = draw()
    draw()
    set_random_states(torch.load(tmp_path / 'random.pt', weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize('kill', [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped_goes_on(options, tmp_path, kill):
    """The real thing once; ``perf/training_trust.py kills`` does it at twenty moments."""
    path = options(data={'num_worker_per_gpu': 1})
    root = tmp_path / 'cut'
    root.mkdir()
    command = [sys.executable, '-m', 'pyiqa_amhp', 'train', '-opt', str(path), '--auto_resume']
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    for line in process.stdout:
        if b'iter:       4' in line:
            break
    process.send_signal(kill)
    said = process.stdout.read().decode()
    assert process.wait() == (130 if kill == signal.SIGINT else -kill)
    assert 'Traceback' not in said
    if kill == signal.SIGINT:
        with pytest.raises(ProcessLookupError):  # no worker is left
            os.killpg(process.pid, 0)
    assert {path.name[0] for path in root.joinpath(*STATES).iterdir()} <= set('23456')
    run_train(options(), [], tmp_path / 'whole')
    run_train(path, ['--auto_resume'], root)
    assert same(weights(tmp_path / 'whole'), weights(root))


def test_a_full_disk_ends_the_training_and_spoils_nothing(options, tmp_path):
    path = options()
    run_train(path, [], tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob('*.pth')}
    before |= {file: file.read_bytes() for file in tmp_path.rglob('*.state')}
    more = ['--auto_resume', '--force_yml', 'train:total_epoch=4']
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # less than a checkpoint
    try:
        with pytest.raises(AMHPError, match=r'net_latest|state'):
            run_train(path, more, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert {file for pattern in ('*.pth', '*.state') for file in tmp_path.rglob(pattern)} == {
        *before
    }
    run_train(path, more, tmp_path)  # and there is room again
