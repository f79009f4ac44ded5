"""Equations 1 to 7 against a float64 version written from the paper alone."""

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from pyiqa_amhp.model.amhp import fuse, level_distribution, level_logits

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])  # of CLIP's input, by channel
STD = np.array([0.26862954, 0.26130258, 0.27577711])
LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
AVA, PARA, AUTHORS_PARA = (1.5, 3.5, 5.5, 7.5, 9.5), (1, 2, 3, 4, 5), (1, 1.75, 2.75, 3.75, 5)
VARIANTS = ('image', 'image+attributes', 'image+levels', 'all')
TEXTS = ['soft evening light', '', 'the horizon is tilted, and the subject is cut off at the edge']


def norm(rows):
    lengths = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def eq4_5(Fx, Ft, weight, bias):
    """The multimodal feature of each image: its row of ``FC``'s output, plus ``norm(Fx)``."""
    Fxt = np.concatenate([norm(Fx), norm(Ft)], axis=1)
    R = np.array([weight @ row + bias for row in Fxt])
    return R + norm(Fx)


def eq6(Fm, FTa, divide_by_Fm=True):
    """``logit[i, j]``, one cosine at a time; the authors' code leaves out the norm of ``Fm``."""
    logit = np.empty((len(Fm), len(FTa)))
    for i, image in enumerate(Fm):
        for j, level in enumerate(FTa):
            logit[i, j] = image @ level / np.sqrt(level @ level)
            if divide_by_Fm:
                logit[i, j] /= np.sqrt(image @ image)
    return logit


def eq7(logit, tau):
    """Softmax of ``logit / tau`` over the levels."""
    weights = np.exp(logit / tau - (logit / tau).max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def expected(net, images, texts, variant, sentences, values, tau, divide_by_Fm):
    """Scores and distributions, with features from open_clip's own encoders at all 77 tokens."""
    clip, tokenize = net.backbone.clip, open_clip.SimpleTokenizer(context_length=77)
    normalised = (images.numpy() - MEAN[:, None, None]) / STD[:, None, None]
    with torch.no_grad():
        Fx = clip.encode_image(torch.tensor(normalised)).numpy()
        Ft = clip.encode_text(tokenize(texts)).numpy()
        FTa = clip.encode_text(tokenize(sentences)).numpy()
    Ft[[not text for text in texts]] = 0
    if variant in ('image+attributes', 'all'):
        Fm = eq4_5(Fx, Ft, net.fc.weight.detach().numpy(), net.fc.bias.detach().numpy())
    else:
        Fm = norm(Fx)
    if variant in ('image', 'image+attributes'):
        FTa = net.level_vectors.detach().numpy()
    p = eq7(eq6(Fm, FTa, divide_by_Fm), tau)
    return np.array([[sum(np.array(values) * row)] for row in p]), p


def predict(net, images, texts):
    """Score in training mode, where images of the input's size are only normalised."""
    with torch.no_grad():
        outputs = net.train()(images, texts, return_mos=True, return_dist=True)
    return [output.numpy() for output in outputs]


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(
    ('protocol', 'dataset', 'sentence', 'values', 'divide_by_Fm'),
    [
        ('paper', 'ava', 'A photo with {} aesthetics.', AVA, True),
        ('paper', 'para', 'A photo with {} aesthetics.', PARA, True),
        ('reference', 'ava', "A photo with ('{}',) aesthetics.", AVA, False),
        ('reference', 'para', "A photo with ('{}',) aesthetics.", AUTHORS_PARA, False),
    ],
)
def test_the_model_computes_the_papers_equations(
    make_amhp, images, variant, protocol, dataset, sentence, values, divide_by_Fm
):
    net = make_amhp(variant=variant, protocol=protocol, dataset=dataset).double()
    sentences = [sentence.format(level) for level in LEVELS]
    mos, dist = predict(net, images, TEXTS)
    want_mos, want_dist = expected(
        net, images, TEXTS, variant, sentences, values, 0.07, divide_by_Fm
    )
    np.testing.assert_allclose(dist, want_dist, atol=1e-7)
    np.testing.assert_allclose(mos, want_mos, atol=1e-6)
    assert want_dist.max() - want_dist.min() > 1e-3  # else the comparison would show nothing


@pytest.mark.parametrize(
    'options',
    [
        {'tau': 0.01},
        {'tau': 1},
        {'normalize_fused': False},
        {'tuple_prompts': True},
        {'levels': ('dull', 'nice', 'great'), 'level_values': (0, 10, 100)},
        {'template': 'It looks {level}, really {level}.'},
    ],
    ids=str,
)
def test_options_change_the_equation_that_they_name(make_amhp, images, options):
    net = make_amhp(**options).double()
    levels = options.get('levels', LEVELS)
    sentences = [
        options.get('template', 'A photo with {level} aesthetics.').replace(
            '{level}', f"('{level}',)" if options.get('tuple_prompts') else level
        )
        for level in levels
    ]
    mos, dist = predict(net, images, TEXTS)
    want_mos, want_dist = expected(
        net,
        images,
        TEXTS,
        'all',
        sentences,
        options.get('level_values', AVA),
        options.get('tau', 0.07),
        options.get('normalize_fused', True),
    )
    np.testing.assert_allclose(dist, want_dist, atol=1e-7)
    np.testing.assert_allclose(mos, want_mos, atol=1e-5)


def test_the_learned_scale_takes_the_place_of_tau(make_amhp, images):
    net = make_amhp().double()
    with torch.no_grad():
        net.logit_scale.fill_(np.log(1 / 0.3))
    sentences = [f'A photo with {level} aesthetics.' for level in LEVELS]
    want = expected(net, images, TEXTS, 'all', sentences, AVA, 0.3, True)
    for got, wanted in zip(predict(net, images, TEXTS), want, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_an_untrained_model_is_clips_zero_shot(make_amhp, images):
    net = make_amhp().double()
    with torch.no_grad():
        net.fc.weight.zero_()
    sentences = [f'A photo with {level} aesthetics.' for level in LEVELS]
    want = expected(net, images, TEXTS, 'image+levels', sentences, AVA, 0.07, True)
    np.testing.assert_allclose(predict(net, images, TEXTS)[1], want[1], atol=1e-7)


# The functions by themselves, for arbitrary features
numbers = st.floats(-1e3, 1e3).map(lambda value: 0.0 if abs(value) < 1e-3 else value)


@st.composite
def features(draw):
    n_images, k, n = draw(st.integers(1, 4)), draw(st.integers(2, 7)), draw(st.integers(1, 6))
    Fx, Ft, FTa = (
        draw(arrays(np.float64, (rows, n), elements=numbers)) for rows in (n_images, n_images, k)
    )
    Fx[:, 0] += np.where(np.abs(Fx).sum(1) == 0, 1, 0)
    FTa[:, 0] += np.where(np.abs(FTa).sum(1) == 0, 1, 0)
    weight = draw(arrays(np.float64, (n, 2 * n), elements=st.floats(-2, 2)))
    bias = draw(arrays(np.float64, n, elements=st.floats(-2, 2)))
    return Fx, Ft, FTa, weight, bias


@given(features())
def test_eq_4_and_5_for_any_features(case):
    Fx, Ft, _, weight, bias = case
    fc = nn.Linear(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        fc.weight.copy_(torch.tensor(weight))
        fc.bias.copy_(torch.tensor(bias))
        Fm = fuse(torch.tensor(Fx), torch.tensor(Ft), fc).numpy()
    np.testing.assert_allclose(Fm, eq4_5(Fx, Ft, weight, bias), atol=1e-9)


@given(features(), st.booleans())
def test_eq_6_for_any_features(case, divide):
    Fx, _, FTa, _, _ = case
    logit = level_logits(torch.tensor(Fx), torch.tensor(FTa), normalize_fused=divide).numpy()
    np.testing.assert_allclose(logit, eq6(Fx, FTa, divide), atol=1e-9)
    if divide:
        assert np.abs(logit).max() <= 1 + 1e-12


@given(features(), st.floats(0.01, 10))
def test_eq_7_for_any_logits(case, tau):
    logit = case[0]
    p = level_distribution(torch.tensor(logit), torch.tensor(-np.log(tau))).numpy()
    np.testing.assert_allclose(p, eq7(logit, tau), atol=1e-7)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
