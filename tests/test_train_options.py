"""Option files that can be used, and those that cannot; checks of single options."""

import sys
from pathlib import Path

import pytest
import yaml
from train_helpers import write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.options import number, one_of, read_options

SHIPPED = Path(__file__).parents[1] / 'options'


@pytest.fixture
def shipped():
    """Read the shipped options ``train`` or ``test``, to change them."""
    return lambda kind: yaml.safe_load((SHIPPED / f'{kind}_amhp_custom.yml').read_text())


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


TRAIN = ['name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'train', 'logger']
TEST = ['name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'val']


@pytest.mark.parametrize(
    ('kind', 'section'),
    [*(('train', name) for name in TRAIN), *(('test', name) for name in TEST)],
)
def test_a_missing_section_is_named(shipped, kind, section, tmp_path):
    opt = shipped(kind)
    del opt[section]
    file = write_options(tmp_path / 'options.yml', opt)
    with pytest.raises(AMHPError) as caught:
        read_options(file, kind)
    assert str(caught.value) == f'{file}: no section {section}; see options/ for examples'


@pytest.mark.parametrize('value', [None, 3, ['a']])
@pytest.mark.parametrize('section', ['datasets', 'network', 'path', 'train', 'logger'])
def test_a_section_without_options_is_named(shipped, section, value, tmp_path):
    opt = shipped('train')
    opt[section] = value
    file = write_options(tmp_path / 'options.yml', opt)
    with pytest.raises(AMHPError) as caught:
        read_options(file, 'train')
    assert str(caught.value) == f'{file}: {section} is {value!r}, expected a section with options'


def test_training_needs_a_training_set(shipped, tmp_path):
    opt = shipped('train')
    del opt['datasets']['train']
    file = write_options(tmp_path / 'options.yml', opt)
    with pytest.raises(AMHPError, match='no data set `train` under `datasets`'):
        read_options(file, 'train')


ALIASES = '\n'.join(f'a{n + 1}: &a{n + 1} [{", ".join([f"*a{n}"] * 10)}]' for n in range(9))


@pytest.mark.parametrize(
    'content', [f'a0: &a0 [x]\n{ALIASES}', 'a: &a [*a]', 'date: 2001-99-99', 'a: ' + '[' * 1000]
)
def test_yaml_that_would_grow_too_large_is_refused(tmp_path, content):
    path = tmp_path / 'bomb.yml'
    path.write_text(content)
    with pytest.raises(AMHPError, match=r'aliases written out|not a plain YAML'):
        read_options(path, 'train')


@pytest.mark.parametrize('file', sorted(SHIPPED.glob('*.yml')), ids=lambda file: file.stem)
def test_pyiqa_itself_reads_the_shipped_files(file, tmp_path, monkeypatch):
    from pyiqa.utils.options import parse_options

    is_train = file.name.startswith('train')
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file)])
    opt, _ = parse_options(str(tmp_path), is_train)
    expected = read_options(file, 'train' if is_train else 'test')
    for phase, data in expected['datasets'].items():
        assert opt['datasets'][phase] == {**data, 'phase': phase.split('_')[0]}


def test_as_many_values_as_pyiqa_can_log_are_read(shipped, tmp_path):
    opt = shipped('train')
    opt['more'] = list(range(9_800))
    assert read_options(write_options(tmp_path / 'options.yml', opt), 'train') == opt
    opt['more'] = list(range(10_000))
    with pytest.raises(AMHPError, match='more than 10,000 values'):
        read_options(write_options(tmp_path / 'options.yml', opt), 'train')


def test_a_word_is_one_of_those_allowed_and_the_first_of_them_by_default():
    assert one_of({}, 'nonfinite', ('stop', 'skip')) == 'stop'
    assert one_of({'nonfinite': 'skip'}, 'nonfinite', ('stop', 'skip')) == 'skip'
    with pytest.raises(AMHPError, match="train: nonfinite='go', expected stop, skip"):
        one_of({'nonfinite': 'go'}, 'nonfinite', ('stop', 'skip'))


def test_a_number_is_checked_and_has_a_default():
    assert number({}, 'x', None, lambda x: x > 0, 'above 0') is None
    assert number({'x': 2}, 'x', 1.5, lambda x: x > 0, 'above 0') == 2
    for value in (0, '1', True, [1]):
        with pytest.raises(AMHPError, match=r'train: x=.*, expected above 0'):
            number({'x': value}, 'x', None, lambda x: x > 0, 'above 0')
