"""Every way to start a training or a test: pyiqa's commands, ``amhp``, and from Python."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyiqa
import pytest
import torch
import yaml
from train_helpers import load_weights, same_weights, write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.pipeline import run_test, run_train

SHIPPED = Path(__file__).parents[1] / 'options'
BEST = Path('experiments', 'tiny', 'models', 'net_best.pth')
RESULT = Path('results', 'tiny', 'custom_test.json')


@pytest.fixture(scope='module')
def options(training_options, shared_rated_images, tmp_path_factory):
    """Option files for training and testing; the test reads the training's best checkpoint."""
    folder = tmp_path_factory.mktemp('options')
    train = training_options(shared_rated_images)
    train['datasets']['train']['augment'] = {'resize': [32, 32]}  # pyiqa's loop gives no seeds
    test = yaml.safe_load((SHIPPED / 'test_amhp_custom.yml').read_text())
    test.update(name='tiny', num_gpu=0)
    test['datasets']['test_1'].update(
        meta_info_file=str(shared_rated_images),
        dataroot_target=str(shared_rated_images.parent / 'images'),
        num_worker_per_gpu=0,
    )
    test['network']['pretrained_model_path'] = str(BEST)  # relative to the current folder
    return SimpleNamespace(
        train=write_options(folder / 'train.yml', train),
        test=write_options(folder / 'test.yml', test),
    )


@pytest.fixture(scope='module')
def expected(options, tmp_path_factory):
    """The weights and the results that these options give in this process."""
    root = tmp_path_factory.mktemp('expected')
    run_train(options.train, [], root)
    run_test(options.test, ['--force_yml', f'network:pretrained_model_path={root / BEST}'], root)
    return SimpleNamespace(
        best=load_weights(root / BEST), result=json.loads((root / RESULT).read_text())
    )


def python(*arguments, cwd):
    """Run Python in a process of its own; its output is shown if it fails."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


@pytest.fixture
def linked_pyiqa(tmp_path):
    """A link to pyiqa in a folder of this test.

    pyiqa's train.py and test.py write beside the package that they are in. With the link that is
    this folder, while the scripts, and what Python finds beside them, are the installed ones.
    """
    link = tmp_path / 'pyiqa'
    link.symlink_to(Path(pyiqa.__file__).parent, target_is_directory=True)
    return link


@pytest.mark.slow
def test_pyiqas_trainer_as_a_module(linked_pyiqa, options, expected, tmp_path):
    python('-m', 'pyiqa.train', '-opt', options.train, cwd=tmp_path)
    assert same_weights(load_weights(tmp_path / BEST), expected.best)
    assert list((tmp_path / 'tb_logger' / 'tiny').iterdir())


# Scripts one after the other, each with its folder as the first to import from, as Python sets it.
RUN_SCRIPTS = """
import os, runpy, sys
arguments = sys.argv[1:]
for script, options in zip(arguments[::2], arguments[1::2]):
    sys.path[0] = os.path.dirname(script)
    sys.argv = [script, '-opt', options]
    runpy.run_path(script, run_name='__main__')
"""


@pytest.mark.slow
def test_pyiqas_trainer_and_tester_as_plain_scripts(linked_pyiqa, options, expected, tmp_path):
    scripts = (linked_pyiqa / 'train.py', options.train, linked_pyiqa / 'test.py', options.test)
    python('-c', RUN_SCRIPTS, *scripts, cwd=tmp_path)
    assert same_weights(load_weights(tmp_path / BEST), expected.best)
    assert json.loads((tmp_path / RESULT).read_text()) == pytest.approx(expected.result)


@pytest.mark.slow
def test_amhp_train_and_test_write_to_the_current_folder(
    options, expected, tmp_path, amhp, monkeypatch
):
    output = python('-m', 'pyiqa_amhp', 'train', '-opt', options.train, cwd=tmp_path)
    assert 'Validation custom_val' in output
    assert same_weights(load_weights(tmp_path / BEST), expected.best)
    # Further arguments are pyiqa's.
    monkeypatch.chdir(tmp_path)
    code, _, _ = amhp('test', '-opt', options.test, '--force_yml', 'name=renamed')
    result = tmp_path / 'results' / 'renamed' / 'custom_test.json'
    assert code == 0
    assert json.loads(result.read_text()) == pytest.approx(expected.result)


def test_a_run_leaves_the_command_line_and_the_folder_as_they_were(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.argv)
    with pytest.raises(AMHPError, match='no such file'):
        run_test(options.test, ['--force_yml', 'network:pretrained_model_path=no.pth'], tmp_path)
    assert sys.argv == before
    assert os.getcwd() == str(tmp_path)


def test_each_run_has_a_log_file_of_its_own(options, expected, tmp_path):
    for name in ('one', 'two'):
        run_train(options.train, ['--force_yml', f'name={name}', 'val:val_freq=1000'], tmp_path)
        assert len(logging.getLogger('pyiqa').handlers) == 2  # this run's file, and the screen
    for name in ('one', 'two'):
        log = next((tmp_path / 'experiments' / name).glob('train_*.log')).read_text()
        assert log.count('End of training') == 1


# Mistakes


@pytest.mark.parametrize('kind', ['train', 'test'])
def test_options_that_do_not_exist(kind, tmp_path):
    start = {'train': run_train, 'test': run_test}[kind]
    file = tmp_path / 'nothing.yml'
    with pytest.raises(AMHPError) as caught:
        start(file, [], tmp_path)
    assert str(caught.value) == f'{file}: cannot be read (No such file or directory)'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('a: [1', 'not a plain YAML file'),
        ('\tname: x', 'not a plain YAML file'),
        (b'name: \xff\xfe', 'not a plain YAML file'),
        ('', 'expected sections such as name, model_type'),
        ('- a\n- b\n', 'expected sections such as name, model_type'),
        ('just a word', 'expected sections such as name, model_type'),
    ],
)
@pytest.mark.parametrize('start', [run_train, run_test])
def test_options_that_are_not_yaml_with_sections(start, content, expected, tmp_path):
    file = tmp_path / 'options.yml'
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AMHPError) as caught:
        start(file, [], tmp_path)
    assert str(caught.value).startswith(f'{file}: {expected}')


@pytest.mark.parametrize('start', [run_train, run_test])
def test_options_that_would_run_code_are_refused(start, tmp_path):
    touched = tmp_path / 'touched'
    file = tmp_path / 'options.yml'
    file.write_text(f'name: !!python/object/apply:os.mkdir ["{touched}"]\n')
    with pytest.raises(AMHPError, match='not a plain YAML file'):
        start(file, [], tmp_path)
    assert not touched.exists()


def test_initial_weights_run_no_code(options, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save({'params': Evil()}, tmp_path / 'evil.pth')
    force = ['--force_yml', f'path:pretrain_network={tmp_path / "evil.pth"}']
    with pytest.raises(AMHPError, match='more than tensors'):
        run_train(options.train, force, tmp_path)
    assert not (tmp_path / 'ran').exists()


def test_merges_work_which_pyiqa_alone_cannot_read(options, expected, tmp_path):
    text = options.train.read_text()
    assert text.count('\nnum_gpu: 0\n') == 1
    text = 'common: &common {num_gpu: 0}\n<<: *common\n' + text.replace('\nnum_gpu: 0\n', '\n')
    path = tmp_path / 'merge.yml'
    path.write_text(text)
    run_train(path, [], tmp_path)
    assert same_weights(load_weights(tmp_path / BEST), expected.best)


def test_the_copy_of_the_option_file_has_the_command_as_it_was_typed(options, tmp_path):
    force = ['--force_yml', 'name=20240101', 'train:optim:lr=1e-5']
    run_train(options.train, force, tmp_path)
    text = (tmp_path / 'experiments' / '20240101' / options.train.name).read_text()
    assert f'# amhp train -opt {options.train} {" ".join(force)}\n' in text
    assert options.train.read_text() in text


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ('datasets.train.meta_info_file=no.csv', 'no.csv'),
        ('datasets.train.batch_size_per_gpu=1000', 'do not fill one batch'),
        ('network.pretrained_model_path=no.pth', 'no.pth'),
    ],
)
def test_an_attempt_that_fails_before_the_first_step_leaves_everything(
    options, tmp_path, bad, message
):
    run_train(options.train, ['--set', 'train.total_epoch=1'], tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob('*'))
    with pytest.raises(AMHPError, match=message):
        run_train(options.train, ['--set', bad], tmp_path)
    assert sorted(str(path) for path in tmp_path.rglob('*')) == before
    empty = tmp_path / 'empty'
    with pytest.raises(AMHPError, match=message):
        run_train(options.train, ['--set', bad], empty)
    assert not empty.exists()


def test_the_terminal_shows_no_listing_and_the_log_file_has_everything(options, tmp_path, capfd):
    run_train(options.train, ['--set', 'train.total_epoch=1'], tmp_path)
    shown = capfd.readouterr().err
    assert 'End of training' in shown and 'Training: 12 images' in shown
    assert 'PyTorch' not in shown and 'mos_loss_opt' not in shown
    text = next((tmp_path / 'experiments' / 'tiny').glob('train_*.log')).read_text()
    for words in ('PyTorch', 'mos_loss_opt', 'Training: 12 images', 'Network AMHP', 'End of'):
        assert text.count(words) >= 1, words
    assert text.count('Training: 12 images') == 1
