"""The model card: it holds what was recorded of exactly these weights, and nothing else."""

import copy
import json
import re

import pytest
import torch
import yaml
from conftest import add_to_store
from huggingface_hub import ModelCard

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.sharing.card import model_card
from pyiqa_amhp.sharing.evidence import Evidence, find_evidence
from pyiqa_amhp.sharing.push import write_repository
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    read_checkpoint,
    save_checkpoint,
    weights_digest,
)
from pyiqa_amhp.weights.hub import HubId

MODEL = HubId('someone/a-model')
EVIL = '</code><script>alert(1)</script> | `` ``` [x](javascript:alert(2)) \x1b[31m\n# Title\n---\n'


@pytest.fixture(scope='module')
def experiment(trained_and_tested):
    return trained_and_tested / 'experiments' / 'tiny'


@pytest.fixture(scope='module')
def best(experiment):
    return experiment / 'models' / 'net_best.pth'


@pytest.fixture(scope='module')
def results(trained_and_tested):
    return trained_and_tested / 'results' / 'tiny'


@pytest.fixture(scope='module')
def repository(best, results, tmp_path_factory):
    """The folder with all files that are pushed to the hub for the tiny training."""
    folder = tmp_path_factory.mktemp('repository')
    assert write_repository(best, MODEL, folder, 'cc-by-nc-4.0', results=[results]) == ()
    return folder


@pytest.fixture(scope='module')
def card(repository):
    """The card of the tiny training, read by the hub's own client."""
    return ModelCard.load(repository / 'README.md')


def evidence_of(file, **places):
    return find_evidence(file, weights_digest(read_checkpoint(file).state), **places)


def card_of(file, evidence, licence=None):
    config = AMHPConfig.from_options({}, read_checkpoint(file).config)
    return model_card(MODEL, config, evidence, 1_648_145, licence)


def rows(card, section):
    """The rows of the first table in a section, as lists of cells."""
    text = str(card).split(f'\n## {section}\n')[1].split('\n## ')[0]
    lines = [line for line in text.split('\n') if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines]


# Contents


def test_the_metadata_describe_the_model(card):
    data = card.data.to_dict()
    assert data['license'] == 'cc-by-nc-4.0'
    assert data['library_name'] == 'pyiqa-amhp'
    assert data['pipeline_tag'] == 'image-classification'
    assert {'image-aesthetics', 'pyiqa', 'amhp'} <= set(data['tags'])
    assert set(data['metrics']) >= {'accuracy', 'spearmanr', 'pearsonr', 'mse'}
    assert 'datasets' not in data  # a user's own table is no data set of the hub
    assert 'base_model' not in data  # it started from random weights
    assert card.data.model_name == 'a-model'


def test_every_result_names_its_data_split_and_text(card, experiment, results):
    found = {
        (r.dataset_name, r.dataset_split, r.metric_name): r.metric_value
        for r in card.data.eval_results
    }
    validated = json.loads((experiment / 'training.json').read_text())['measured'][0]['metrics']
    tested = json.loads((results / 'custom_test.json').read_text())
    for name, value in validated.items():
        assert found['custom_val', 'val', name.upper()] == pytest.approx(value)
        assert found['custom_test', 'test', name.upper()] == pytest.approx(tested[name])
    assert len(found) == 2 * len(validated)
    for result in card.data.eval_results:
        assert result.dataset_config == "text: the images' own comments"
    accuracy = next(r for r in card.data.eval_results if r.metric_type == 'accuracy')
    assert accuracy.metric_args == {'threshold': 5}


def test_the_table_of_results_says_which_split_chose_the_checkpoint(card, results):
    header, _, test, validation = rows(card, 'Results')
    assert test[:4] == ['`custom_test`', '`test`', "the images' own comments", '6']
    assert validation[1] == '`val`'
    srcc = json.loads((results / 'custom_test.json').read_text())['srcc']
    assert test[header.index('`srcc`')] == f'{srcc:.4f}'
    assert 'best by `srcc` on its validation images' in str(card)


def test_the_training_is_described(card):
    described = dict(row for row in rows(card, 'Training') if len(row) == 2)
    assert described['data'] == '`custom`'
    assert described['table'] == '`rated.csv`'
    assert described['split'] == '`train` of column `split`'
    assert described['images'] == '12'
    assert described['iterations'] == '3'
    assert described['epochs'] == '1'
    assert described['seed'] == '`123`'
    assert described['started from'] == 'random weights'
    assert described['optimiser'] == '`AdamW`'
    assert '`pyiqa-amhp ' in described['software']
    options = yaml.safe_load(str(card).split('```yaml\n')[1].split('\n```')[0])
    assert options['train']['optim']['weight_decay'] == 0.001


def test_it_describes_use_origin_and_limits(card):
    text = ' '.join(str(card).split())
    for part in (
        "create_metric('amhp', pretrained_model_path='hf-hub:someone/a-model')",
        'amhp weights add hf-hub:someone/a-model --as ava',
        'on a scale from 1 to 10',
        'Independent implementation',
        'ACM Multimedia',
        'A new photograph has no such text',
        'The accuracy for photographs without any text is not recorded',
        'terms of their own',
    ):
        assert part in text


def test_no_folder_of_this_machine_is_published(
    repository, training_options, trained_and_tested, shared_rated_images
):
    images = shared_rated_images.parent
    given = training_options(shared_rated_images)['datasets']['train']
    assert str(images) in given['meta_info_file'] and str(images) in given['dataroot_target']
    files = [file for file in repository.rglob('*') if file.is_file()]
    assert {'README.md', 'config.json'} <= {file.name for file in files}
    for file in files:
        for folder in (trained_and_tested, images):
            assert str(folder).encode() not in file.read_bytes(), file.name


def test_missing_records_are_called_not_recorded(best):
    card = card_of(best, Evidence())
    assert card.data.eval_results is None
    assert set(card.data.to_dict()) == {'library_name', 'pipeline_tag', 'tags'}
    text = str(card)
    assert '## Results\n\nNot recorded.' in text
    assert 'The training of these weights is not recorded.' in text
    assert 'Not stated by those who shared these weights.' in text


def test_results_with_other_text_sources_have_their_own_rows(best, experiment):
    record = json.loads((experiment / 'training.json').read_text())
    row = {**record['measured'][0], 'by_prompt_source': {
        'given': {'srcc': 0.9}, 'predicted': {'srcc': 0.6}, 'none': {'srcc': None},
    }}  # fmt: skip
    card = card_of(best, Evidence(record, 3, (row,)))
    texts = [line[2] for line in rows(card, 'Results')[3:]]
    assert texts == ['given', 'predicted by the model', 'none']
    assert 'without any text is not recorded' not in ' '.join(str(card).split())
    found = {(r.dataset_config, r.metric_value) for r in card.data.eval_results}
    assert ('text: predicted by the model', 0.6) in found
    assert not any(config == 'text: none' for config, _ in found)  # nothing was defined


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        ({'dataset': 'para'}, "create_metric('amhp-para', pretrained_model_path="),
        ({'level_values': [0, 1, 2, 3, 7]}, 'on a scale from 0 to 7'),
        ({'variant': 'image'}, 'It reads no text about a photograph.'),
        ({'protocol': 'reference'}, "slips of the authors' code"),
    ],
    ids=str,
)
def test_the_configuration_is_described(make_amhp, options, part):
    config = make_amhp(**options).config
    assert part in ' '.join(str(model_card(MODEL, config, Evidence(), 1, None)).split())


def test_the_papers_data_sets_and_clip_have_the_hubs_names(experiment):
    record = json.loads((experiment / 'training.json').read_text())
    record['data']['train']['type'] = 'AVACommentsDataset'
    record['network'].update(pretrained='clip', clip_weights='openai')
    card = model_card(MODEL, AMHPConfig(), Evidence(record, 3), 1, None)
    assert card.data.datasets == ['ava']
    assert card.data.base_model == 'timm/vit_base_patch16_clip_224.openai'
    assert "CLIP's own weights (`openai`)" in str(card)


@pytest.mark.parametrize('licence', ['', 'Apache 2.0', 'mit\n', '../x', '[x](y)'])
def test_an_invalid_licence_name_is_refused(best, licence):
    with pytest.raises(AMHPError, match=r'such as apache-2\.0'):
        card_of(best, Evidence(), licence)


# Which records count


def test_records_beside_the_checkpoint_are_found(best):
    evidence = evidence_of(best)
    assert evidence.training['name'] == 'tiny'
    assert evidence.iteration == 3
    assert [row['data']['split'] for row in evidence.measured] == ['val']


def test_a_copy_is_recognised_by_its_weights(best, experiment, results, tmp_path):
    copy = add_to_store(best, 'ava')
    assert evidence_of(copy).training is None
    assert 'no training.json beside' in evidence_of(copy).notes[0]
    evidence = evidence_of(copy, experiment=experiment, results=[results])
    assert [row['data']['split'] for row in evidence.measured] == ['test', 'val']
    for place in (experiment / 'training.json', experiment):
        assert evidence_of(copy, experiment=place).iteration == 3


def test_records_of_other_weights_do_not_count(best, experiment, results, tmp_path):
    checkpoint = read_checkpoint(best)
    config = torch.tensor(list(json.dumps(checkpoint.config).encode()), dtype=torch.uint8)
    state = {**checkpoint.state, CONFIG_KEY: config}
    state['fc.bias'] = state['fc.bias'] + 1
    (tmp_path / 'models').mkdir()
    other = save_checkpoint(tmp_path / 'models' / 'net_best.pth', state)
    (tmp_path / 'training.json').write_text((experiment / 'training.json').read_text())
    evidence = evidence_of(other)
    assert evidence.training is None and evidence.measured == ()
    assert 'is about other weights and was not used' in evidence.notes[0]
    with pytest.raises(AMHPError, match='is about other weights'):
        evidence_of(other, experiment=experiment)
    with pytest.raises(AMHPError, match='its results were measured on other weights'):
        evidence_of(other, results=[results])


def test_an_earlier_checkpoint_has_its_own_iteration_and_no_later_results(experiment):
    evidence = evidence_of(experiment / 'models' / 'net_2.pth')
    assert evidence.iteration == 2
    assert evidence.measured == ()


def test_a_folder_without_a_record_is_reported(best, tmp_path):
    with pytest.raises(AMHPError, match=r'expected the training\.json that `amhp train` writes'):
        evidence_of(best, experiment=tmp_path)
    with pytest.raises(AMHPError, match=r'expected the testing\.json that `amhp test` writes'):
        evidence_of(best, results=[tmp_path / 'absent'])


# Records with hostile contents


def test_markdown_html_and_yaml_in_names_are_shown_as_text(best, experiment):
    record = json.loads((experiment / 'training.json').read_text())
    record['data']['train'].update(name=EVIL, meta_info_file=EVIL, batch_size_per_gpu=EVIL)
    record['train']['optim'] = {'type': EVIL, 'lr': [EVIL]}
    record['versions'] = {EVIL: EVIL}
    row = copy.deepcopy(record['measured'][0])
    row['data'].update(name=EVIL, split=EVIL, text_source=EVIL)
    row['metrics'][EVIL] = 0.5
    card = card_of(best, Evidence(record, 3, (row,)))
    text = str(card)
    again = ModelCard(text)
    assert set(again.data.to_dict()) == set(card.data.to_dict())
    assert again.data.license is None
    assert '\x1b' not in text
    assert [line for line in text.split('\n') if line.startswith('# ')] == ['# a-model']
    body = text.split('\n---\n', 1)[1]
    lines = body.split('All options:')[0].split('\n')
    evil = [(line, at.start()) for line in lines for at in re.finditer('<script>', line)]
    assert len(evil) > 5
    assert all(line[:at].count('`') % 2 == 1 for line, at in evil)  # between backticks
    width = {len(line) for line in rows(card, 'Results')}
    fence = body.split('All options:\n\n')[1].split('\n')[0].removesuffix('yaml')
    assert len(fence) > 3 and set(fence) == {'`'}  # longer than any in the options
    assert body.count(f'\n{fence}\n') == 1
    assert len(width) == 1


@pytest.mark.parametrize('value', [None, 'x', [[]], {'a': {}}, 1e400], ids=str)
def test_a_value_of_another_type_still_gives_a_valid_card(best, experiment, value):
    record = json.loads((experiment / 'training.json').read_text())
    row = record['measured'][0]
    cases = [Evidence({**record, key: value}, 3, ()) for key in record]
    cases += [Evidence(record, 3, ({**row, key: value},)) for key in row]
    for part in ('data', 'train', 'network', 'validation'):
        for key in record[part]:
            cases.append(Evidence({**record, part: {**record[part], key: value}}, 3, ()))
    for key in record['data']['train']:
        changed = copy.deepcopy(record)
        changed['data']['train'][key] = value
        cases.append(Evidence(changed, 3, ()))
    for evidence in cases:
        text = str(card_of(best, evidence))
        assert '\n# a-model\n' in text and '\n## Training\n' in text and '\n## Results\n' in text
        assert ModelCard(text).data.library_name == 'pyiqa-amhp'
