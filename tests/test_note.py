"""The note of a checkpoint: shown with every score, and not handed on to another training."""

import json
import re

import pandas as pd
import pytest
import torch
from conftest import add_to_store
from PIL import Image
from train_helpers import load_weights, write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import MAX_NOTE, AMHPConfig
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.train.pipeline import run_test, run_train
from pyiqa_amhp.weights import store
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    read_checkpoint,
    save_checkpoint,
    stored_config,
    weights_digest,
)

NOTE = 'Simulated raters <b>: $1 and $2 [red].'


def note_of(file):
    return read_checkpoint(file).config.get('note')


@pytest.fixture
def noted(make_amhp, tmp_path):
    """A checkpoint with a note."""
    state = make_amhp(note=NOTE).state_dict()
    return save_checkpoint(tmp_path / 'noted.safetensors', state)


def unwrapped(text):
    """Remove the line ends and frames of tables and panels."""
    return ' '.join(re.sub('[│┃]', ' ', text).split())


# The configuration


def test_weights_without_a_note_are_stored_as_before(make_amhp):
    assert 'note' not in stored_config(make_amhp().state_dict()[CONFIG_KEY])
    assert Scorer(make_amhp()).note == ''


def test_a_note_changes_no_score_and_no_digest_of_weights(make_amhp, noted):
    plain = make_amhp()
    net = AMHP(pretrained_model_path=str(noted))
    assert net.config.note == Scorer(net).note == NOTE
    assert weights_digest(net.state_dict()) == weights_digest(plain.state_dict())
    assert not plain.differences(net.get_extra_state())
    plain.load_state_dict(net.state_dict())
    assert plain.config.note == ''


def test_a_note_is_one_short_line_without_commands_to_a_terminal():
    config = AMHPConfig(note='a\n b\x1b[31m' + 'c' * 999)
    assert config.note.startswith(r'a b\x1b[31mccc') and len(config.note) == MAX_NOTE
    with pytest.raises(AMHPError, match='note=7: expected a text'):
        AMHPConfig(note=7)


def test_a_model_with_a_note_warns_once(noted, caplog, monkeypatch):
    monkeypatch.setattr(store, '_warned', set())
    for _ in range(2):
        AMHP(pretrained_model_path=str(noted))
    assert caplog.text.count(f'noted.safetensors: {NOTE}') == 1


# Scores


@pytest.mark.parametrize('suffix', ['csv', 'json', 'jsonl', 'parquet'])
def test_score_tables_and_the_screen_have_the_note(amhp, noted, photos, tmp_path, suffix):
    out = tmp_path / f'scores.{suffix}'
    code, screen, _ = amhp('score', photos, '--weights', noted, '--device', 'cpu', '--out', out)
    assert code == 0 and NOTE in unwrapped(screen)
    read = {
        'csv': pd.read_csv,
        'json': pd.read_json,
        'jsonl': lambda file: pd.read_json(file, lines=True),
        'parquet': pd.read_parquet,
    }[suffix]
    assert read(out)['note'].tolist() == [NOTE] * 4


def test_score_tables_of_other_weights_have_no_such_column(amhp, tiny_weights, photos, tmp_path):
    out = tmp_path / 'scores.csv'
    amhp('score', photos, '--weights', tiny_weights, '--device', 'cpu', '--out', out)
    assert 'note' not in pd.read_csv(out)


@pytest.mark.slow
def test_tables_of_ray_have_the_note(amhp, noted, photos, tmp_path):
    pytest.importorskip('ray')
    out = tmp_path / 'scores'
    code, screen, err = amhp(
        'score', photos, '--weights', noted, '--engine', 'ray', '--ray-actors', 1, '--out', out
    )
    assert code == 0, err
    assert NOTE in unwrapped(screen)
    assert set(pd.read_parquet(next(out.glob('*.parquet')))['note']) == {NOTE}


def test_the_row_of_a_benchmark_has_the_note(noted, rated_images, tmp_path):
    from pyiqa_amhp.evaluation.benchmark import benchmark
    from pyiqa_amhp.evaluation.rated_set import load_rated

    rated = load_rated(str(rated_images), split='all')
    out = tmp_path / 'out'
    [row] = benchmark(['amhp'], rated, out, {'amhp': str(noted)}, device='cpu', resamples=9).rows
    assert row.notes[0] == NOTE
    assert NOTE in (out / 'results.csv').read_text()
    assert 'Simulated raters &lt;b&gt;' in (out / 'results.html').read_text()


# Explanations and the page


def test_explanations_have_the_note(amhp, noted, photos, tmp_path):
    images = [photos / 'a.png', photos / 'b.jpg']
    options = ['--weights', noted, '--device', 'cpu']
    _, screen, _ = amhp('explain', *images, *options)
    assert unwrapped(screen).count(NOTE) == 2
    code, _, _ = amhp('explain', *images, *options, '--out', tmp_path / 'why')
    assert code == 0
    entries = json.loads((tmp_path / 'why' / 'explanations.json').read_text())
    assert {entry['note'] for entry in entries} == {NOTE}
    page = (tmp_path / 'why' / 'index.html').read_text()
    assert page.count('<p class="warning" role="note">Simulated raters &lt;b&gt;') == 1


def test_a_card_has_a_line_for_the_note(make_amhp, noted, photos, tmp_path):
    from pyiqa_amhp.explain.card import draw_card

    image = Image.open(photos / 'a.png').convert('RGB')
    heights = []
    for net in (make_amhp(), AMHP(pretrained_model_path=str(noted)).eval()):
        card = draw_card(tmp_path / 'card.png', 'a.png', image, net.explain(image))
        with Image.open(card) as drawn:
            heights.append(drawn.height)
    assert heights[1] == heights[0] + 30


def test_the_page_has_the_note_in_every_panel_and_answer(noted, app_photos):
    pytest.importorskip('gradio')
    from pyiqa_amhp.app import render
    from pyiqa_amhp.app.limits import Limits
    from pyiqa_amhp.app.photos import PhotoScorer
    from pyiqa_amhp.app.uploads import Upload

    scorer = PhotoScorer(AMHP(pretrained_model_path=str(noted)).eval(), Limits())
    photo = Upload(str(app_photos / 'photo0.png'), 'photo0.png')
    explained, scored = scorer.explain(photo), scorer.score_many([photo])
    shown = '<p class="amhp-note'
    for panel in (
        render.top(render.weights_notice(scorer)),
        render.score_panel(explained),
        render.many_panel(scorer, scored),
    ):
        assert panel.count(shown) == 1 and 'Simulated raters &lt;b&gt;' in panel
    assert scorer.score(photo)['note'] == explained.to_dict()['note'] == NOTE
    assert NOTE in scorer.to_csv(photo.result for photo in scored)


# The store, the hub, ONNX


def test_the_store_keeps_the_note_and_says_it(amhp, noted):
    _, _, err = amhp('weights', 'add', noted, '--as', 'ava')
    assert NOTE in unwrapped(err)
    assert note_of(store.store_path('ava')) == NOTE
    _, listed, _ = amhp('weights', 'list')
    assert f'ava: {NOTE}' in unwrapped(listed)
    _, info, _ = amhp('info')
    assert NOTE.replace(' ', '') in re.sub(r'[\s│]', '', info)


def test_weights_that_the_environment_names_have_their_note_in_info(noted, monkeypatch):
    from pyiqa_amhp.cli.info import collect_info

    monkeypatch.setenv(store.WEIGHTS_VARIABLE, str(noted))
    weights = collect_info()['weights']
    assert weights[store.WEIGHTS_VARIABLE] == f'{noted} ({NOTE})'


def test_the_model_card_begins_with_the_note(noted, tmp_path):
    from pyiqa_amhp.sharing.push import write_repository
    from pyiqa_amhp.weights.hub import HubId

    write_repository(noted, HubId('someone/a-model'), tmp_path / 'repository')
    card = (tmp_path / 'repository' / 'README.md').read_text()
    assert f'# a-model\n\n**Note:** `{NOTE}`\n\nAn [AMHP]' in card
    assert note_of(tmp_path / 'repository' / 'model.safetensors') == NOTE


def test_onnx_metadata_hold_the_note(noted):
    from pyiqa_amhp.model.export import metadata

    net = AMHP(pretrained_model_path=str(noted))
    assert json.loads(metadata(net)['config'])['note'] == NOTE


# Training


@pytest.mark.parametrize(
    'section', [('network', 'pretrained_model_path'), ('path', 'pretrain_network')]
)
def test_a_training_from_weights_with_a_note_has_its_own_note_only(build, noted, section):
    for given, expected in (({}, ''), ({'note': 'mine'}, 'mine')):
        changes = {'network': given}
        changes[section[0]] = {**changes.get(section[0], {}), section[1]: str(noted)}
        if section[0] == 'network':
            changes['network']['pretrained'] = True
        model = build(**changes)
        for net in (model.net, model.net_best):
            stored = stored_config(net.state_dict()[CONFIG_KEY])
            assert stored.get('note', '') == expected


def test_a_resumed_training_and_its_test_keep_the_note(training_options, rated_images, tmp_path):
    opt = training_options(rated_images)
    opt['network']['note'] = NOTE
    opt['logger']['save_checkpoint_freq'] = 3
    file = write_options(tmp_path / 'train.yml', opt)
    run_train(file, [], tmp_path)
    opt['train']['total_epoch'] = 2
    write_options(file, opt)
    run_train(file, ['--auto_resume'], tmp_path)
    best = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_best.pth'
    assert note_of(best) == NOTE and isinstance(load_weights(best)['fc.bias'], torch.Tensor)
    test = {key: opt[key] for key in ('name', 'model_type', 'num_gpu', 'manual_seed', 'val')}
    data = {**opt['datasets']['val'], 'name': 'rated_test', 'phase': 'test'}
    test |= {'datasets': {'test_1': data}, 'path': {'pretrain_network': None}}
    test['network'] = {'type': 'AMHP', 'pretrained_model_path': str(best)}
    run_test(write_options(tmp_path / 'test.yml', test), [], tmp_path)
    results = tmp_path / 'results' / 'tiny'
    assert set(pd.read_csv(results / 'rated_test.csv')['note']) == {NOTE}
    assert json.loads((results / 'rated_test.json').read_text())['note'] == NOTE


def test_a_note_in_the_store_is_shown_by_default_weights(noted):
    add_to_store(noted, 'ava')
    assert AMHP().config.note == NOTE
