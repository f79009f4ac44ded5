"""Threads that share a model get the scores of one thread, whatever else runs beside them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyiqa
import pytest
import torch

from pyiqa_amhp.model import engines
from pyiqa_amhp.model.tanet import TANet
from pyiqa_amhp.scoring.scorer import Scorer

pytestmark = pytest.mark.usefixtures('export_once')

THREADS, IMAGES, REPEATS = 4, 6, 3
TEXTS = ['soft light', None, 'a tilted horizon', 'light ' * 100, '', 'warm colours']


@pytest.fixture(scope='module')
def images():
    """Images of different brightness, ``(1, 3, 40, 48)`` each."""
    x = torch.rand(IMAGES, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    return (x * torch.linspace(0.1, 1, IMAGES)[:, None, None, None]).split(1)


def in_threads(score, count=THREADS * REPEATS):
    """Compute ``score(i)`` of every image many times in threads that start together."""
    start = threading.Barrier(THREADS)

    def work(turn):
        if turn < THREADS:
            start.wait(30)
        return [score(i) for i in sorted(range(IMAGES), key=lambda i: (i + turn) % IMAGES)]

    with ThreadPoolExecutor(THREADS) as pool:
        turns = list(pool.map(work, range(count)))
    orders = [sorted(range(IMAGES), key=lambda i: (i + turn) % IMAGES) for turn in range(count)]
    return [dict(zip(o, t, strict=True)) for o, t in zip(orders, turns, strict=True)]


def assert_scores_of_one_thread(score, atol=1e-5):
    got = in_threads(score)
    expected = [score(i) for i in range(IMAGES)]
    assert max(expected) - min(expected) > 100 * atol
    for scores in got:
        assert [scores[i] for i in range(IMAGES)] == pytest.approx(expected, abs=atol)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'predictor': 'levels'},
        {'precision': 'bf16'},
        {'engine': 'openvino', 'precision': 'fp32'},
        {'engine': 'onnxruntime'},
    ],
    ids=str,
)
def test_a_metric_call(make_amhp, tiny, images, options, monkeypatch):
    if options.get('engine') == 'openvino':
        pytest.importorskip('openvino')
    built = []  # by the first of the threads alone
    for name in ('_openvino', '_onnxruntime'):
        build = getattr(engines, name)
        monkeypatch.setattr(
            engines, name, lambda *args, build=build: built.append(1) or build(*args)
        )
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=tiny, device='cpu')
    metric.net = make_amhp(**options)
    assert_scores_of_one_thread(lambda i: float(metric(images[i], text=TEXTS[i])))
    assert len(built) == (2 if 'engine' in options else 0)  # of images, and of texts


def test_a_scorer(make_amhp, images):
    scorer = Scorer(make_amhp(predictor='feature'))
    assert_scores_of_one_thread(lambda i: scorer.score([images[i]], [TEXTS[i]])[0].score)


def test_tanet(images):
    torch.manual_seed(0)
    net = TANet(pretrained=False).eval()
    x = [image[..., :8, :8] for image in images]
    with torch.no_grad():
        net.head[2].weight.mul_(30)
        expected = {i: float(net(x[i])) for i in range(3)}
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda i: float(net(x[i % 3]).detach()), range(9)))
    assert len(set(expected.values())) == 3
    assert got == pytest.approx([expected[i % 3] for i in range(9)], abs=1e-5)


def test_an_explanation_beside_scores_changes_neither(make_amhp, tiny, images):
    vision = {**tiny['vision_cfg'], 'patch_size': 8}
    net = make_amhp(backbone={**tiny, 'vision_cfg': vision}, precision='bf16')
    expected = net.explain(images[0], TEXTS[0])
    explained = []

    def score(i):
        with torch.no_grad():
            value = float(net(images[i], text=TEXTS[i]))
        if i == 0:
            explained.append(net.explain(images[0], TEXTS[0]))
        return value

    assert_scores_of_one_thread(score)
    assert len(explained) > THREADS
    assert all(explanation == expected for explanation in explained)


def test_texts_that_are_cut_are_all_counted(make_amhp, images):
    net = make_amhp()
    in_threads(lambda i: float(net(images[i], text='light ' * 100).detach()))
    assert net.backbone.truncated_texts == THREADS * REPEATS * IMAGES
