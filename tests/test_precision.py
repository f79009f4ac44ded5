"""bf16, fp16, int8 and torch.compile: scores, gradients and checkpoints stay as in fp32.

Also converted weights (``metric.half()``) and the autocast of the caller.
"""

import copy
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import engines, runtime
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import normalize
from pyiqa_amhp.model.tanet import TANet
from pyiqa_amhp.scoring import Scorer, score_images
from pyiqa_amhp.weights.checkpoint import read_checkpoint, save_checkpoint

N = 24
TEXTS = [f'light number {i}' for i in range(N)]


@pytest.fixture
def views():
    """Preprocessed images, half of them noise and half of one colour: ``(N, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 3, 32, 32, generator=generator)
    x[::2] = x[::2].mean(dim=(2, 3), keepdim=True) * 30
    return x + torch.linspace(-2, 2, N)[:, None, None, None]


@pytest.fixture
def scores_of(make_amhp, views):
    """Scores ``(N,)`` of a tiny model that is built with the given options."""

    def scores(variant='image', **options):
        with torch.inference_mode():
            return make_amhp(variant=variant, **options).predict(views, TEXTS)[0][:, 0]

    return scores


@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        ({'precision': 'bf16'}, 0.1),
        ({'precision': 'bf16', 'variant': 'image+attributes'}, 0.05),
        ({'precision': 'fp16'}, 0.03),
        ({'precision': 'bf16', 'engine': 'openvino'}, 0.2),
        ({'precision': 'int8', 'engine': 'onnxruntime'}, 0.3),
    ],
    ids=str,
)
def test_reduced_precision_keeps_the_order_and_nearly_the_scores(scores_of, options, tolerance):
    if options.get('engine') == 'openvino':
        pytest.importorskip('openvino')
        capabilities = engines.openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        if 'BF16' not in capabilities:
            pytest.skip('this processor has no bf16')
    exact = scores_of(options.get('variant', 'image'))
    reduced = scores_of(**options)
    assert exact.std() > 0.08
    assert 0 < (exact - reduced).abs().max() < tolerance
    assert torch.corrcoef(torch.stack([exact, reduced]))[0, 1] > 0.995


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_the_head_and_the_scores_stay_in_fp32(make_amhp, views, precision):
    net = make_amhp(precision=precision)
    tensors = []
    net.fc.register_forward_hook(lambda _, inputs, output: tensors.extend([inputs[0], output]))
    with torch.inference_mode():
        mos, dist = net.predict(views[:2], TEXTS[:2])
    assert {t.dtype for t in (*tensors, mos, dist)} == {torch.float32}
    assert (dist.sum(dim=1) - 1).abs().max() < 1e-6


def test_fp32_is_the_default_of_torch_and_changes_nothing(scores_of, make_amhp):
    assert make_amhp().backbone.runner.precision == 'fp32'
    assert torch.equal(scores_of(), scores_of(precision='fp32', engine='torch'))


def test_bf16_gives_gradients_in_fp32_for_the_same_weights(make_amhp, views):
    def gradients(**options):
        net = make_amhp(**options).train()
        net.predict(views, TEXTS)[0].square().mean().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    exact, reduced = gradients(), gradients(precision='bf16')
    assert exact.keys() == reduced.keys()
    assert {g.dtype for g in reduced.values()} == {torch.float32}
    name = 'backbone.clip.visual.conv1.weight'
    assert torch.cosine_similarity(exact[name].flatten(), reduced[name].flatten(), 0) > 0.98


def test_a_precision_that_the_device_does_not_support_is_an_error(make_amhp, views, monkeypatch):
    monkeypatch.setattr(runtime, '_has_autocast', lambda device, dtype: False)
    net = make_amhp(precision='fp16')
    with pytest.raises(AMHPError, match=r"precision='fp16': torch .* no such autocast on 'cpu'"):
        net.predict(views, TEXTS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'fp8'}, "precision='fp8' with engine='torch': expected one of fp32, bf16"),
        ({'precision': 'int8'}, "int8 is offered by engine='onnxruntime'"),
        ({'precision': 'int8', 'engine': 'openvino'}, "int8 is offered by engine='onnxruntime'"),
        ({'precision': 'bf16', 'engine': 'onnxruntime'}, "bf16 is offered by engine='torch'"),
        ({'precision': 'half', 'engine': 'onnxruntime'}, 'expected one of fp32, int8$'),
        ({'engine': 'tensorrt'}, "engine='tensorrt': expected one of torch, openvino, onnxruntime"),
        ({'engine': 'openvino', 'compile': True}, "compile=True is for engine='torch'"),
        ({'compile': 'yes'}, "compile='yes': expected True or False"),
    ],
    ids=str,
)
def test_invalid_combinations_are_refused_before_weights_are_read(make_amhp, options, message):
    with pytest.raises(AMHPError, match=message):
        make_amhp(pretrained_model_path='/no/such/file', **options)


def test_checkpoints_store_neither_precision_nor_engine(make_amhp, tmp_path):
    plain = make_amhp()
    for i, options in enumerate(
        [
            {'precision': 'bf16'},
            {'compile': True},
            *([{'engine': 'openvino'}] if find_spec('openvino') else []),
            {'engine': 'onnxruntime', 'precision': 'int8'},
        ]
    ):
        net = make_amhp(**options)
        assert net.config == plain.config
        read = read_checkpoint(save_checkpoint(tmp_path / f'{i}.pth', net.state_dict()))
        assert list(read.state) == [key for key in plain.state_dict() if key != '_extra_state']
        assert not {'precision', 'compile', 'engine'} & read.config.keys()
        again = AMHP(pretrained_model_path=str(read.path))
        assert (again.backbone.runner.engine, again.backbone.runner.precision) == ('torch', 'fp32')
        assert torch.equal(again.fc.weight, net.fc.weight)


# Converted weights, which a GPU uses in the place of autocast


@pytest.fixture
def converted(monkeypatch):
    """Convert weights on a processor too."""
    monkeypatch.setattr(runtime, 'CONVERTED_ON', {'cpu'})


@pytest.fixture
def count_copies(monkeypatch):
    """Count the copies with converted weights that are made."""
    made = []

    def copy_with_tensors(*args):
        made.append(args)
        return engines.copy_with_tensors(*args)

    monkeypatch.setattr(runtime, 'copy_with_tensors', copy_with_tensors)
    return made


@pytest.mark.parametrize('variant', ['image', 'all'])
@pytest.mark.parametrize(('precision', 'tolerance'), [('bf16', 0.1), ('fp16', 0.03)])
def test_converted_weights_keep_the_order_and_nearly_the_scores(
    scores_of, converted, precision, tolerance, variant
):
    exact, reduced = scores_of(variant), scores_of(variant, precision=precision)
    assert 0 < (exact - reduced).abs().max() < tolerance
    assert torch.corrcoef(torch.stack([exact, reduced]))[0, 1] > 0.995


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_converted_encoders_read_halves_and_give_fp32_to_the_head(
    make_amhp, views, converted, precision
):
    net, read = make_amhp(precision=precision), []
    net.backbone.clip.visual.register_forward_hook(
        lambda _, inputs, out: read.extend([*inputs, out])
    )
    net.fc.register_forward_hook(lambda _, inputs, out: read.extend([*inputs, out]))
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):  # of the caller
        net.backbone.encode_image(views)
        assert {x.dtype for x in read} == {runtime.DTYPES[precision]}
    read.clear()
    with torch.no_grad():
        mos, dist = net.predict(views[:2], TEXTS[:2])
    assert {x.dtype for x in (*read[2:], mos, dist)} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_weights_are_converted_once_until_they_change(make_amhp, views, converted, count_copies):
    net = make_amhp(precision='fp16')
    with torch.inference_mode():
        before = net.predict(views, TEXTS)[0]
        assert torch.equal(net.predict(views, TEXTS)[0], before)
    assert len(count_copies) == 1  # for images and texts
    weight = net.backbone.clip.visual.conv1.weight
    original, noise = weight.detach().clone(), torch.randn(weight.shape)
    with torch.no_grad():
        weight.add_(noise)
        after = net.predict(views, TEXTS)[0]
        exact = make_amhp()
        exact.load_state_dict(net.state_dict())
        expected = exact.predict(views, TEXTS)[0]
    assert len(count_copies) == 2
    assert (after - before).abs().max() > 3 * (after - expected).abs().max()
    torch.testing.assert_close(after, expected, atol=0.03, rtol=0)
    weight.data.copy_(original)
    with torch.inference_mode():
        assert torch.equal(net.predict(views, TEXTS)[0], before)


def test_gradients_and_training_take_autocast_and_free_the_copy(
    make_amhp, views, converted, count_copies
):
    net = make_amhp(precision='bf16')
    with torch.no_grad():
        net.predict(views, TEXTS)
    assert net.backbone.runner._copy._clip is not None
    loss = net.predict(views, TEXTS)[0].square().mean()
    loss.backward()
    assert net.backbone.clip.visual.conv1.weight.grad.dtype == torch.float32
    assert len(count_copies) == 1
    with torch.no_grad():
        net.train().backbone.encode_image(views)
    assert net.backbone.runner._copy._clip is None and len(count_copies) == 1
    x = views.clone().requires_grad_()  # as a loss of a generator: its images need gradients
    frozen = make_amhp(precision='bf16').requires_grad_(False)
    for _ in range(2):
        frozen.predict(x, TEXTS)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    assert len(count_copies) == 2  # of its texts, which need none


def test_copies_pickles_and_checkpoints_hold_no_converted_weights(make_amhp, views, converted):
    net = make_amhp(precision='bf16')
    keys, size = list(net.state_dict()), len(pickle.dumps(net))
    with torch.no_grad():
        scores = net.predict(views, TEXTS)[0]
    assert list(net.state_dict()) == keys and len(list(net.modules())) == len(
        list(make_amhp().modules())
    )
    assert len(pickle.dumps(net)) < size + 10_000  # cached features of the quality levels
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert again.backbone.runner._copy._clip is None
        with torch.no_grad():
            assert torch.equal(again.predict(views, TEXTS)[0], scores)


def test_threads_share_one_converted_copy(make_amhp, views, converted, count_copies):
    net = make_amhp(precision='fp16', variant='image+levels')
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        net.level_features()
        got = list(pool.map(lambda _: net.eval() and _predict(net, views), range(8)))
    assert all(torch.equal(scores, got[0]) for scores in got) and len(count_copies) == 1


@torch.no_grad()
def _predict(net, views):
    return net.predict(views, [''] * len(views))[0]


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_converted_convolutions_with_batch_norm_are_close(make_amhp, converted, precision):
    resnet = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
    backbone = {**make_amhp().config.backbone, 'vision_cfg': resnet}
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    exact, reduced = (make_amhp(backbone=backbone, **o) for o in ({}, {'precision': precision}))
    with torch.no_grad():
        expected, got = (net.backbone.encode_image(x) for net in (exact, reduced))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).norm() / expected.norm() < 0.05


@pytest.fixture
def compiler(monkeypatch):
    """Skip without a C++ compiler; compile without vector instructions.

    To find those of the processor, torch compiles and loads a program for each kind, which takes
    longer than the rest of the test.
    """
    if not any(map(shutil.which, ('c++', 'g++', 'clang++', 'cl'))):
        pytest.skip('no C++ compiler here')
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, 'vec_isa_ok', False)


@pytest.mark.slow
def test_compiled_encoders_give_the_same_features_and_gradients(make_amhp, views, compiler):
    plain, compiled = make_amhp(), make_amhp(compile=True)
    keys = list(plain.state_dict())
    gradients = []
    for net in (plain, compiled):
        features = net.backbone.train().encode_image(views)
        features.square().mean().backward()
        gradients.append(net.backbone.clip.visual.conv1.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
    assert list(compiled.state_dict()) == keys
    assert compiled.backbone.runner._compiled
    assert not copy.deepcopy(compiled).backbone.runner._compiled
    with torch.inference_mode():
        text = [net.eval().backbone.encode_text(['sky', 'red sky']) for net in (plain, compiled)]
    torch.testing.assert_close(*text, atol=1e-5, rtol=0)


def test_compiling_says_so_and_how_long_it_took(make_amhp, views, monkeypatch, caplog):
    monkeypatch.setattr(torch, 'compile', lambda encode: encode)
    net = make_amhp(compile=True)
    with torch.inference_mode():
        net.predict(views[:2], ['', ''])
        net.predict(views[:2], ['', ''])
    lines = [record.getMessage() for record in caplog.records if 'compil' in record.getMessage()]
    for i, name in enumerate(('encode_images', 'encode_tokens')):
        assert re.fullmatch(f'compile=True: compiling {name}, .*minutes.*', lines[2 * i])
        assert re.fullmatch(rf'compile=True: compiled {name} for .* in \d+ s', lines[2 * i + 1])
    monkeypatch.setattr(runtime, 'COMPILING', 0)
    caplog.clear()
    for n in (2, 3, 3):
        with torch.inference_mode():
            net.predict(views[:n], [''] * n)
    (record,) = caplog.records
    assert 'compiled encode_images for shape (3, 3, 32, 32) in 0 s' in record.getMessage()
    assert len(lines) == 4 and all(record.levelname == 'WARNING' for record in caplog.records)


def test_compile_without_a_compiler_is_an_error_that_says_so(make_amhp, views, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, 'cxx', ('/no/such/compiler',))
    monkeypatch.setattr(torch._inductor.config, 'fx_graph_cache', False)
    torch._dynamo.reset()
    net = make_amhp(compile=True)
    with pytest.raises(AMHPError, match=r'compile=True: torch.compile failed .* a C\+\+ compiler'):
        net.predict(views[:5], TEXTS[:5])


# Weights in half, bfloat16 or double, and the autocast of the caller


@pytest.fixture
def photos():
    """Images ``(3, 3, 41, 53)``, and their texts."""
    x = torch.rand(3, 3, 41, 53, generator=torch.Generator().manual_seed(1))
    return x * torch.tensor([0.2, 0.6, 1])[:, None, None, None], ['warm light', None, 'a red sky']


@pytest.mark.parametrize(
    'options',
    [{}, {'predictor': 'levels'}, {'predictor': 'feature'}, {'variant': 'image'}],
    ids=str,
)
@pytest.mark.parametrize(
    ('dtype', 'tolerance'),  # of scores on 1..10; fp16 rounds features by 5e-4, bf16 by 4e-3
    [(torch.float16, 0.01), (torch.bfloat16, 0.1), (torch.float64, 1e-5)],
)
def test_converted_weights_give_close_scores(make_amhp, photos, dtype, tolerance, options):
    (images, texts), metric = photos, pyiqa_metric(make_amhp(**options))
    expected = metric(images, text=texts)
    metric.to(dtype)
    scores, dist = metric(images, text=texts, return_dist=True)
    torch.testing.assert_close(scores, expected, atol=tolerance, rtol=0, check_dtype=False)
    assert (dist.sum(dim=1) - 1).abs().max() < 1e-6  # Eq. 7 is in fp32 at least
    results = Scorer(metric).score([*images.split(1)], texts)
    explained = metric.net.explain(images[:1], texts[0])
    for score, value in ((results[1].score, expected[1]), (explained.score, expected[0])):
        assert score == pytest.approx(value.item(), abs=tolerance)
    assert any('Explained by torch in fp32' in note for note in explained.notes) == (
        dtype != torch.float64
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_files_are_scored_with_converted_weights(make_amhp, tmp_path, dtype):
    Image.new('RGB', (50, 40), (200, 120, 30)).save(tmp_path / 'a.png')
    metric = pyiqa_metric(make_amhp())
    for exact in (False, True):
        (expected,) = score_images([tmp_path / 'a.png'], metric=metric.float(), exact=exact)
        (result,) = score_images([tmp_path / 'a.png'], metric=metric.to(dtype), exact=exact)
        assert result.score == pytest.approx(expected.score, abs=0.1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_of_zeros_stays_zero(dtype):
    rows = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], dtype=dtype)
    unit = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.8]], dtype=dtype)
    torch.testing.assert_close(normalize(rows), unit)
    if dtype == torch.float32:
        assert torch.equal(normalize(rows), torch.nn.functional.normalize(rows, dim=-1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_tanet_scores_with_converted_weights(dtype):
    torch.manual_seed(0)
    net = TANet(pretrained=False).eval()
    x = torch.rand(2, 3, 224, 224)
    x[1] = net.mean  # zero after the normalisation
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(net.to(dtype)(x), expected, atol=0.05, rtol=0, check_dtype=False)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'predictor': 'levels', 'predicted_text': 'expectation'},
        {'engine': 'onnxruntime', 'variant': 'image+levels'},
    ],
    ids=str,
)
@pytest.mark.usefixtures('export_once')
def test_a_call_under_autocast_leaves_later_scores_alone(make_amhp, photos, options):
    images, texts = photos
    fresh, net = make_amhp(**options), make_amhp(**options)
    with torch.no_grad():
        with torch.autocast('cpu', torch.bfloat16):
            under_autocast = net(images, text=texts)
            net.explain(images[:1])
        assert torch.equal(net(images, text=texts), fresh(images, text=texts))
        with torch.autocast('cpu', torch.bfloat16):  # whatever was computed before it
            assert torch.equal(fresh(images, text=texts), under_autocast)


def test_cached_features_are_those_of_the_precision_in_use(make_amhp, photos):
    images, texts = photos
    fresh, net = make_amhp(precision='bf16'), make_amhp(precision='bf16')
    with torch.no_grad():
        explained = net.explain(images[:1], texts[0])  # in fp32
        assert torch.equal(net(images, text=texts), fresh(images, text=texts))
        assert fresh.explain(images[:1], texts[0]) == explained


def pyiqa_metric(net):
    """A metric as ``pyiqa.create_metric`` returns it, which holds ``net``."""
    import pyiqa

    backbone = net.config.backbone
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=backbone, device='cpu')
    metric.net = net
    return metric
