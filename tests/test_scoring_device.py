"""Batch size, precision and memory by the device, and what they mean for an interrupted run."""

import pytest
import torch
from conftest import smooth_pixels
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation import scores as evaluation
from pyiqa_amhp.scoring import device
from pyiqa_amhp.scoring.device import copy_to_host, default_precision, join_inputs
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.scoring.writer import check_settings


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of the given compute capability."""

    def gpu(*capability):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: capability)

    return gpu


def test_amhp_on_a_gpu_with_tensor_cores_is_scored_in_fp16(gpu):
    gpu(9, 0)
    for chosen in (None, 'cuda', 'cuda:1'):
        assert default_precision('AMHP', chosen) == 'fp16'
        assert default_precision('AMHP', chosen, 'torch') == 'fp16'


def test_everything_else_keeps_its_own_precision(gpu):
    if not torch.cuda.is_available():
        assert default_precision('AMHP') is None
    gpu(9, 0)
    assert default_precision('AMHP', 'cpu') is None
    assert default_precision('AMHP', None, 'openvino') is None
    assert default_precision('NIMA') is None and default_precision(None) is None
    gpu(6, 1)
    assert default_precision('AMHP') is None


def test_inputs_of_any_kind_are_joined_to_one_batch(make_amhp):
    net = make_amhp()
    views = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    expected = net.preprocess.normalize(views.permute(0, 3, 1, 2).float() / 255)
    for inputs in (
        [*views],
        [views],
        [views[:2], views[2:]],
        [*expected],
        [expected[:4], expected[4:]],
    ):
        assert torch.equal(join_inputs(net, inputs), expected)
    mixed = [views[0], expected[1], views[2], expected[3], expected[4]]
    torch.testing.assert_close(join_inputs(net, mixed), expected)


def test_numbers_of_a_processor_are_not_copied():
    numbers = torch.rand(3, 2)
    assert copy_to_host(numbers)() is numbers


def test_the_precision_is_among_the_changes_of_scores(make_amhp):
    assert 'precision' not in Scorer(make_amhp()).changes
    assert 'precision' not in Scorer(make_amhp(precision='fp32')).changes
    assert Scorer(make_amhp(precision='bf16')).changes['precision'] == 'bf16'
    assert 'precision' not in Scorer(make_amhp(engine='onnxruntime')).changes


@pytest.mark.parametrize(
    ('before', 'now', 'resumes'),
    [
        ({}, {'precision': 'fp32'}, True),
        ({'precision': 'fp32', 'engine': 'onnxruntime'}, {'engine': 'onnxruntime'}, True),
        ({'precision': 'fp32', 'engine': 'openvino'}, {'engine': 'openvino'}, False),
        ({}, {'precision': 'fp16'}, False),
        ({'precision': 'fp16'}, {'precision': 'bf16'}, False),
    ],
    ids=str,
)
def test_a_run_resumes_in_its_own_precision_only(before, now, resumes):
    for first, second in ((before, now), (now, before)):
        if resumes:
            check_settings(first, second, 'run', 'the file')
            continue
        with pytest.raises(AMHPError, match='precision was'):
            check_settings(first, second, 'run', 'the file')


def begin(amhp, command, out, patch):
    """Begin a run that Ctrl-C ends after two of four photographs."""
    batches, start_scores = [], Scorer.start_scores

    def two(self, results, *args):
        batches.append(results)
        if len(batches) > 2:
            raise KeyboardInterrupt
        return start_scores(self, results, *args)

    patch.setattr(Scorer, 'start_scores', two)
    assert amhp(*command, *out, '--batch-size', 1)[0] == 130


def test_a_run_of_another_device_is_refused_and_the_option_resumes_it(
    amhp, tiny_weights, photos, tmp_path, monkeypatch
):
    """A run that began on a GPU with its default, and one that began without a GPU."""
    command = ('score', photos, '--weights', tiny_weights, '--device', 'cpu')
    for here, there in (('fp16', None), (None, 'fp16')):
        out = ('--out', tmp_path / f'{here}.csv')
        monkeypatch.setattr(device, 'default_precision', lambda *_, here=here: here)
        with monkeypatch.context() as patch:
            begin(amhp, command, out, patch)
        monkeypatch.setattr(device, 'default_precision', lambda *_, there=there: there)
        code, _, errors = amhp(*command, *out, '--resume')
        name = here or 'fp32'
        assert code == 1 and f'--precision {name} resumes it' in errors
        assert f'began in {name}, and this is in {there or "fp32"}' in errors
        code, output, errors = amhp(*command, *out, '--resume', '--precision', name)
        assert code == 0 and '4 rows written' in output, errors


# The benchmark on a GPU, which reads on while it writes its cache


@pytest.fixture
def run(make_amhp, tmp_path):
    paths = [str(tmp_path / f'{i}.png') for i in range(7)]
    for i, path in enumerate(paths):
        Image.fromarray(smooth_pixels(40 + i, 50, i)).save(path)
    (tmp_path / '5.png').unlink()
    texts = ['soft light', '', 'calm', '', '', 'x', 'dull']
    return evaluation.ScoringRun(Scorer(make_amhp()), paths, texts, batch_size=2)


def score(run, file):
    cache = evaluation.ScoreCache(file)
    scores = evaluation.score_with_cache(run, cache, lambda items, *_: items)
    values = [(s.score, s.bins, s.text, s.unreadable != '', s.failed) for s in scores]
    return values, cache.known


def test_a_benchmark_on_a_gpu_asks_for_all_images_in_one_call(run, tmp_path, monkeypatch):
    expected, _ = score(run, tmp_path / 'cpu.jsonl')
    calls, score_images = [], evaluation.score_images

    def record(paths, *args, **options):
        calls.append(len(paths))
        return score_images(paths, *args, **options)

    monkeypatch.setattr(evaluation, 'score_images', record)
    monkeypatch.setattr(Scorer, 'on_gpu', True)
    got, known = score(run, tmp_path / 'gpu.jsonl')
    assert got == expected and calls == [7] and len(known) == 6
    assert [unreadable for *_, unreadable, _ in got] == [i == 5 for i in range(7)]


def test_images_on_which_a_metric_fails_on_a_gpu_are_scored_alone(run, tmp_path, monkeypatch):
    expected, _ = score(run, tmp_path / 'cpu.jsonl')
    predict = run.scorer.amhp.predict

    def fails(x, texts, *args):
        if 'calm' in texts:
            raise RuntimeError('out of luck')
        return predict(x, texts, *args)

    monkeypatch.setattr(run.scorer.amhp, 'predict', fails)
    monkeypatch.setattr(Scorer, 'on_gpu', True)
    got, known = score(run, tmp_path / 'gpu.jsonl')
    assert got[2] == (None, (), False, False, 'RuntimeError: out of luck') and len(known) == 5
    for i in (0, 1, 3, 4, 6):
        assert got[i][0] == pytest.approx(expected[i][0], abs=1e-5)
