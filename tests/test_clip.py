"""CLIP's encoders: features as open_clip computes them, texts, refused architectures."""

import logging
import socket

import open_clip
import pytest
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.clip_weights import resolve_clip
from pyiqa_amhp.model.config import AMHPConfig

TEXTS = [
    'sky',
    'Warm light, and a horizon that is level; the subject stands a little off the centre.',
    '',
    'naïve café 夕焼け 🌅 <end_of_text> and what comes after',
    'sky ' * 75,
    'word ' * 200,
]
LONGEST = 'sky ' * 75  # 77 tokens with those of start and end


@pytest.fixture
def build(tiny):
    """Build a tiny backbone with random weights; options go into its text encoder."""

    def make(custom_text=False, **text_cfg):
        torch.manual_seed(0)
        architecture = {
            **tiny,
            'text_cfg': {**tiny['text_cfg'], **text_cfg},
            'custom_text': custom_text,
        }
        return Backbone(resolve_clip(AMHPConfig(backbone=architecture), load=False)).eval()

    return make


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to look up or reach another machine fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f'the network was used: {args}')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)


# Texts


@pytest.mark.parametrize('custom_text', [False, True], ids=['CLIP', 'CustomTextCLIP'])
@pytest.mark.parametrize(
    'text_cfg',
    [
        {},
        {'pool_type': 'eos', 'eos_id': 49407},
        {'proj_bias': True},
        {'context_length': 32},
        {'no_causal_mask': False},
    ],
    ids=str,
)
@torch.no_grad()
def test_texts_are_encoded_as_open_clip_encodes_them_at_full_length(build, custom_text, text_cfg):
    backbone = build(custom_text, **text_cfg)
    tokens = open_clip.SimpleTokenizer(context_length=text_cfg.get('context_length', 77))(TEXTS)
    expected = backbone.clip.encode_text(tokens)
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, atol=1e-5, rtol=0)
    alone = [backbone.encode_text([text]) for text in TEXTS]
    torch.testing.assert_close(torch.cat(alone), expected, atol=1e-5, rtol=0)
    assert expected.unique(dim=0).shape == (len(TEXTS), backbone.width)


@torch.no_grad()
def test_the_end_token_can_be_set_by_the_architecture(build):
    (sky,) = open_clip.SimpleTokenizer().encode('sky')
    backbone = build(pool_type='eos', eos_id=sky)  # not the highest number, as argmax expects
    texts = ['a red sky at night', 'clouds in a blue sky', 'sky']
    expected = backbone.clip.encode_text(open_clip.tokenize(texts))
    torch.testing.assert_close(backbone.encode_text(texts), expected, atol=1e-5, rtol=0)


def test_tokens_after_the_longest_text_are_not_encoded(build, watch_text_encoder):
    backbone = build()
    read = watch_text_encoder(backbone)
    for texts in (['sky'], ['sky', 'red sky'], ['sky', LONGEST], ['sky']):
        backbone.encode_text(texts)
    assert read == [(1, 3), (2, 4), (2, 77), (1, 3)]


def test_a_repeated_text_is_encoded_once(build, watch_text_encoder):
    backbone = build()
    texts = ['sky', 'red sky', 'sky', 'sky', 'a house', 'red sky']
    one_by_one = torch.cat([backbone.encode_text([text]) for text in texts])
    read = watch_text_encoder(backbone)
    torch.testing.assert_close(backbone.encode_text(texts), one_by_one, atol=1e-5, rtol=0)
    assert [batch for batch, _ in read] == [3]


def test_a_repeated_text_gets_the_sum_of_the_gradients(build):
    def gradient(texts, weights):
        backbone = build()
        (backbone.encode_text(texts) * torch.tensor(weights)[:, None]).sum().backward()
        return backbone.clip.token_embedding.weight.grad

    twice, once = (
        gradient(['sky', 'sea', 'sky'], [1.0, 2.0, 3.0]),
        gradient(['sky', 'sea'], [4.0, 2.0]),
    )
    torch.testing.assert_close(twice, once)


def test_long_texts_are_cut_and_counted_with_one_warning(build, caplog):
    backbone = build()
    with caplog.at_level(logging.WARNING, 'pyiqa_amhp'):
        backbone.encode_text([LONGEST, 'sky'])
        assert backbone.truncated_texts == 0
        backbone.encode_text([LONGEST + 'sky', 'sky', 'word ' * 300])
        assert backbone.truncated_texts == 2
        backbone.encode_text(['word ' * 300])
    assert backbone.truncated_texts == 3
    assert [record.message for record in caplog.records] == [
        'A text is longer than 77 tokens and was cut there; more of them are only counted.'
    ]


def test_a_long_text_is_encoded_up_to_the_limit(build):
    backbone = build()
    cut, whole = backbone.encode_text([LONGEST + 'sky sky', LONGEST])
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


# Images


@pytest.mark.parametrize(
    'vision_cfg',
    [
        {'image_size': 32, 'layers': 2, 'width': 32, 'patch_size': 8, 'head_width': 16},
        {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None},
        {
            'image_size': 64,
            'timm_model_name': 'test_vit',
            'timm_pool': 'token',
            'timm_proj': 'linear',
        },
    ],
    ids=['ViT', 'ResNet', 'timm'],
)
@torch.no_grad()
def test_images_are_encoded_as_open_clip_encodes_them(tiny, vision_cfg, no_network):
    architecture = {**tiny, 'vision_cfg': vision_cfg}
    backbone = Backbone(resolve_clip(AMHPConfig(backbone=architecture), load=False)).eval()
    model = open_clip.CLIP(**architecture).eval()
    model.load_state_dict(backbone.clip.state_dict(), strict=False)
    x = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    assert backbone.image_size == vision_cfg['image_size']
    torch.testing.assert_close(backbone.encode_image(x), model.encode_image(x), atol=1e-5, rtol=0)


# Architectures


@pytest.mark.parametrize(
    'name',
    [
        'ViT-B-16-SigLIP',
        'ViT-gopt-16-SigLIP2-256',
        'ViT-bigG-14-CLIPA',
        'MobileCLIP-S1',
        'roberta-ViT-B-32',
        'xlm-roberta-large-ViT-H-14',
        'nllb-clip-base-siglip',
        'coca_ViT-B-32',
    ],
)
@pytest.mark.parametrize('pretrained', [False, 'clip', True])
def test_a_model_without_a_causal_text_encoder_is_refused(name, pretrained, no_network):
    message = f'backbone {name}: expected a CLIP with a causal text encoder'
    with pytest.raises(AMHPError, match=message):
        AMHP(pretrained=pretrained, backbone=name)


@pytest.mark.parametrize(
    'text_cfg',
    [{'no_causal_mask': True}, {'pool_type': 'last'}, {'pool_type': 'first'}, {'embed_cls': True}],
    ids=str,
)
def test_an_architecture_that_is_not_read_at_its_end_token_is_refused(build, text_cfg):
    with pytest.raises(AMHPError, match='of your own: expected a CLIP with a causal text encoder'):
        build(custom_text=True, **text_cfg)


def test_whole_families_without_a_causal_encoder_are_refused_and_no_others():
    refused = set()
    for name in open_clip.list_models():
        try:
            resolve_clip(AMHPConfig(backbone=name), load=False)
        except AMHPError:
            refused.add(name)
    families = (
        'siglip',
        'clipa',
        'coca',
        'roberta',
        'mt5',
        'nllb',
        'mobileclip-s',
        'mobileclip2-s',
    )
    for name in open_clip.list_models():
        if any(family in name.lower() for family in families):
            assert name in refused
    causal = {'ViT-B-16', 'ViT-L-14-quickgelu', 'RN50', 'EVA02-B-16', 'MobileCLIP-B', 'ViTamin-B'}
    assert not refused & causal


def test_a_tokenizer_that_cannot_be_downloaded_is_reported(build, hub_cache, no_network):
    with pytest.raises(AMHPError, match=r'tokenizer .nobody/words. of this'):
        build(hf_tokenizer_name='nobody/words')


def test_the_name_of_a_model_may_be_written_with_a_slash():
    assert AMHPConfig(backbone='ViT-B/16').backbone == 'ViT-B-16'
    assert AMHPConfig(backbone='hf-hub:owner/name').backbone == 'hf-hub:owner/name'


def test_no_network_is_used_without_weights(tiny, no_network):
    AMHP(pretrained=False, backbone=tiny)
    AMHP(pretrained=False, backbone=tiny, clip_weights='hf-hub:owner/name')
