"""What a metric takes as an image: the same file is the same image, whoever reads it."""

import copy
import io
import pickle
import re

import icc
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import smooth_pixels
from PIL import Image
from pyiqa.models.inference_model import InferenceModel
from pyiqa.utils.img_util import imread2tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.photos import PhotoScorer
from pyiqa_amhp.app.uploads import Upload
from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.inputs import one_or_many, to_batch
from pyiqa_amhp.model.preprocess import should_mirror
from pyiqa_amhp.plugin import extend_inference_model
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.scorer import Scorer, create_metric


def odd_images():
    """Images that pyiqa's own reading turns, clips, darkens or takes for other colours."""
    photo = Image.fromarray(smooth_pixels(90, 60))
    lying = Image.Exif()
    lying[0x0112] = 6
    faded = photo.convert('RGBA')
    faded.putalpha(Image.linear_gradient('L').resize(photo.size))
    palette = photo.quantize(16)
    grey16 = Image.fromarray(np.asarray(photo.convert('L')).astype(np.uint16) * 257)
    return {
        'rotated.jpg': (photo, {'exif': lying}),
        'grey16.png': (grey16, {}),
        'faded.png': (faded, {}),
        'palette.png': (palette, {'transparency': 3}),
        'cmyk.jpg': (photo.convert('CMYK'), {'icc_profile': icc.cmyk_profile(True)}),
        'prophoto.png': (photo, {'icc_profile': icc.rgb_profile('prophoto')}),
        'plain.png': (photo, {}),
    }


ODD = [name for name in odd_images() if name != 'plain.png']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the files of ``odd_images``."""
    folder = tmp_path_factory.mktemp('odd')
    for name, (image, options) in odd_images().items():
        image.save(folder / name, **options)
    return folder


@pytest.fixture
def metric(tiny_weights):
    """The metric ``amhp`` as pyiqa creates it, with the weights of a tiny AMHP."""
    return create_metric('amhp', str(tiny_weights), 'cpu')


def _tanet():
    import pyiqa

    return pyiqa.create_metric('tanet', device='cpu', pretrained=False)


def in_all_ways(file):
    """A file as everything that may name an image, and its pixels as pyiqa reads them."""
    return [str(file), file, file.read_bytes(), bytearray(file.read_bytes())]


# A file is one image


@pytest.mark.parametrize('name', [*ODD, 'plain.png'])
def test_a_metric_call_scores_a_file_as_amhp_score_does(metric, folder, name):
    file = folder / name
    [expected] = score_images([file], metric=metric, exact=True)
    with open(file, 'rb') as opened, Image.open(file) as image:
        before = image.mode, dict(image.info)
        calls = [*in_all_ways(file), opened, image]
        scores = [float(metric(call)) for call in calls]
        results = score_images(calls, metric=metric, exact=True)
        scores += [result.score for result in results]
        scores += [result.score for result in Scorer(metric).score(calls)]
        scores += [metric.net.explain(call).score for call in calls]
        assert (image.mode, dict(image.info)) == before
    scores.append(float(metric(to_batch(file))))
    assert scores == pytest.approx([expected.score] * len(scores), abs=1e-5)
    by_pyiqa = float(metric(imread2tensor(str(file), rgb=True)[None]))
    assert (abs(by_pyiqa - expected.score) > 5e-5) == (name in ODD)


def test_the_same_for_tanet(folder):
    metric = _tanet()
    for name in ('rotated.jpg', 'faded.png'):
        file = folder / name
        expected = float(metric(to_batch(file)))
        assert float(metric(str(file))) == pytest.approx(expected, abs=1e-5)
        with Image.open(file) as image:
            assert float(metric(image)) == pytest.approx(expected, abs=1e-5)
        assert not torch.equal(to_batch(file), imread2tensor(str(file), rgb=True)[None])


def test_a_data_set_reads_the_same_pixels(metric, folder, tmp_path):
    csv = tmp_path / 'rated.csv'
    pd.DataFrame({'img_name': ODD, 'MOS': 3}).to_csv(csv, index=False)
    dataset = AMHPDataset(
        {
            'meta_info_file': csv,
            'dataroot_target': folder,
            'phase': 'test',
            'level_values': [1, 2, 3, 4, 5],
        }
    )
    for i, name in enumerate(ODD):
        assert torch.equal(dataset[i]['img'], metric.net.read_input(folder / name)[0])


def test_a_data_set_mirrors_the_images_that_a_metric_call_mirrors(build, tmp_path):
    names = [f'{i}.{"jpg" if i % 2 else "png"}' for i in range(12)]
    for i, name in enumerate(names):
        Image.fromarray(smooth_pixels(90 + 7 * i, 70 + 3 * i, seed=i)).save(tmp_path / name)
    csv = tmp_path / 'rated.csv'
    values = [1.5, 3.5, 5.5, 7.5, 9.5]
    pd.DataFrame({'img_name': names, 'MOS': np.linspace(2, 9, len(names))}).to_csv(csv, index=False)
    options = {'meta_info_file': csv, 'dataroot_target': tmp_path, 'level_values': values}
    options |= {'phase': 'test', 'augment': {'resize': [37, 37]}}
    model = build(network={'protocol': 'reference'}, is_train=False)
    model.feed_data(next(iter(DataLoader(AMHPDataset(options), batch_size=len(names)))))
    model.net.eval()
    seen = model.net.preprocess.view(model.img_input)
    mirrored = 0
    for view, name in zip(seen, names, strict=True):
        x = to_batch(tmp_path / name)
        expected = model.net.preprocess.view(x)[0]
        assert (view - expected).abs().max() < 1.6 / 255
        mirrored += bool(should_mirror(x))
        by_file = torch.from_numpy(model.net.preprocess.view_file(tmp_path / name)) / 255
        assert (by_file.permute(2, 0, 1) - expected).abs().max() < 1.6 / 255
    assert 1 < mirrored < 11


def test_pyiqas_own_command_scores_a_file_as_amhp_score_does(
    folder, tiny_weights, metric, monkeypatch, capsys
):
    from pyiqa.pyiqa_cmd import main

    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(tiny_weights))
    for name in ('rotated.jpg', 'prophoto.png'):
        file = str(folder / name)
        monkeypatch.setattr('sys.argv', ['pyiqa', 'amhp', '-t', file, '--device', 'cpu'])
        main()
        [result] = score_images([file], metric=metric, exact=True)
        [printed] = re.findall(r"'mean': [^\d]*64\(([\d.]+)\)", capsys.readouterr().out)
        assert float(printed) == pytest.approx(result.score, abs=1e-5)


def test_other_metrics_get_what_pyiqa_reads(metric, folder):
    piqe = create_metric('piqe', device='cpu')
    for name in odd_images():
        file = str(folder / name)
        expected = imread2tensor(file, rgb=True)[None]
        with Image.open(file) as image:
            for source in (file, (folder / name).read_bytes(), image):
                assert torch.equal(piqe._to_batched_tensor(source), expected)
        assert piqe._to_batched_tensor(expected) is expected
    with pytest.raises(Exception, match='Unsupported source type'):
        piqe._to_batched_tensor(folder / 'plain.png')


def test_an_unreadable_file_is_reported_by_a_metric_call(metric, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    with pytest.raises(ImageReadError, match=r'bad\.jpg: not an image'):
        metric(str(tmp_path / 'bad.jpg'))


@pytest.mark.parametrize('remake', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_read_themselves(metric, folder, monkeypatch, remake):
    expected = float(metric(folder / 'rotated.jpg'))
    # as in a new process, in which no network of ours was built
    monkeypatch.setattr(InferenceModel, '_to_batched_tensor', InferenceModel._read_by_pyiqa)
    monkeypatch.delattr(InferenceModel, '_read_by_pyiqa')
    assert float(remake(metric)(folder / 'rotated.jpg')) == pytest.approx(expected, abs=1e-5)
    patched = InferenceModel._to_batched_tensor
    extend_inference_model()
    assert InferenceModel._to_batched_tensor is patched


# Colour profiles can be switched off


def test_profiles_are_ignored_where_the_option_says_so(tiny_weights, metric, folder):
    off = create_metric('amhp', str(tiny_weights), 'cpu', color_profiles=False)
    file = folder / 'prophoto.png'
    as_stored = float(metric(imread2tensor(str(file), rgb=True)[None]))
    assert abs(as_stored - float(metric(str(file)))) > 5e-5
    scores = [
        float(off(str(file))),
        off.net.explain(file).score,
        *(next(score_images(file, metric=m, exact=True, **options)).score for m, options in (
            (off, {}),
            (metric, {'color_profiles': False}),
            (Scorer(metric, color_profiles=False), {}),
        )),
        Scorer(metric, color_profiles=False).score(file)[0].score,
    ]  # fmt: skip
    assert scores == pytest.approx([as_stored] * len(scores), abs=1e-5)
    on = next(score_images(file, metric=off, exact=True, color_profiles=True)).score
    assert on == pytest.approx(float(metric(str(file))), abs=1e-5)


def test_the_option_is_not_stored_and_is_checked(make_amhp):
    net = make_amhp(color_profiles=False)
    assert not net.color_profiles
    assert net.state_dict().keys() == make_amhp().state_dict().keys()
    assert torch.equal(net.config.to_tensor(), make_amhp().config.to_tensor())
    with pytest.raises(AMHPError, match='color_profiles=3: expected True or False'):
        make_amhp(color_profiles=3)


def test_the_option_of_a_data_set_and_of_frozen_features(folder, tmp_path, make_amhp):
    from pyiqa_amhp.train.frozen import FrozenEncoders

    csv = tmp_path / 'rated.csv'
    pd.DataFrame({'img_name': ['prophoto.png'], 'MOS': 3}).to_csv(csv, index=False)
    options = {
        'meta_info_file': csv,
        'dataroot_target': folder,
        'phase': 'test',
        'level_values': [1, 2, 3, 4, 5],
    }
    on, off = (AMHPDataset({**options, 'color_profiles': value})[0] for value in (True, False))
    stored = imread2tensor(str(folder / 'prophoto.png'), rgb=True)
    assert torch.equal(off['img'], stored) and not torch.equal(on['img'], stored)
    with pytest.raises(AMHPError, match="color_profiles='off': expected True or False"):
        AMHPDataset({**options, 'color_profiles': 'off'})
    encoders = FrozenEncoders(make_amhp(), ('image',), tmp_path / 'cache')
    path = str(folder / 'prophoto.png')
    features = [
        encoders.image_features([path], color_profiles=value)[0] for value in (True, False, True)
    ]
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])
    _, [error] = encoders.image_features([path], max_pixels=10)
    assert 'too large' in error


# One image or many


def test_whatever_names_one_image_is_one_image(metric, folder):
    file = folder / 'plain.png'
    tensor = to_batch(file)
    with open(file, 'rb') as opened, Image.open(file) as image:
        singles = [*in_all_ways(file), opened, image, tensor, tensor[0]]
        for exact in (True, False):
            for single in singles:
                [result] = score_images(single, 'lovely light', metric, exact=exact)
                tolerance = 1e-5 if exact or isinstance(single, torch.Tensor) else 0.1
                expected = float(metric(str(file), text='lovely light'))
                assert result.score == pytest.approx(expected, abs=tolerance)
                assert result.prompt_source == 'given'
                assert result.path == (str(file) if single in (file, str(file)) else '')
        assert [len(Scorer(metric).score(single, 'light')) for single in singles] == [1] * 8


@pytest.mark.parametrize('exact', [True, False])
def test_an_iterable_may_mix_images_of_all_types(metric, folder, exact):
    files = [folder / name for name in odd_images()]
    expected = [float(metric(file)) for file in files]
    with open(files[3], 'rb') as opened, Image.open(files[4]) as image:
        mixed = [files[0], str(files[1]), files[2].read_bytes(), opened, image]
        mixed += [to_batch(files[5]), to_batch(files[6])[0]]
        for images in (mixed, iter(mixed)):
            results = list(score_images(images, None, metric, exact=exact))
            opened.seek(7)
            scores = [result.score for result in results]
            assert scores == pytest.approx(expected, abs=1e-5 if exact else 0.1)
            assert [r.path for r in results] == [str(files[0]), str(files[1]), *[''] * 5]


def test_a_batch_is_as_many_images(metric, folder):
    x = to_batch(folder / 'plain.png')
    batch = torch.cat([x, 1 - x, x / 2])
    expected = metric(batch)[:, 0].tolist()
    for score in (
        lambda x: [result.score for result in score_images(x, metric=metric)],
        lambda x: [result.score for result in Scorer(metric).score(x)],
    ):
        assert score(batch) == pytest.approx(expected, abs=1e-5)
        assert score(list(batch)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ('images', 'error', 'message'),
    [
        (3, TypeError, 'images: expected a path, bytes, .* got int'),
        (np.zeros((4, 4, 3)), TypeError, 'got ndarray'),
        (torch.zeros(4, 4), AMHPError, r'expected \(N, 3, H, W\)'),
        (torch.zeros(5, 4, 4), AMHPError, r'expected \(N, 3, H, W\)'),
        ([torch.zeros(2, 3, 4, 4)], AMHPError, 'got 2 images .* expected one'),
        ([torch.full((3, 4, 4), 255.0)], AMHPError, r'values from 255 to 255, expected \[0, 1\]'),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], TypeError, 'expected a float tensor'),
        ([3], TypeError, 'image: expected a path, bytes, .* got int'),
    ],
)
def test_what_is_no_image_is_refused(make_amhp, images, error, message):
    net = make_amhp()
    for score in (lambda: list(score_images(images, None, net)), lambda: Scorer(net).score(images)):
        with pytest.raises(error, match=message):
            score()


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        ('light', "texts='light' is one text for 2 images: give one for each, in a list"),
        ({'a.png': 'light', 'b.png': 'dull'}, r'texts is a dict.* \[texts.get\(path\) for path'),
    ],
)
def test_one_text_or_a_dict_for_several_images_is_refused(make_amhp, texts, message):
    net = make_amhp()
    for score in (
        lambda: score_images(['a.png', 'b.png'], texts, net),
        lambda: Scorer(net).score(['a.png', 'b.png'], texts),
    ):
        with pytest.raises(AMHPError, match=message):
            score()
    with pytest.raises(AMHPError, match="'light' is one text for several images"):
        score_images(iter(['a.png']), 'light', net)


def test_an_unknown_option_of_reading_is_refused(make_amhp):
    with pytest.raises(TypeError, match='unknown option colour_profiles'):
        score_images(['a.png'], None, make_amhp(), colour_profiles=False)


def test_a_bad_image_in_memory_is_a_row_with_its_error(make_amhp):
    broken = Image.open(io.BytesIO(_png()[:-40]))
    results = list(
        score_images([b'', broken, to_tensor(Image.new('RGB', (9, 9)))], None, make_amhp())
    )
    assert [bool(result.error) for result in results] == [True, True, False]
    assert 'the file is empty' in results[0].error and 'truncated' in results[1].error


def _png():
    buffer = io.BytesIO()
    Image.fromarray(smooth_pixels(40, 40)).save(buffer, 'PNG')
    return buffer.getvalue()


def test_one_or_many_gives_iterables():
    assert one_or_many(b'x') == [b'x']
    assert list(one_or_many(name for name in 'ab')) == ['a', 'b']
    assert [tuple(x.shape) for x in one_or_many(torch.zeros(2, 1, 4, 5))] == [(1, 3, 4, 5)] * 2


def test_the_page_reads_as_its_metric(make_amhp, folder):
    for on in (True, False):
        net = make_amhp(color_profiles=on)
        page, file = PhotoScorer(net, Limits()), folder / 'prophoto.png'
        photo = Upload(str(file), 'prophoto.png')
        with torch.no_grad():
            expected = float(net(to_batch(file, color_profiles=on)))
        assert page.score(photo)['score'] == pytest.approx(expected, abs=1e-5)
        explained = page.explain(photo)
        assert explained.explanation.score == pytest.approx(expected, abs=1e-5)
        shown = to_tensor(explained.image)[None]
        assert torch.equal(shown, to_batch(file, color_profiles=on))
