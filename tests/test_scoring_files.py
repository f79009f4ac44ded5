"""Scores of image files: order, batches, reading ahead, and exactness."""

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring import processes
from pyiqa_amhp.scoring.device import GPU_BATCH_SIZE
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.scorer import Scorer


def detailed(width, height, seed):
    """Draw smooth shapes, hard edges and noise of all sizes: more detail than a photograph has."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for size in (4, 16, 64, 256, max(width, height)):
        noise = rng.uniform(0, 255, (size, size, 3)).astype(np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        image += np.asarray(layer, np.float32) / 5
    image[:: rng.integers(20, 90)] = 255
    image[:, :: rng.integers(20, 90)] = 0
    return Image.fromarray(image.astype(np.uint8))


@pytest.fixture(scope='module')
def jpegs(tmp_path_factory):
    """Six JPEGs of several sizes, some of which are decoded at 1/2, 1/4 and 1/8."""
    folder = tmp_path_factory.mktemp('jpegs')
    sizes = ((1300, 900), (640, 480), (150, 148), (330, 300), (97, 203), (74, 80))
    for i, size in enumerate(sizes):
        image = detailed(*size, i).point(lambda value, i=i: int(value * (1 - 0.12 * i)))
        image.save(folder / f'{i}.jpg', quality=92)
    return sorted(folder.iterdir())


def scores(*args, **options):
    return np.array([result.score for result in score_images(*args, **options)])


@pytest.fixture
def trained(make_amhp):
    """A model that has learned to score brightness."""
    net, x, targets = make_amhp(variant='image'), [], []
    for i, share in enumerate(np.random.default_rng(0).uniform(size=48)):
        image = detailed(80, 80, i).point(lambda value, share=share: int(value * (0.2 + share)))
        x.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
        targets.append(1.5 + 8 * share)
    x, targets = net.preprocess(torch.stack(x)), torch.tensor(targets)[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(400):
        optimizer.zero_grad()
        (net.predict(x, [''] * len(x))[0] - targets).square().mean().backward()
        optimizer.step()
    return net


def test_quick_scores_are_within_one_hundredth_of_the_scale(jpegs, trained):
    quick, exact = (scores(jpegs, None, trained, exact=exact) for exact in (False, True))
    assert exact.std() > 0.1 * 9  # the scores of the images differ
    assert 0 < np.abs(quick - exact).max() < 0.01 * 9


@pytest.mark.parametrize('options', [{}, {'protocol': 'reference'}, {'resize': 'shortest'}])
def test_exact_scores_are_those_of_the_net(jpegs, make_amhp, options):
    net = make_amhp(**options)
    expected = []
    for path in jpegs:
        with Image.open(path) as image, torch.no_grad():
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            expected.append(float(net(pixels / 255)))
    assert scores(jpegs, None, net, exact=True) == pytest.approx(expected, abs=1e-5)


def test_random_mirroring_depends_on_the_pixels_of_the_whole_image(jpegs, make_amhp):
    net = make_amhp(protocol='reference', tau=0.02)
    plain = make_amhp(protocol='reference', tau=0.02, test_flip=False)
    quick, exact = (scores(jpegs, None, net, exact=exact) for exact in (False, True))
    assert np.abs(quick - exact).max() < 0.01 * 9
    assert np.abs(quick - scores(jpegs, None, plain)).max() > 0.01 * 9


@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize(('batch_size', 'workers'), [(1, 1), (4, 3), (100, 2)])
def test_batches_and_workers_change_nothing(jpegs, make_amhp, batch_size, workers, exact):
    net, many = make_amhp(), jpegs * 3
    options = {'batch_size': batch_size, 'workers': workers, 'exact': exact}
    expected = scores(many, None, net, exact=exact)
    results = list(score_images(many, None, net, **options))
    assert [result.path for result in results] == [str(path) for path in many]
    assert [result.score for result in results] == pytest.approx(expected, abs=1e-5)


def test_a_bad_file_is_an_error_result_in_its_place(jpegs, make_amhp, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(jpegs[0].read_bytes()[:5000])
    paths = [jpegs[0], tmp_path / 'bad.jpg', jpegs[1], tmp_path / 'absent.jpg']
    results = list(score_images(paths, ['a', 'b', 'c', 'd'], make_amhp(), batch_size=3))
    assert [result.error != '' for result in results] == [False, True, False, True]
    assert [result.score is None for result in results] == [False, True, False, True]
    assert 'truncated' in results[1].error and 'no such file' in results[3].error
    expected = scores([jpegs[1]], ['c'], make_amhp())[0]
    assert results[2].score == pytest.approx(expected, abs=1e-5)


def test_an_endless_iterable_of_paths_is_read_only_a_little_ahead(jpegs, make_amhp):
    requested = []

    def endless():
        for i in itertools.count():
            requested.append(i)
            yield jpegs[i % 3]

    results = score_images(endless(), None, make_amhp(), batch_size=4, workers=2)
    assert [next(results).path for _ in range(9)] == [str(jpegs[i % 3]) for i in range(9)]
    assert len(requested) <= 9 + 2 * 4 + 2 + 1
    results.close()


def test_texts_may_be_an_iterator(jpegs, make_amhp):
    texts = ['lovely light', None, ' ', 'dull']
    results = score_images(jpegs[:4], iter(texts), make_amhp())
    assert [result.prompt_source for result in results] == ['given', 'none', 'none', 'given']


@pytest.mark.parametrize('texts', [['one'], iter(['one']), ['x'] * 7, iter(['x'] * 7)])
def test_another_number_of_texts_is_refused(jpegs, make_amhp, texts):
    with pytest.raises(AMHPError, match='give one for each'):
        list(score_images(jpegs, texts, make_amhp()))


@pytest.mark.parametrize('wrong', [{'batch_size': 0}, {'workers': 0}])
def test_sizes_below_one_are_refused_at_once(jpegs, make_amhp, wrong):
    with pytest.raises(AMHPError, match='expected 1 or more'):
        score_images(jpegs, None, make_amhp(), **wrong)


def test_an_error_of_the_metric_ends_the_reading_threads(jpegs, make_amhp, monkeypatch):
    net = make_amhp()

    def broken(*_):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(net, 'predict', broken)
    with pytest.raises(RuntimeError, match='out of memory'):
        list(score_images(jpegs, None, net))
    assert not [t for t in threading.enumerate() if t.name.startswith('amhp-read')]


# Results of a GPU, which are read one batch late


@pytest.fixture
def events(monkeypatch):
    """The order of what happens to batches, with a model that counts as one on a GPU."""
    events, start = [], Scorer.start_scores

    def start_scores(self, results, *args):
        number = sum(what == 'start' for what, _ in events)
        events.append(('start', number))
        fill = start(self, results, *args)
        return lambda: events.append(('read', number)) or fill()

    monkeypatch.setattr(Scorer, 'start_scores', start_scores)
    monkeypatch.setattr(Scorer, 'on_gpu', True)
    monkeypatch.setattr(processes, 'choose_processes', lambda *_: 0)
    return events


def test_a_gpu_starts_a_batch_before_the_results_of_the_last_are_read(jpegs, make_amhp, events):
    results = score_images(jpegs, None, make_amhp(), batch_size=2)
    late = [next(results)]
    assert events == [('start', 0), ('start', 1), ('read', 0)]
    late += results
    order = [('start', 0), ('start', 1), ('read', 0), ('start', 2), ('read', 1), ('read', 2)]
    assert events == order
    assert [result.path for result in late] == [str(path) for path in jpegs]


def test_late_results_are_those_of_a_processor(jpegs, make_amhp, tmp_path, monkeypatch):
    paths = [jpegs[0], tmp_path / 'absent.jpg', *jpegs[1:]]
    texts = ['soft light', None, '', 'harsh shadows', 'calm', '', None]
    expected = list(score_images(paths, texts, make_amhp(), batch_size=2))
    monkeypatch.setattr(Scorer, 'on_gpu', True)
    assert list(score_images(paths, texts, make_amhp(), batch_size=2)) == expected


def test_an_error_comes_after_the_results_of_complete_batches(jpegs, make_amhp, events):
    texts = iter(['soft light'] * 20)
    results = score_images(jpegs * 4, texts, make_amhp(), batch_size=2, workers=1)
    got = []
    with pytest.raises(AMHPError, match='give one for each'):
        for result in results:
            got.append(result.path)
    started = [number for what, number in events if what == 'start']
    assert got == [str(path) for path in jpegs * 4][: 2 * len(started)] and len(started) > 2


def test_a_gpu_takes_larger_batches(jpegs, make_amhp, events):
    list(score_images(jpegs * 50, None, make_amhp()))
    assert events[0] == ('start', 0) and len(events) == 2 * -(-300 // GPU_BATCH_SIZE)


def test_too_little_memory_of_a_gpu_says_what_to_do(jpegs, make_amhp, monkeypatch):
    net = make_amhp()

    def full(*_):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(net, 'predict', full)
    with pytest.raises(AMHPError, match=r'too little memory for 6 images at once: .*--batch-size'):
        list(score_images(jpegs, None, net))


def test_a_score_that_overflows_in_reduced_precision_is_an_error(jpegs, make_amhp):
    net = make_amhp(precision='fp16')
    torch.nn.init.constant_(net.backbone.clip.visual.conv1.weight, 1e30)
    (result,) = score_images(jpegs[:1], None, net)
    assert result.score is None and result.error.endswith('use --precision fp32')


def test_weights_that_change_between_two_results_change_the_later_ones(jpegs, make_amhp, events):
    net = make_amhp(variant='image+levels')
    before = scores(jpegs, None, net, batch_size=1)
    results = score_images(jpegs, None, net, batch_size=1)
    first = next(results).score
    with torch.no_grad():
        net.backbone.clip.positional_embedding.add_(1)  # of the text encoder: of the levels
    rest = [result.score for result in results]
    assert [first, rest[0]] == before[:2].tolist()  # the second was computed already
    assert all(new != old for new, old in zip(rest[1:], before[2:], strict=True))
