"""A training that was interrupted ends as one without an interruption, bit for bit."""

import os
import resource
import signal

import pandas as pd
import pytest
import torch
from PIL import Image
from train_helpers import fork_amhp, load_weights, read_log, same_weights, write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.loop import Training
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.state import newest_state, random_states, read_state, set_random_states

MODELS = 'experiments/tiny/models'
STATES = 'experiments/tiny/training_states'


class Killed(BaseException):
    """An exception that no code catches."""


def check_same(root, expected, name='net_latest.pth'):
    """Check that two trainings ended with the same weights."""
    assert same_weights(*(load_weights(folder / MODELS / name) for folder in (root, expected)))


@pytest.fixture(scope='module')
def write(training_options, shared_rated_images, tmp_path_factory):
    """Write an option file of three epochs of three batches; sections may be changed."""

    def write(network=(), train=(), logger=(), data=()):
        opt = training_options(shared_rated_images)
        opt['train'] |= {'total_epoch': 3, 'ema_decay': 0.5, **dict(train)}
        opt['network'] |= {'fc_init': 'default', **dict(network)}
        opt['logger'] |= {'save_latest_freq': 2, 'use_tb_logger': False, **dict(logger)}
        opt['datasets']['train'] |= dict(data)
        return write_options(tmp_path_factory.mktemp('options') / 'train.yml', opt)

    return write


@pytest.fixture(scope='module')
def whole(write, tmp_path_factory):
    """The folder of a training without an interruption, with all its states: to be read only."""
    root = tmp_path_factory.mktemp('whole')
    run_train(write(logger={'keep_last': 9}), [], root)
    return root


@pytest.fixture(scope='module')
def whole_with_predictor(write, tmp_path_factory):
    """The folder and the best results of such a training of a network with a predictor."""
    root = tmp_path_factory.mktemp('whole')
    return root, run_train(write(network={'predictor': 'feature'}), [], root)


def run_killed_at(monkeypatch, path, root, iteration, method='_save'):
    """Train until a method of ``Training`` is called in an iteration, and stop there."""
    real = getattr(Training, method)

    def die(self, *arguments):
        if self.iteration >= iteration:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, method, die)
        with pytest.raises(Killed):
            run_train(path, [], root)


@pytest.mark.parametrize(
    ('iteration', 'method'),
    [(1, '_save'), (5, '_save'), (4, '_log'), (3, '_validate'), (6, '_validate'), (9, '_save')],
)
def test_a_killed_training_ends_as_one_without_an_interruption(
    write, whole_with_predictor, tmp_path, monkeypatch, iteration, method
):
    path = write(network={'predictor': 'feature'})
    whole, expected = whole_with_predictor
    run_killed_at(monkeypatch, path, tmp_path, iteration, method)
    torch.manual_seed(iteration)  # another process has other random numbers
    assert run_train(path, ['--auto_resume'], tmp_path) == expected
    for name in ('net_latest.pth', 'net_best.pth'):
        check_same(tmp_path, whole, name)


def test_accumulated_gradients_are_not_lost(write, tmp_path, monkeypatch):
    path = write(train={'accumulate': 2}, logger={'save_latest_freq': 1})
    run_train(path, [], tmp_path / 'whole')
    run_killed_at(monkeypatch, path, tmp_path / 'killed', 5)
    states = {path.stem for path in (tmp_path / 'killed' / STATES).iterdir()}
    assert states == {'2', '3'}  # the fourth batch is not a step yet
    run_train(path, ['--auto_resume'], tmp_path / 'killed')
    check_same(tmp_path / 'killed', tmp_path / 'whole')


def test_workers_change_nothing(write, whole, tmp_path):
    run_train(write(data={'num_worker_per_gpu': 2}), [], tmp_path)
    check_same(tmp_path, whole)


def test_a_training_that_has_ended_stays_as_it_is(write, tmp_path):
    path = write()
    expected = run_train(path, [], tmp_path)
    before = load_weights(tmp_path / MODELS / 'net_latest.pth')
    assert run_train(path, ['--auto_resume'], tmp_path) == expected
    logs = (tmp_path / STATES).parent.glob('train_*.log')
    assert same_weights(before, load_weights(tmp_path / MODELS / 'net_latest.pth'))
    assert any('ended already' in log.read_text() for log in logs)


def test_a_state_can_be_named(write, whole, tmp_path):
    state = whole / STATES / '4.state'
    run_train(write(), ['--force_yml', f'path:resume_state={state}'], tmp_path)
    check_same(tmp_path, whole)


def test_a_state_of_other_batches_is_refused(write, tmp_path, monkeypatch):
    run_killed_at(monkeypatch, write(), tmp_path, 5)
    with pytest.raises(AMHPError, match='batches of 4 images and this training has 3'):
        run_train(write(data={'batch_size_per_gpu': 3}), ['--auto_resume'], tmp_path)


@pytest.mark.parametrize(
    ('sections', 'expected'),
    [
        ({'train': {'optim': {'type': 'AdamW', 'lr': 1e-5, 'weight_decay': 0.001}}},
         r'train:optim:lr: 0\.01 before, 1e-05 now'),
        ({'train': {'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 7}}},
         'train:scheduler:T_max: 5 before, 7 now'),
        ({'train': {'freeze': 'text'}}, "train:freeze: None before, 'text' now"),
        ({'network': {'tau': 0.05}}, r'network:tau: None before, 0\.05 now'),
    ],
)  # fmt: skip
def test_other_options_that_the_state_holds_are_refused(write, whole, tmp_path, sections, expected):
    force = ['--force_yml', f'path:resume_state={whole / STATES / "4.state"}']
    with pytest.raises(AMHPError, match=f'training state holds these options.*{expected}'):
        run_train(write(**sections), force, tmp_path)


def test_options_that_apply_from_now_on_are_listed(write, whole, tmp_path):
    force = ['--force_yml', f'path:resume_state={whole / STATES / "8.state"}']
    changed = {'clip_grad_norm': 1.0, 'total_epoch': 4}
    run_train(write(train=changed, data={'num_worker_per_gpu': 1}), force, tmp_path)
    log = read_log(tmp_path)
    assert 'changes from here on: train:clip_grad_norm: None before, 1.0 now\n' in log
    assert 'iter:      12' in log


@pytest.fixture
def large_jpegs(rated_images):
    """Options of the images as JPEGs so large that a fraction of their size is enough."""
    table = pd.read_csv(rated_images, keep_default_na=False)
    for name in table['img_name']:
        image = Image.open(rated_images.parent / 'images' / name)
        image.resize((384, 320)).save(rated_images.parent / 'images' / f'{name}.jpg')
    table.assign(img_name=table['img_name'] + '.jpg').to_csv(rated_images, index=False)
    return {
        'meta_info_file': str(rated_images), 'dataroot_target': str(rated_images.parent / 'images')
    }  # fmt: skip


def test_a_training_that_decoded_whole_jpegs_resumes_so(write, tmp_path, monkeypatch, large_jpegs):
    path, exact = write(data=large_jpegs), write(data={**large_jpegs, 'exact': True})
    run_train(exact, [], tmp_path / 'whole')
    run_train(path, [], tmp_path / 'fraction')
    whole, fraction = (
        load_weights(tmp_path / name / MODELS / 'net_latest.pth') for name in ('whole', 'fraction')
    )
    assert not same_weights(whole, fraction)
    for name, file in (('before', exact), ('exact', exact), ('now', path)):
        run_killed_at(monkeypatch, file, tmp_path / name, 5)
    for state in (tmp_path / 'before' / STATES).iterdir():  # as a version without the option
        content = read_state(state)
        del content['options']['datasets:train:exact']
        torch.save(content, state)
    for name, expected in (('before', whole), ('exact', whole), ('now', fraction)):
        run_train(path, ['--auto_resume'], tmp_path / name)
        assert same_weights(load_weights(tmp_path / name / MODELS / 'net_latest.pth'), expected)
        logs = ''.join(log.read_text() for log in (tmp_path / name).rglob('train_*.log'))
        assert ('decoded at its full size, as before' in logs) == (expected is whole)
        assert 'changes from here on' not in logs
    force = ['--force_yml', f'path:resume_state={tmp_path / "exact" / STATES / "8.state"}']
    run_train(write(data={**large_jpegs, 'exact': False}), force, tmp_path / 'changed')
    expected = 'from here on: datasets:train:exact: True before, False now'
    assert expected in read_log(tmp_path / 'changed')


@pytest.fixture
def other_ratings(rated_images):
    """Change one vote, and give the options that read the table."""
    table = pd.read_csv(rated_images, keep_default_na=False)
    table.loc[0, 'c1'] += 1
    table.to_csv(rated_images, index=False)
    return {'meta_info_file': str(rated_images)}


def test_other_ratings_are_refused_unless_they_are_meant(write, whole, tmp_path, other_ratings):
    state = f'path:resume_state={whole / STATES / "8.state"}'
    path = write(data=other_ratings)
    with pytest.raises(AMHPError, match='datasets: train: the images, ratings or texts are not'):
        run_train(path, ['--force_yml', state], tmp_path)
    run_train(path, ['--force_yml', state, 'train:changed_data=true'], tmp_path)
    assert 'changes from here on: the data of train\n' in read_log(tmp_path)


def test_instead_of_a_damaged_state_the_one_before_is_used(
    write, whole, tmp_path, monkeypatch, capsys
):
    path = write()
    run_killed_at(monkeypatch, path, tmp_path, 7)
    newest = max((tmp_path / STATES).iterdir(), key=lambda p: int(p.stem))
    newest.write_bytes(newest.read_bytes()[:1000])
    temporary = newest.with_name('.8.state.x.state')
    temporary.write_bytes(b'half')
    run_train(path, ['--auto_resume'], tmp_path)
    check_same(tmp_path, whole)
    assert newest.name in capsys.readouterr().out and not temporary.exists()


def test_keep_last_limits_states_and_checkpoints(write, tmp_path):
    run_train(write(logger={'save_checkpoint_freq': 2, 'keep_last': 3}), [], tmp_path)
    assert sorted(int(path.stem) for path in (tmp_path / STATES).iterdir()) == [6, 8, 9]
    checkpoints = {path.stem for path in (tmp_path / MODELS).iterdir()}
    assert checkpoints == {'net_best', 'net_latest', 'net_4', 'net_6', 'net_8'}


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


def test_random_states_are_restored(tmp_path):
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
def test_a_process_that_is_stopped_can_be_resumed(write, whole, tmp_path, kill):
    """With a real process and worker; ``perf/training_trust.py kills`` kills at twenty moments."""
    path = write(data={'num_worker_per_gpu': 1})
    pid, output = fork_amhp('train', '-opt', path, '--auto_resume', folder=tmp_path)
    for line in output:
        if b'iter:       4' in line:
            break
    if kill == signal.SIGKILL:
        os.killpg(pid, kill)
    else:
        os.kill(pid, kill)
    text = output.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (130 if kill == signal.SIGINT else -kill)
    assert 'Traceback' not in text
    if kill == signal.SIGINT:
        with pytest.raises(ProcessLookupError):  # no worker is left
            os.killpg(pid, 0)
    assert {path.name[0] for path in (tmp_path / STATES).iterdir()} <= set('23456')
    run_train(path, ['--auto_resume'], tmp_path)
    check_same(tmp_path, whole)


def test_a_full_disk_ends_the_training_and_damages_nothing(write, tmp_path):
    path = write()
    run_train(path, [], tmp_path)
    before = {file: file.read_bytes() for file in _weights_and_states(tmp_path)}
    more = ['--auto_resume', '--force_yml', 'train:total_epoch=4']
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # less than a checkpoint
    try:
        with pytest.raises(AMHPError, match=r'net_latest|state'):
            run_train(path, more, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {file: file.read_bytes() for file in _weights_and_states(tmp_path)} == before
    run_train(path, more, tmp_path)  # now there is room


def _weights_and_states(root):
    return [*root.rglob('*.pth'), *root.rglob('*.state')]
