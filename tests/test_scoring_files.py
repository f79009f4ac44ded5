"""Scores of image files: order, batches, reading ahead, and exactness."""

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.files import score_images


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
