"""Every way to start a training or a test, and option files that cannot be used."""

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

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.options import read_options
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
    files = {}
    for name, opt in (('train', train), ('test', test)):
        files[name] = folder / f'{name}.yml'
        files[name].write_text(yaml.safe_dump(opt, sort_keys=False))
    return SimpleNamespace(**files)


@pytest.fixture(scope='module')
def expected(options, tmp_path_factory):
    """What the same options give in this process."""
    root = tmp_path_factory.mktemp('expected')
    run_train(options.train, [], root)
    said = [f'network:pretrained_model_path={root / BEST}']
    run_test(options.test, ['--force_yml', *said], root)
    return SimpleNamespace(
        best=weights(root / BEST), result=json.loads((root / RESULT).read_text())
    )


def weights(path):
    return torch.load(path, weights_only=True)['params']


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def python(*arguments, cwd):
    """Run Python as a user would; what it printed is shown where it fails."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def linked_pyiqa(tmp_path):
    """pyiqa unmodified, with a root of this test's own.

    Its train.py and test.py write beside the package that they lie in. By a link to the package
    that is here, while the files, and all that Python finds beside a script, are the real ones.
    """
    link = tmp_path / 'pyiqa'
    link.symlink_to(Path(pyiqa.__file__).parent, target_is_directory=True)
    return link


def test_pyiqas_trainer_as_a_module(linked_pyiqa, options, expected, tmp_path):
    python('-m', 'pyiqa.train', '-opt', options.train, cwd=tmp_path)
    assert same(weights(tmp_path / BEST), expected.best)
    assert list((tmp_path / 'tb_logger' / 'tiny').iterdir())


def test_pyiqas_trainer_and_tester_as_plain_scripts(linked_pyiqa, options, expected, tmp_path):
    python(linked_pyiqa / 'train.py', '-opt', options.train, cwd=tmp_path)
    assert same(weights(tmp_path / BEST), expected.best)
    python(linked_pyiqa / 'test.py', '-opt', options.test, cwd=tmp_path)
    assert json.loads((tmp_path / RESULT).read_text()) == pytest.approx(expected.result)


def test_amhp_train_and_test_write_to_the_current_folder(options, expected, tmp_path):
    said = python('-m', 'pyiqa_amhp', 'train', '-opt', options.train, cwd=tmp_path)
    assert 'Validation custom_val' in said
    assert same(weights(tmp_path / BEST), expected.best)
    # further arguments are pyiqa's
    force = ['--force_yml', 'name=renamed']
    python('-m', 'pyiqa_amhp', 'test', '-opt', options.test, *force, cwd=tmp_path)
    result = tmp_path / 'results' / 'renamed' / 'custom_test.json'
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


# Option files


@pytest.mark.parametrize('kind', ['train', 'test'])
def test_the_shipped_options_are_complete(kind):
    options = read_options(SHIPPED / f'{kind}_amhp_custom.yml', kind)
    assert options['model_type'] == 'AMHPModel'
    assert options['network']['type'] == 'AMHP'
    assert list(options['val']['metrics']) == ['acc', 'srcc', 'plcc', 'krcc', 'mse', 'emd1', 'emd2']


def test_the_shipped_training_is_the_papers():
    options = read_options(SHIPPED / 'train_amhp_custom.yml', 'train')
    train, data = options['train'], options['datasets']['train']
    assert (train['optim']['type'], train['optim']['weight_decay']) == ('AdamW', 1e-3)
    assert (train['total_epoch'], data['batch_size_per_gpu']) == (5, 72)
    assert train['mos_loss_opt'] == {'type': 'AMHPEMDLoss', 'r': 2, 'protocol': 'paper'}
    assert (options['network']['backbone'], options['network']['clip_weights']) == (
        'ViT-B-16',
        'openai',
    )
    assert options['network']['level_values'] == data['level_values']


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


TRAIN = ['name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'train', 'logger']
TEST = ['name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'val']


@pytest.mark.parametrize(
    ('kind', 'section'),
    [*(('train', name) for name in TRAIN), *(('test', name) for name in TEST)],
)
def test_a_missing_section_is_named(options, kind, section, tmp_path):
    content = yaml.safe_load(getattr(options, kind).read_text())
    del content[section]
    file = tmp_path / 'options.yml'
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(AMHPError) as caught:
        read_options(file, kind)
    assert str(caught.value) == f'{file}: no section {section}; see options/ for examples'


@pytest.mark.parametrize('value', [None, 3, ['a']])
@pytest.mark.parametrize('section', ['datasets', 'network', 'path', 'train', 'logger'])
def test_a_section_without_options_is_named(options, section, value, tmp_path):
    content = yaml.safe_load(options.train.read_text())
    content[section] = value
    file = tmp_path / 'options.yml'
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(AMHPError) as caught:
        read_options(file, 'train')
    assert str(caught.value) == f'{file}: {section} is {value!r}, expected a section with options'


def test_training_needs_a_training_set(options, tmp_path):
    content = yaml.safe_load(options.train.read_text())
    del content['datasets']['train']
    file = tmp_path / 'options.yml'
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(AMHPError, match='no data set `train` under `datasets`'):
        read_options(file, 'train')


ALIASES = '\n'.join(f'a{n + 1}: &a{n + 1} [{", ".join([f"*a{n}"] * 10)}]' for n in range(9))


@pytest.mark.parametrize(
    'content', [f'a0: &a0 [x]\n{ALIASES}', 'a: &a [*a]', 'date: 2001-99-99', 'a: ' + '[' * 1000]
)
def test_yaml_that_would_grow_too_large_is_refused(tmp_path, content):
    path = tmp_path / 'bomb.yml'
    path.write_text(content)
    with pytest.raises(AMHPError, match='aliases written out|not a plain YAML'):
        read_options(path, 'train')


def test_weights_to_begin_with_run_no_code(options, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save({'params': Evil()}, tmp_path / 'evil.pth')
    force = ['--force_yml', f'path:pretrain_network={tmp_path / "evil.pth"}']
    with pytest.raises(AMHPError, match='more than tensors'):
        run_train(options.train, force, tmp_path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('file', sorted(SHIPPED.glob('*.yml')), ids=lambda file: file.stem)
def test_pyiqa_itself_reads_the_shipped_files(file, tmp_path, monkeypatch):
    from pyiqa.utils.options import parse_options

    is_train = file.name.startswith('train')
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file)])
    opt, _ = parse_options(str(tmp_path), is_train)
    expected = read_options(file, 'train' if is_train else 'test')
    for phase, data in expected['datasets'].items():
        assert opt['datasets'][phase] == {**data, 'phase': phase.split('_')[0]}


def test_what_pyiqa_cannot_read_is_said(options, tmp_path):
    path = tmp_path / 'merge.yml'
    text = options.train.read_text()
    path.write_text(text.replace('datasets:', 'common: &common {a: 1}\ndatasets:\n  <<: *common'))
    with pytest.raises(AMHPError, match='no merges'):
        run_train(path, [], tmp_path)
