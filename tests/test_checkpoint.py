"""Checkpoints: saving and loading, refused files, the order in which weights are looked for."""

import json
import logging
import pickle

import open_clip
import pytest
import safetensors.torch
import torch
from conftest import add_to_store
from hostile_world import Code

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.weights import store as weights
from pyiqa_amhp.weights.checkpoint import read_checkpoint, save_checkpoint

TEXTS = ['soft evening light', None, 'the horizon is tilted']
OTHER_OPTIONS = {
    'variant': 'image+attributes',
    'protocol': 'reference',
    'levels': ['dull', 'nice', 'great'],
    'level_values': [0, 0.5, 2.5],
    'quick_gelu': True,
    'image_mean': [0.5, 0.4, 0.3],
    'resize': 'shortest',
    'tau': 0.2,
}
SUFFIXES = pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])


def score(net):
    images = torch.rand(3, 3, 41, 53, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return net.eval()(images, text=TEXTS)


def save(net, path):
    return save_checkpoint(path, net.state_dict())


@pytest.fixture
def clip_file(tiny, tmp_path):
    """Weights of a tiny CLIP, whose own scale is 100."""
    torch.manual_seed(5)
    state = open_clip.CLIP(**tiny).state_dict()
    state['logit_scale'].fill_(torch.tensor(100.0).log())
    torch.save(state, tmp_path / 'clip.pt')
    return str(tmp_path / 'clip.pt')


@pytest.fixture
def zero_shot(tiny, clip_file, monkeypatch):
    """Build an AMHP that starts from CLIP's weights; no warning was logged before."""
    monkeypatch.setattr(weights, '_warned', set())

    def build(pretrained=True, **options):
        given = {'backbone': tiny, 'clip_weights': clip_file, 'quick_gelu': True, **options}
        return AMHP(pretrained=pretrained, **given)

    return build


# Saving and loading


@SUFFIXES
@pytest.mark.parametrize(
    'options', [{}, OTHER_OPTIONS, {'variant': 'image'}], ids=['plain', 'other', 'image']
)
def test_a_checkpoint_gives_identical_scores(make_amhp, tmp_path, suffix, options):
    net = make_amhp(seed=1, **options)
    path = save(net, tmp_path / f'net{suffix}')
    for pretrained in (True, False):
        loaded = AMHP(pretrained=pretrained, pretrained_model_path=str(path))
        assert torch.equal(score(loaded), score(net))
        assert loaded.config == net.config


@SUFFIXES
def test_a_checkpoint_carries_its_configuration(make_amhp, tmp_path, tiny, suffix):
    path = save(make_amhp(dataset='para', **OTHER_OPTIONS), tmp_path / f'net{suffix}')
    config = read_checkpoint(path).config
    assert config['dataset'] == 'para'
    assert config['backbone'] == tiny
    for name, value in OTHER_OPTIONS.items():
        assert config[name] == value
    assert config['normalize_fused'] is False  # of the protocol


def test_safetensors_show_the_configuration_to_any_reader(make_amhp, tmp_path):
    path = save(make_amhp(**OTHER_OPTIONS), tmp_path / 'net.safetensors')
    with safetensors.safe_open(path, 'pt') as file:
        assert json.loads(file.metadata()['pyiqa_amhp'])['levels'] == OTHER_OPTIONS['levels']


def test_pyiqa_loads_a_pth_file(make_amhp, tiny, tmp_path):
    import pyiqa

    net = make_amhp(seed=1)
    path = save(net, tmp_path / 'net.pth')
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=tiny, device='cpu')
    assert not torch.equal(score(metric.net), score(net))
    metric.load_weights(str(path))
    assert torch.equal(score(metric.net), score(net))
    metric = pyiqa.create_metric('amhp', pretrained_model_path=str(path), device='cpu')
    assert torch.equal(score(metric.net), score(net))


def test_a_file_saved_by_pyiqas_model_class_loads(tiny, tmp_path):
    from pyiqa_amhp.train.model import AMHPModel

    network = {'type': 'AMHP', 'pretrained': False, 'backbone': tiny, 'protocol': 'reference'}
    options = {'is_train': False, 'num_gpu': 0, 'dist': False, 'network': network}
    model = AMHPModel({**options, 'path': {'models': str(tmp_path)}})
    model.save_network(model.net, 'net', 100)
    loaded = AMHP(pretrained_model_path=str(tmp_path / 'net_100.pth'))
    assert loaded.config == model.net.config
    assert torch.equal(score(loaded), score(model.net))


def test_gradients_and_memory_layout_do_not_matter_in_saving(make_amhp, tmp_path):
    net = make_amhp(seed=1)
    state = {
        key: value.clone().requires_grad_(value.is_floating_point())
        for key, value in net.state_dict().items()
    }
    state['fc.weight'] = state['fc.weight'].T.contiguous().T  # another layout
    for suffix in ('.pth', '.safetensors'):
        path = save_checkpoint(tmp_path / f'net{suffix}', state)
        assert torch.equal(score(AMHP(pretrained_model_path=str(path))), score(net))


# Options that override a checkpoint's


@pytest.mark.parametrize(
    ('stored', 'given', 'expected'),
    [
        ({}, {'level_values': [1, 2, 3, 4, 6]}, {'level_values': (1, 2, 3, 4, 6)}),
        (
            {},
            {'dataset': 'para', 'level_values': (1, 2, 3, 4, 5)},
            {'level_values': (1, 2, 3, 4, 5), 'dataset': 'para'},
        ),
        ({'level_values': range(5)}, {'dataset': 'ava'}, {'level_values': (0, 1, 2, 3, 4)}),
        ({}, {'levels': list('vwxyz')}, {'levels': tuple('vwxyz')}),
        ({}, {'protocol': 'reference'}, {'normalize_fused': False, 'test_flip': True}),
        ({'protocol': 'reference'}, {'protocol': 'reference'}, {'normalize_fused': False}),
        (
            {'protocol': 'reference'},
            {'protocol': 'paper'},
            {'normalize_fused': True, 'crop': 'center'},
        ),
        ({'crop': 'corner'}, {'template': 'Is it {level}?'}, {'crop': 'corner'}),
        ({'crop': 'corner'}, {'protocol': 'paper'}, {'crop': 'corner'}),
        ({'quick_gelu': True}, {'tau': None}, {'quick_gelu': True, 'tau': 0.07}),
    ],
    ids=str,
)
def test_options_override_those_of_a_checkpoint(make_amhp, tmp_path, stored, given, expected):
    path = save(make_amhp(**stored), tmp_path / 'net.pth')
    config = AMHP(pretrained_model_path=str(path), **given).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_amhp_clip_uses_clips_own_scale(tiny, clip_file):
    import pyiqa

    options = {'backbone': tiny, 'clip_weights': clip_file, 'quick_gelu': True, 'device': 'cpu'}
    net = pyiqa.create_metric('amhp-clip', **options).net
    assert net.logit_scale.exp().item() == pytest.approx(100)
    assert net.config.variant == 'image+levels'


def test_weights_of_another_scale_are_refused(make_amhp, tmp_path):
    import pyiqa

    path = str(save(make_amhp(dataset='para'), tmp_path / 'net.pth'))
    with pytest.raises(AMHPError, match=r"trained on the scale of 'para'.* of 'aadb'"):
        pyiqa.create_metric('amhp-aadb', pretrained_model_path=path, device='cpu')
    metric = pyiqa.create_metric('amhp', pretrained_model_path=path, device='cpu')
    assert metric.net.config.level_values == (1, 2, 3, 4, 5)


def test_an_overriding_option_changes_the_score(make_amhp, tmp_path):
    net = make_amhp()
    path = str(save(net, tmp_path / 'net.pth'))
    doubled = [2 * value for value in net.config.level_values]
    torch.testing.assert_close(
        score(AMHP(pretrained_model_path=path, level_values=doubled)), 2 * score(net)
    )
    other = AMHP(pretrained_model_path=path, template='Is it {level}?')
    assert not torch.equal(score(other), score(net))


def test_an_option_that_needs_other_weights_names_the_keys(make_amhp, tmp_path):
    path = str(save(make_amhp(), tmp_path / 'net.pth'))
    with pytest.raises(
        AMHPError, match=r'net\.pth.*1 missing: level_vectors; 2 unexpected: fc\.bias'
    ):
        AMHP(pretrained_model_path=path, variant='image')


# Refused files


@pytest.mark.parametrize('file_format', ['zip', 'legacy', 'pickle'])
def test_a_pickle_with_code_in_it_is_refused_and_never_runs(make_amhp, tmp_path, file_format):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    content = {'params': {**make_amhp().state_dict(), 'fc.bias': Code(trace)}}
    if file_format == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=file_format == 'zip')
    with pytest.raises(AMHPError, match=r'evil\.pth: (refused|damaged)') as caught:
        AMHP(pretrained_model_path=str(path))
    assert not trace.exists()
    assert 'weights_only' not in str(caught.value)  # torch's message advises how to run it
    torch.load(path, weights_only=False) if file_format != 'pickle' else pickle.loads(
        path.read_bytes()
    )
    assert trace.exists()  # the code in it works


def test_a_pickled_model_is_refused_by_its_class(make_amhp, tmp_path):
    torch.save(make_amhp(), tmp_path / 'model.pth')
    with pytest.raises(AMHPError, match=r'refused, since it holds more than tensors.*AMHP'):
        read_checkpoint(tmp_path / 'model.pth')


def test_keys_that_do_not_fit_are_named(make_amhp, tmp_path):
    state = make_amhp().state_dict()
    del state['fc.bias']
    state['fc.extra'] = torch.ones(1)
    state['fc.weight'] = torch.ones(2, 2)
    path = save_checkpoint(tmp_path / 'net.pth', state)
    with pytest.raises(AMHPError) as caught:
        AMHP(pretrained_model_path=str(path))
    for part in (
        '1 missing: fc.bias',
        '1 unexpected: fc.extra',
        'fc.weight is [2, 2], expected [16, 32]',
    ):
        assert part in str(caught.value)


@SUFFIXES
@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: b'', 'the file is empty'),
        (lambda data: data[:1000], 'damaged, or not a file of weights'),
        (lambda data: data[:-100], 'damaged, or not a file of weights'),
        (lambda data: b'\xff\xd8\xff\xe0' + bytes(99), 'damaged, or not a file of weights'),
        (lambda data: b'version https://git-lfs.github.com/spec/v1', 'damaged, or not a file'),
    ],
    ids=['empty', 'head', 'cut', 'jpeg', 'pointer'],
)
def test_a_damaged_file_is_reported(make_amhp, tmp_path, suffix, damage, message):
    path = save(make_amhp(), tmp_path / f'net{suffix}')
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AMHPError, match=rf'net\{suffix}: {message}'):
        AMHP(pretrained_model_path=str(path))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'params': {'weight': torch.ones(2)}}, 'no AMHP configuration in it.*clip_weights='),
        ({'params': {'_extra_state': torch.ones(2)}}, 'no AMHP configuration in it'),
        ({'params': {'_extra_state': torch.tensor([91, 93])}}, 'no AMHP configuration in it'),
        ({'iter': 3}, 'expected a checkpoint with named tensors, found none'),
        ([torch.ones(2)], 'expected a checkpoint with named tensors, found none'),
        (torch.ones(2), 'expected a checkpoint with named tensors, found none'),
    ],
    ids=['other model', 'other state', 'other JSON', 'no tensors', 'list', 'tensor'],
)
def test_a_file_of_something_else_is_reported(tmp_path, content, message):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(AMHPError, match=rf'other\.pth: {message}'):
        AMHP(pretrained_model_path=str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('pretrained', [True, False])
def test_a_missing_file_is_reported(tmp_path, pretrained):
    with pytest.raises(AMHPError, match=r'absent\.pth: no such file'):
        AMHP(pretrained=pretrained, pretrained_model_path=str(tmp_path / 'absent.pth'))


# The order in which weights are looked for


def test_argument_before_environment_before_store_before_zero_shot(
    make_amhp, zero_shot, tmp_path, monkeypatch, caplog
):
    nets = {name: make_amhp(seed, quick_gelu=True) for seed, name in enumerate('ABC')}
    files = {name: save(net, tmp_path / f'{name}.pth') for name, net in nets.items()}
    from_clip = score(zero_shot())
    assert 'zero-shot' in caplog.text
    caplog.clear()
    add_to_store(files['C'], 'ava')
    assert torch.equal(score(zero_shot()), score(nets['C']))
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(files['B']))
    assert torch.equal(score(zero_shot()), score(nets['B']))
    assert torch.equal(score(zero_shot(pretrained_model_path=files['A'])), score(nets['A']))
    assert not caplog.records
    # trained weights are not looked for with other values of pretrained
    assert torch.equal(score(zero_shot(pretrained='clip', tau='clip')), from_clip)
    assert not torch.equal(score(zero_shot(pretrained=False)), score(nets['B']))


def test_each_data_set_has_its_entry_in_the_store(make_amhp, tmp_path, tiny):
    import pyiqa

    nets = {
        name: make_amhp(seed, dataset=name) for seed, name in enumerate(('ava', 'para', 'aadb'))
    }
    for name, net in nets.items():
        add_to_store(save(net, tmp_path / f'{name}.pth'), name)
    for metric, name in (('amhp', 'ava'), ('amhp-para', 'para'), ('amhp-aadb', 'aadb')):
        assert torch.equal(score(pyiqa.create_metric(metric, device='cpu').net), score(nets[name]))


def test_a_missing_file_in_the_environment_variable_is_an_error(zero_shot, monkeypatch):
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', 'absent.pth')
    with pytest.raises(AMHPError, match=r'absent\.pth: no such file'):
        zero_shot()
    zero_shot(pretrained=False)


# Zero-shot


def test_zero_shot_logs_one_warning(zero_shot, clip_file, caplog):
    for pretrained in (False, 'clip', True, True, True):
        zero_shot(pretrained)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ('no trained weights', 'zero-shot', 'text changes nothing', 'amhp weights add'):
        assert part in record.getMessage()


def test_zero_shot_gives_clips_own_probabilities(zero_shot, tiny, clip_file):
    net = zero_shot(protocol='reference', fc_init='zero', normalize_fused=True, tuple_prompts=False)
    clip = open_clip.CLIP(**tiny, quick_gelu=True).eval()
    clip.load_state_dict(torch.load(clip_file))
    image = torch.rand(2, 3, 40, 40)
    sentences = [
        f'A photo with {w} aesthetics.' for w in ('bad', 'poor', 'fair', 'good', 'perfect')
    ]
    with torch.no_grad():
        logits, _ = clip.get_logits(net.preprocess(image), open_clip.tokenize(sentences))
        dist = net.eval()(image, text=['warm light', ''], return_mos=False, return_dist=True)
    torch.testing.assert_close(dist, logits.softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('variant', ['image', 'image+attributes'])
def test_a_variant_without_quality_levels_cannot_run_zero_shot(zero_shot, variant):
    with pytest.raises(
        AMHPError, match=f"variant='{variant}' cannot run zero-shot".replace('+', r'\+')
    ):
        zero_shot(variant=variant)
    zero_shot(pretrained='clip', variant=variant)
