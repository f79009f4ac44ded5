"""The records of trainings and tests, and the weights that each figure was measured on."""

import json

import pytest
import yaml
from conftest import add_to_store

from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.record import read_record
from pyiqa_amhp.weights.checkpoint import read_checkpoint, weights_digest


@pytest.fixture(scope='module')
def record(trained_and_tested):
    return json.loads((trained_and_tested / 'experiments' / 'tiny' / 'training.json').read_text())


def digest_of(file):
    return weights_digest(read_checkpoint(file).state)


def test_every_checkpoint_has_the_digest_of_its_weights_and_its_iteration(
    trained_and_tested, record
):
    files = sorted((trained_and_tested / 'experiments' / 'tiny' / 'models').glob('*.pth'))
    checkpoints = record['checkpoints']
    assert sorted(checkpoints) == [file.name for file in files]
    assert checkpoints['net_2.pth']['iteration'] == 2
    assert checkpoints['net_latest.pth']['iteration'] == 3
    for file in files:
        assert checkpoints[file.name]['weights'] == digest_of(file)
    assert checkpoints['net_2.pth']['weights'] != checkpoints['net_latest.pth']['weights']


def test_every_validation_has_its_data_and_weights(record):
    [measured] = record['measured']
    assert measured['weights'] == record['checkpoints']['net_best.pth']['weights']
    assert (measured['iteration'], measured['images']) == (3, 6)
    assert measured['data']['name'] == 'custom_val'
    assert measured['data']['split'] == 'val'
    assert measured['data']['text_source'] == 'comments'
    assert set(measured['metrics']) == {'acc', 'srcc', 'plcc', 'krcc', 'mse', 'emd1', 'emd2'}


def test_the_record_has_the_options_and_the_data_but_no_folders(
    trained_and_tested, record, shared_rated_images
):
    assert record['seed'] == 123
    assert record['iterations_per_epoch'] == 3
    assert record['data']['train']['images'] == 12
    assert record['data']['train']['meta_info_file'] == 'rated.csv'
    assert record['train']['optim'] == {'type': 'AdamW', 'lr': 0.01, 'weight_decay': 0.001}
    assert record['train']['scheduler']['type'] == 'CosineAnnealingLR'
    assert record['train']['mos_loss_opt']['type'] == 'AMHPEMDLoss'
    assert record['validation']['key_metric'] == 'srcc'
    for folder in (trained_and_tested, shared_rated_images.parent):
        assert str(folder) not in json.dumps(record)


def test_a_test_has_the_digest_of_its_weights(trained_and_tested, record):
    tested = read_record(trained_and_tested / 'results' / 'tiny' / 'testing.json')
    [measured] = tested['measured']
    assert measured['weights'] == record['checkpoints']['net_best.pth']['weights']
    assert measured['data']['split'] == 'test'
    written = json.loads((trained_and_tested / 'results' / 'tiny' / 'custom_test.json').read_text())
    assert measured['metrics'] == {key: written[key] for key in measured['metrics']}


def test_the_digest_depends_on_the_weights_and_not_on_the_file(trained_and_tested, tmp_path):
    best = trained_and_tested / 'experiments' / 'tiny' / 'models' / 'net_best.pth'
    stored = add_to_store(best, 'ava')
    assert digest_of(stored) == digest_of(best)
    checkpoint = read_checkpoint(best)
    checkpoint.state['fc.bias'][3] += 1e-6
    assert weights_digest(checkpoint.state) != digest_of(best)


def test_a_resumed_training_has_the_record_of_one_that_was_not_interrupted(
    training_options, shared_rated_images, tmp_path
):
    opt = training_options(shared_rated_images)
    opt['val']['val_freq'] = 1
    opt['train']['total_epoch'] = 2
    opt['logger'].update(save_latest_freq=1, keep_last=9)
    file = tmp_path / 'train.yml'
    file.write_text(yaml.safe_dump(opt))
    run_train(file, [], tmp_path)
    folder = tmp_path / 'experiments' / 'tiny'
    whole = (folder / 'training.json').read_text()
    for state in ('5', '6'):
        (folder / 'training_states' / f'{state}.state').unlink()
    run_train(file, ['--auto_resume'], tmp_path)
    assert (folder / 'training.json').read_text() == whole


def test_a_record_of_an_older_version_gets_the_names_of_today(record, tmp_path):
    by_source = {'given': {'srcc': 0.9}, 'none': {'srcc': None}}
    row = {key: value for key, value in record['measured'][0].items() if key != 'by_prompt_source'}
    old = {**record, 'measured': [{**row, 'by_text_source': by_source}]}
    (tmp_path / 'testing.json').write_text(json.dumps(old))
    [measured] = read_record(tmp_path / 'testing.json')['measured']
    assert measured == {**row, 'by_prompt_source': by_source}


@pytest.mark.parametrize(
    'text',
    ['', '[]', '{"format": 2}', '{"format": 1, "measured": 3}', '[' * 99999, 'not JSON', '\x00'],
    ids=['empty', 'list', 'newer', 'partial', 'deep', 'text', 'nul'],
)
def test_other_files_are_not_read_as_records(tmp_path, text):
    (tmp_path / 'training.json').write_text(text)
    assert read_record(tmp_path / 'training.json') is None
    assert read_record(tmp_path / 'absent.json') is None
