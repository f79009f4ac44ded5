"""A checkpoint of the authors' public code gives the scores of their network, wherever it is."""

import math

import open_clip
import pyiqa
import pytest
import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.scoring.scorer import create_metric
from pyiqa_amhp.weights.authors_code import _architecture
from pyiqa_amhp.weights.checkpoint import read_checkpoint

# OpenAI's encoders have heads of 64 numbers.
ARCHITECTURE = {
    'embed_dim': 16,
    'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 64, 'patch_size': 16},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 64, 'heads': 1, 'layers': 1},
}
VALUES = torch.tensor([1, 1.75, 2.75, 3.75, 5])
LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
TEXTS = ['A photo with good color.', 'soft light', 'A photo with bad light.']


@pytest.fixture(scope='module')
def parts():
    """CLIP with OpenAI's activation, the fully connected layer, and the learned scale."""
    torch.manual_seed(0)
    clip, mlp = open_clip.CLIP(**ARCHITECTURE, quick_gelu=True).eval(), nn.Linear(32, 16)
    for parameter in clip.parameters():
        parameter.data = parameter.data.half().float()  # as OpenAI publishes them
    return clip, mlp, torch.tensor(math.log(1 / 0.07))


@pytest.fixture(scope='module')
def state(parts):
    """Its state dict, by the names of the authors' code."""
    clip, mlp, scale = parts
    tensors = {f'model.{key}': value for key, value in clip.state_dict().items()}
    tensors |= {f'mlp.{key}': value for key, value in mlp.state_dict().items()}
    return {**tensors, 'logit_scale': scale}


@pytest.fixture
def file(state, tmp_path):
    torch.save(state, tmp_path / 'authors.pth')
    return tmp_path / 'authors.pth'


@pytest.fixture(scope='module')
def images():
    """Views as their loader gives them, ``(3, 3, 32, 32)``: no resizing, no mirror."""
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return (x * torch.tensor([0.3, 0.6, 1])[:, None, None, None] * 255).round() / 255


@torch.no_grad()
def scores_of_authors(parts, views, texts):
    """Score normalised views by the authors' equations: the fused feature has no norm."""
    clip, mlp, scale = parts
    levels = open_clip.tokenize([f'A photo with {(level,)} aesthetics.' for level in LEVELS])
    x, t, q = clip.encode_image(views), *map(clip.encode_text, (open_clip.tokenize(texts), levels))
    x, t, q = (f / f.norm(dim=1, keepdim=True) for f in (x, t, q))
    p = (scale.exp() * (x + mlp(torch.cat([x, t], 1))) @ q.T).softmax(1)
    return (p * VALUES).sum(1, keepdim=True)


def scores(net, views, texts=TEXTS):
    with torch.no_grad():
        return net.predict(views, texts)[0]


def test_scores_are_those_of_the_authors_equations(parts, file, images):
    net = AMHP(pretrained_model_path=str(file)).eval()
    views = net.preprocess.normalize(images)
    expected = scores_of_authors(parts, views, TEXTS)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores(net, views), expected, atol=1e-5, rtol=0)
    config = net.config
    assert (config.protocol, config.dataset, config.quick_gelu) == ('reference', 'para', True)
    assert config.level_values == tuple(VALUES.tolist())
    assert (config.crop, config.test_flip, config.tuple_prompts) == ('corner', True, True)
    assert config.backbone == ARCHITECTURE


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: {'state_dict': {f'module.{k}': v for k, v in state.items()}, 'epoch': 5},
        lambda state: {'model': state},
        lambda state: {k: v.half() if k.startswith('model.') else v for k, v in state.items()},
    ],
    ids=['distributed', 'model', 'half'],
)
def test_other_forms_of_the_file_give_the_same_scores(parts, state, images, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / 'other.pth')
    net = AMHP(pretrained_model_path=str(tmp_path / 'other.pth')).eval()
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    views = net.preprocess.normalize(images)
    expected = scores_of_authors(parts, views, TEXTS)
    torch.testing.assert_close(scores(net, views), expected, atol=1e-5, rtol=0)


def test_it_is_read_wherever_weights_are(file, images, tmp_path, monkeypatch, amhp):
    def metric_scores(**options):
        with torch.no_grad():
            return pyiqa.create_metric('amhp-para', device='cpu', **options)(images, text=TEXTS)

    expected = metric_scores(pretrained_model_path=str(file))
    assert torch.equal(create_metric('amhp', str(file), 'cpu')(images, text=TEXTS), expected)
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(file))
    assert torch.equal(metric_scores(), expected)
    monkeypatch.delenv('PYIQA_AMHP_WEIGHTS')
    code, out, _ = amhp('weights', 'add', file, '--as', 'para')
    assert code == 0 and 'stored: ' in out
    assert torch.equal(metric_scores(), expected)
    metric = pyiqa.create_metric(
        'amhp-para', device='cpu', pretrained=False, protocol='reference', backbone=ARCHITECTURE,
        quick_gelu=True,
    )  # fmt: skip
    assert not torch.equal(metric(images, text=TEXTS), expected)
    metric.load_weights(str(file), weight_keys=None)
    assert torch.equal(metric(images, text=TEXTS), expected)


def test_a_training_starts_from_it(file, build, images):
    network = {'backbone': ARCHITECTURE, 'quick_gelu': True, 'dataset': 'ava'}
    model = build(network=network, path={'pretrain_network': str(file)})
    own, expected = model.net.state_dict(), AMHP(pretrained_model_path=str(file)).state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[k], expected[k]) for k in own if k != '_extra_state')
    with pytest.raises(AMHPError, match=r'made with .*quick_gelu=True.*with .*quick_gelu=False'):
        build(network={**network, 'quick_gelu': False}, path={'pretrain_network': str(file)})


def test_it_says_what_it_took_it_for(file, caplog):
    AMHP(pretrained_model_path=str(file))
    assert "authors.pth: a checkpoint of the authors' code, read as protocol='ref" in caplog.text
    caplog.clear()
    net = AMHP(pretrained_model_path=str(file), level_values=[1, 2, 3, 4, 5])
    assert net.config.level_values == (1, 2, 3, 4, 5)


def test_a_clip_that_is_not_openais_is_refused(state, tmp_path):
    other = {k: v for k, v in state.items() if k != 'model.visual.positional_embedding'}
    torch.save(other, tmp_path / 'other.pth')
    with pytest.raises(AMHPError, match=r"of the authors' code, but its CLIP is no vision transf"):
        read_checkpoint(tmp_path / 'other.pth')
    with pytest.raises(AMHPError, match=r'a trained AMHP, .* pretrained_model_path='):
        torch.save(state, tmp_path / 'net.pth')
        AMHP(pretrained='clip', backbone=ARCHITECTURE, clip_weights=str(tmp_path / 'net.pth'))


def test_the_encoders_of_the_authors_have_a_name():
    with torch.device('meta'):
        state = open_clip.CLIP(**open_clip.get_model_config('ViT-B-16')).state_dict()
    assert _architecture(state) == 'ViT-B-16'
