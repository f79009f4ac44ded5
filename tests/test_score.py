"""Scores of many image files: read ahead, in batches, in order, and how exact they are."""

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.scorer import create_metric


def detailed(width, height, seed):
    """Much finer than photographs: smooth shapes, hard edges and noise of all sizes."""
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


@pytest.fixture
def metric(make_amhp):
    """What pyiqa's metric is to ``score_images``, around a tiny model."""

    def make(**options):
        net = make_amhp(**options)
        holder = torch.nn.Module()
        holder.net = net
        return holder

    return make


def scores(*args, **options):
    return np.array([row.score for row in score_images(*args, **options)])


@pytest.fixture
def trained(metric):
    """A model that has learned to tell bright images from dark ones."""
    model, x, targets = metric(variant='image'), [], []
    for i, share in enumerate(np.random.default_rng(0).uniform(size=48)):
        image = detailed(80, 80, i).point(lambda value, share=share: int(value * (0.2 + share)))
        x.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
        targets.append(1.5 + 8 * share)
    x, targets = model.net.preprocess(torch.stack(x)), torch.tensor(targets)[:, None]
    optimizer = torch.optim.Adam(model.net.parameters(), lr=1e-3)
    for _ in range(400):
        optimizer.zero_grad()
        (model.net.predict(x, [''] * len(x))[0] - targets).square().mean().backward()
        optimizer.step()
    return model


def test_quick_scores_are_within_one_hundredth_of_the_scale(jpegs, trained):
    quick, exact = (scores(jpegs, None, trained, exact=exact) for exact in (False, True))
    assert exact.std() > 0.1 * 9  # images that the model tells apart
    assert 0 < np.abs(quick - exact).max() < 0.01 * 9


@pytest.mark.parametrize('options', [{}, {'protocol': 'reference'}, {'resize': 'shortest'}])
def test_exact_scores_are_those_of_the_net(jpegs, metric, options):
    model = metric(**options)
    expected = []
    for path in jpegs:
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected.append(float(model.net(pixels / 255)))
    assert scores(jpegs, None, model, exact=True) == pytest.approx(expected, abs=1e-5)


def test_mirroring_is_tossed_on_all_pixels(jpegs, metric):
    model = metric(protocol='reference', tau=0.02)
    mirrored = metric(protocol='reference', tau=0.02, test_flip=False)
    quick, exact = (scores(jpegs, None, model, exact=exact) for exact in (False, True))
    assert np.abs(quick - exact).max() < 0.01 * 9
    assert np.abs(quick - scores(jpegs, None, mirrored)).max() > 0.01 * 9


@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize(('batch_size', 'workers'), [(1, 1), (4, 3), (100, 2)])
def test_batches_and_workers_change_nothing(jpegs, metric, batch_size, workers, exact):
    model, many = metric(), jpegs * 3
    expected = list(score_images(many, None, model, exact=exact))
    rows = list(
        score_images(many, None, model, batch_size=batch_size, workers=workers, exact=exact)
    )
    assert [row.path for row in rows] == [str(path) for path in many]
    assert [r.score for r in rows] == pytest.approx([r.score for r in expected], abs=1e-5)


def test_a_bad_file_is_a_row_in_its_place(jpegs, metric, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(jpegs[0].read_bytes()[:5000])
    many = [jpegs[0], tmp_path / 'bad.jpg', jpegs[1], tmp_path / 'absent.jpg']
    rows = list(score_images(many, ['a', 'b', 'c', 'd'], metric(), batch_size=3))
    assert [row.error != '' for row in rows] == [False, True, False, True]
    assert [row.score is None for row in rows] == [False, True, False, True]
    assert 'truncated' in rows[1].error and 'no such file' in rows[3].error
    assert rows[2].score == pytest.approx(scores([jpegs[1]], ['c'], metric())[0], abs=1e-5)


def test_paths_without_an_end_are_scored_as_they_come(jpegs, metric):
    asked = []

    def endless():
        for i in itertools.count():
            asked.append(i)
            yield jpegs[i % 3]

    rows = score_images(endless(), None, metric(), batch_size=4, workers=2)
    assert [next(rows).path for _ in range(9)] == [str(jpegs[i % 3]) for i in range(9)]
    assert len(asked) <= 9 + 2 * 4 + 2 + 1
    rows.close()


def test_texts_may_come_one_by_one(jpegs, metric):
    texts = ['lovely light', None, ' ', 'dull']
    given = [row.prompt_source for row in score_images(jpegs[:4], iter(texts), metric())]
    assert given == ['given', 'none', 'none', 'given']


@pytest.mark.parametrize('texts', [['one'], iter(['one']), ['x'] * 7, iter(['x'] * 7)])
def test_another_number_of_texts_is_refused(jpegs, metric, texts):
    with pytest.raises(AMHPError, match='give one for each'):
        list(score_images(jpegs, texts, metric()))


@pytest.mark.parametrize('wrong', [{'batch_size': 0}, {'workers': 0}])
def test_sizes_below_one_are_refused_at_once(jpegs, metric, wrong):
    with pytest.raises(AMHPError, match='expected 1 or more'):
        score_images(jpegs, None, metric(), **wrong)


def test_a_fault_of_the_metric_ends_the_readers(jpegs, metric, monkeypatch):
    model = metric()

    def broken(*_):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(model.net, 'predict', broken)
    with pytest.raises(RuntimeError, match='out of memory'):
        list(score_images(jpegs, None, model))
    assert not [t for t in threading.enumerate() if t.name.startswith('amhp-read')]


def test_options_of_amhp_are_refused_for_other_metrics():
    with pytest.raises(AMHPError, match=r"'piqe' has no precision"):
        create_metric('piqe', precision='bf16')
