"""OpenVINO and onnxruntime give the scores of torch, and refuse what they cannot do."""

import copy
import sys

import pytest
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import engines
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.clip_weights import resolve_clip
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.model.runtime import Runner

openvino = pytest.importorskip('openvino')
pytestmark = pytest.mark.usefixtures('export_once')

ENGINES = ('openvino', 'onnxruntime')
TEXTS = ['sky', '', 'A red sky at night, and a house by the water', 'light ' * 100, 'sky', 'warm']


@pytest.fixture
def images():
    """Six images of different brightness."""
    x = torch.rand(6, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(0.1, 1, 6)[:, None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize('engine', ENGINES)
@torch.inference_mode()
def test_scores_equal_those_of_torch_for_any_batch_and_text_length(make_amhp, images, engine):
    by_torch, by_engine = make_amhp(), make_amhp(engine=engine, precision='fp32')
    for rows in ([2], [0, 1, 2, 3, 4, 5], [3], [0, 1], [1], [0, 2, 3, 5]):
        texts = [TEXTS[i] for i in rows]
        expected = by_torch(images[rows], texts, return_dist=True)
        got = by_engine(images[rows], texts, return_dist=True)
        for e, g in zip(expected, got, strict=True):
            torch.testing.assert_close(g, e, atol=1e-4, rtol=0)
    assert by_torch(images, TEXTS).std() > 3e-3
    built = by_engine.backbone.runner._engine._sessions
    assert len(built) == 2  # once for images, once for texts
    assert not copy.deepcopy(by_engine).backbone.runner._engine._sessions
    assert len(built) == 2


@pytest.fixture
def build(tiny):
    """Build two backbones with the same weights, run by torch and by an engine in fp32."""

    def make(engine, custom_text=False, quick_gelu=None, text_cfg=(), vision_cfg=()):
        architecture = {**tiny, 'custom_text': custom_text}
        architecture['text_cfg'] = {**tiny['text_cfg'], **dict(text_cfg)}
        architecture['vision_cfg'] = {**tiny['vision_cfg'], **dict(vision_cfg)}
        source = resolve_clip(AMHPConfig(backbone=architecture, quick_gelu=quick_gelu), load=False)
        backbones = []
        for runner in (None, Runner(engine=engine, precision='fp32')):
            torch.manual_seed(0)
            backbones.append(Backbone(source, runner).eval())
        return backbones

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ('engine', 'options'),
    [
        ('openvino', {'custom_text': True, 'quick_gelu': True}),
        ('onnxruntime', {'text_cfg': {'pool_type': 'eos', 'eos_id': 49407, 'proj_bias': True}}),
    ],
    ids=str,
)
@torch.no_grad()
def test_other_text_encoders_run(build, engine, options):
    by_torch, by_engine = build(engine, **options)
    texts = [text or 'x' for text in TEXTS]
    for some in (texts, texts[:1], texts[2:4]):
        expected, got = by_torch.encode_text(some), by_engine.encode_text(some)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


RESNET = {'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
TIMM = {'timm_model_name': 'test_vit', 'timm_pool': 'token', 'image_size': 64}


@pytest.mark.parametrize(
    ('engine', 'options'),
    [
        ('openvino', {'quick_gelu': True}),
        ('openvino', {'vision_cfg': RESNET}),
        ('onnxruntime', {'vision_cfg': TIMM}),
    ],
    ids=str,
)
@torch.no_grad()
def test_other_image_encoders_run(build, engine, options):
    by_torch, by_engine = build(engine, **options)
    x = torch.randn(3, 3, by_torch.image_size, by_torch.image_size)
    for some in (x, x[:1]):
        expected, got = by_torch.encode_image(some), by_engine.encode_image(some)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_wrong_features_of_an_engine_are_an_error(build, monkeypatch):
    backbone = build('onnxruntime')[1]
    run = engines._onnxruntime

    def rounded(file, precision):
        session = run(file, precision)
        return lambda x: session(x).round(1)

    monkeypatch.setattr(engines, '_onnxruntime', rounded)
    with pytest.raises(
        AMHPError, match=r'onnxruntime. in fp32 does not give the features of these'
    ):
        backbone.encode_image(torch.randn(2, 3, 32, 32))


def test_openvino_chooses_bf16_where_the_processor_supports_it(make_amhp):
    native = (
        engines.openvino_core().get_property('CPU', 'INFERENCE_PRECISION_HINT')
        == openvino.Type.bf16
    )
    chosen = make_amhp(engine='openvino').backbone.runner.precision
    assert chosen == ('bf16' if native else 'fp32')


def test_a_precision_that_the_processor_does_not_support_is_refused(make_amhp):
    if 'FP16' in engines.openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        pytest.skip('this processor computes in fp16')
    with pytest.raises(AMHPError, match=r"precision='fp16': this processor computes in .*fp32"):
        make_amhp(engine='openvino', precision='fp16')


def by_data(net, other):
    for own, new in zip(net.parameters(), other.parameters(), strict=True):
        own.data.mul_(0.1).add_(new.data, alpha=1 - 0.1)  # the lines of pyiqa's EMA


def in_inference_mode(net, other):
    with torch.inference_mode():
        net.load_state_dict(other.state_dict())


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('change', [by_data, in_inference_mode])
@torch.no_grad()
def test_changed_weights_change_the_scores(make_amhp, images, engine, change):
    options = {'variant': 'image'}
    by_torch, by_engine = (
        make_amhp(**options),
        make_amhp(**options, engine=engine, precision='fp32'),
    )
    before = by_engine(images)
    for net in (by_torch, by_engine):
        change(net, make_amhp(seed=2, **options))
    after = by_engine(images)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, by_torch(images), atol=1e-4, rtol=0)


def test_a_model_in_inference_mode_and_double_precision_runs(make_amhp, images):
    expected = make_amhp(variant='image')(images).detach()
    with torch.inference_mode():
        net = make_amhp(variant='image', engine='openvino', precision='fp32').double()
        scores = net(images)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.float(), expected, atol=1e-4, rtol=0)


# Gradients


@pytest.mark.parametrize('engine', ENGINES)
def test_gradients_and_training_are_refused(make_amhp, images, engine):
    net = make_amhp(engine=engine)
    with pytest.raises(AMHPError, match='computes no gradients, but a gradient is needed'):
        net(images.clone().requires_grad_())
    net.backbone.clip.requires_grad_(True)
    with pytest.raises(AMHPError, match='computes no gradients, but a gradient is needed'):
        net(images)
    net.train()
    with torch.no_grad(), pytest.raises(AMHPError, match='the model is in training mode'):
        net(images)


def test_an_engine_runs_a_metric_and_refuses_a_loss(tiny, images):
    import pyiqa

    options = {'pretrained': False, 'backbone': tiny, 'variant': 'image', 'device': 'cpu'}
    torch.manual_seed(0)
    plain = pyiqa.create_metric('amhp', **options)
    torch.manual_seed(0)
    metric = pyiqa.create_metric('amhp', engine='openvino', precision='fp32', **options)
    torch.testing.assert_close(metric(images), plain(images), atol=1e-4, rtol=0)
    loss = pyiqa.create_metric('amhp', as_loss=True, engine='openvino', **options)
    with pytest.raises(AMHPError, match="engine='openvino' computes no gradients"):
        loss(images.clone().requires_grad_())


# Errors


@pytest.mark.parametrize(
    ('engine', 'package', 'extra'),
    [
        ('openvino', 'openvino', 'openvino'),
        ('openvino', 'onnxscript', 'openvino'),
        ('onnxruntime', 'onnxruntime', 'onnx'),
        ('onnxruntime', 'onnxscript', 'onnx'),
    ],
)
def test_a_missing_package_is_named_with_its_extra(make_amhp, monkeypatch, engine, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not installed: pip install 'pyiqa-amhp\[{extra}\]'"
    with pytest.raises(AMHPError, match=message):
        make_amhp(engine=engine)


def test_encoders_that_cannot_be_exported_are_reported(make_amhp, images, monkeypatch):
    net = make_amhp(seed=1, engine='onnxruntime')

    def forward(x):
        if float(x.detach().sum()) > 0:  # depends on values, which a graph cannot express
            x = x + 1
        return x.flatten(1)[:, :16]

    monkeypatch.setattr(net.backbone.clip.visual, 'forward', forward)
    with pytest.raises(AMHPError, match=r"cannot be exported to ONNX .* use engine='torch'"):
        net(images)
