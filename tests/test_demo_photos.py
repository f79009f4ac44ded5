"""The demo's images: crops and edits do what their strengths state."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pyiqa_amhp.demo import photos
from pyiqa_amhp.demo.photos import (
    EDITS,
    SOURCES,
    Source,
    crop,
    edit,
    load_sources,
    make_photos,
    sample_strengths,
)
from pyiqa_amhp.errors import AMHPError


@pytest.fixture(scope='module')
def picture():
    """A crop of a real photograph, ``(128, 128, 3)`` in [0, 1]."""
    photo = load_sources()['coffee']
    return np.asarray(photo.resize((128, 128)), np.float32) / 255


def edited(picture, **strengths):
    return edit(picture, pd.Series(dict.fromkeys(EDITS, 0.0) | strengths), np.random.default_rng(0))


def test_no_source_file_is_used_twice():
    assert len({source.file for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize(
    ('package', 'name'), [('skimage', 'scikit-image'), ('matplotlib', 'matplotlib')]
)
def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch, package, name):
    monkeypatch.setattr(photos, 'find_spec', lambda n: None if n == package else find_spec(n))
    with pytest.raises(AMHPError, match=rf"{name}.*pip install 'pyiqa-amhp\[demo\]'"):
        load_sources()


def test_a_missing_source_photograph_is_an_error(tmp_path, monkeypatch):
    class Spec:
        submodule_search_locations = (str(tmp_path / 'skimage'),)

    monkeypatch.setattr(photos, 'find_spec', lambda name: Spec)
    with pytest.raises(AMHPError, match=r'astronaut\.png: not there'):
        load_sources()


def test_grey_photographs_are_named_as_such():
    for source in SOURCES:
        assert source.grey == (colorfulness(np.asarray(load_sources()[source.name]) / 255) < 1e-6)


def test_strengths_are_in_the_ranges_of_the_edits():
    strengths = sample_strengths(2000, seed=0)
    assert strengths.columns.tolist() == list(EDITS)
    for name in ('exposure', 'contrast', 'saturation', 'tilt', 'warmth'):
        assert strengths[name].min() < 0 < strengths[name].max()
    for name in ('cast', 'blur', 'motion', 'offset', 'noise'):
        assert strengths[name].min() >= 0
    assert strengths[['contrast', 'saturation']].abs().max().max() <= 1
    assert set(strengths.warmth) == {-1, 1}


def test_edits_of_no_strength_change_nothing(picture):
    np.testing.assert_allclose(edited(picture), picture, atol=1e-5)


def brightness(x):
    return x.mean()


def spread(x):
    return x.mean(axis=2).std()


def orange(x):
    return x[..., 0].mean() - x[..., 2].mean()


def blue(x):
    return -orange(x)


def colorfulness(x):
    return (x.max(axis=2) - x.min(axis=2)).mean()


def detail(x):
    return np.abs(np.diff(x, axis=0)).mean() + np.abs(np.diff(x, axis=1)).mean()


@pytest.mark.parametrize(
    ('measure', 'stronger', 'little', 'much'),
    [
        (brightness, True, {'exposure': 0.5}, {'exposure': 1.5}),
        (brightness, False, {'exposure': -0.5}, {'exposure': -1.5}),
        (spread, True, {'contrast': 0.3}, {'contrast': 0.9}),
        (spread, False, {'contrast': -0.3}, {'contrast': -0.9}),
        (orange, True, {'cast': 0.3, 'warmth': 1.0}, {'cast': 0.9, 'warmth': 1.0}),
        (blue, True, {'cast': 0.3, 'warmth': -1.0}, {'cast': 0.9, 'warmth': -1.0}),
        (colorfulness, True, {'saturation': 0.3}, {'saturation': 0.9}),
        (colorfulness, False, {'saturation': -0.3}, {'saturation': -0.9}),
        (detail, False, {'blur': 0.5}, {'blur': 2.0}),
        (detail, False, {'motion': 3.0}, {'motion': 9.0}),
        (detail, True, {'noise': 0.03}, {'noise': 0.12}),
    ],
)
def test_edits_act_in_their_direction_and_grow_with_strength(
    picture, measure, stronger, little, much
):
    values = [measure(x) for x in (picture, edited(picture, **little), edited(picture, **much))]
    assert values == sorted(values, reverse=not stronger)
    assert len(set(values)) == 3


def test_one_stop_doubles_the_light():
    grey = np.full((8, 8, 3), 0.4)
    np.testing.assert_allclose(edited(grey, exposure=1.0) ** 2.2, 2 * grey**2.2, rtol=1e-6)
    np.testing.assert_allclose(edited(grey, exposure=-1.0) ** 2.2, grey**2.2 / 2, rtol=1e-6)


def test_full_desaturation_is_grey(picture):
    grey = edited(picture, saturation=-1.0)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-6)


def test_noise_has_the_stated_deviation():
    assert edited(np.full((64, 64, 3), 0.5), noise=0.08).std() == pytest.approx(0.08, rel=0.05)


def test_blur_is_stated_in_percent_of_the_width():
    """A gaussian's sigma squared is the second moment of a blurred line."""
    line = np.zeros((200, 200, 3))
    line[:, 100] = 1
    profile = edited(line, blur=2.0)[100, :, 0]
    place = np.arange(200) - 100
    assert np.sqrt((profile * place**2).sum() / profile.sum()) == pytest.approx(4, rel=0.05)


def test_motion_blur_keeps_light_and_smears_along_one_direction():
    dot = np.zeros((101, 101, 3))
    dot[50, 50] = 1
    smeared = edited(dot, motion=20.0)[..., 0]
    rows, columns = np.nonzero(smeared > 1e-6)
    assert smeared.sum() == pytest.approx(1, abs=1e-3)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(20, abs=2)
    assert len(rows) < 50


TARGET = Source('target', '', 'train', (300, 200), (150, 200))


def target_photo():
    """Draw a white dot at the subject on a horizontal edge: black above, grey below."""
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[200:] = 100
    pixels[195:205, 295:305] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize('offset', [0.0, 0.15, 0.3])
@pytest.mark.parametrize('tilt', [0.0, -12.0])
def test_a_crop_has_the_stated_offset(offset, tilt):
    view, got = crop(target_photo(), TARGET, tilt, offset, 100, np.random.default_rng(0))
    assert view.shape == (100, 100, 3)
    assert got == pytest.approx(offset, abs=0.02)
    y, x = (place.mean() + 0.5 for place in np.nonzero(view[..., 0] > 0.8))
    assert np.hypot(x - 50, y - 50) / 100 == pytest.approx(offset, abs=0.02)


@pytest.mark.parametrize('tilt', [-15.0, -5.0, 0.0, 5.0, 15.0])
def test_a_crop_has_the_stated_tilt(tilt):
    view, _ = crop(target_photo(), TARGET, tilt, 0.0, 100, np.random.default_rng(0))
    edge = (view[..., 0] < 0.2).sum(axis=0)  # its row in each column
    columns = np.r_[0:40, 60:100]  # beside the dot
    slope = np.polyfit(columns, edge[columns], 1)[0]
    assert np.rad2deg(np.arctan(slope)) == pytest.approx(tilt, abs=0.7)


def test_a_crop_stays_inside_the_photo_and_returns_its_true_offset():
    white = Image.new('RGB', (400, 300), 'white')
    source = Source('corner', '', 'train', (20, 20), (150, 200))
    view, got = crop(white, source, 10.0, 0.0, 64, np.random.default_rng(0))
    assert view.min() > 0.99
    assert got > 0.3


def test_the_table_has_the_true_tilt_and_offset(tmp_path):
    table = make_photos(tmp_path, seed=3, n_per_source=4, size=32)
    drawn = sample_strengths(len(table), seed=3)
    assert len(table) == 4 * len(SOURCES)
    is_grey = table.source.isin([source.name for source in SOURCES if source.grey])
    drawn.loc[is_grey, 'saturation'] = photos.GREY_SATURATION
    pd.testing.assert_frame_equal(
        table[list(EDITS)].drop(columns='offset'), drawn.drop(columns='offset')
    )
    assert (table.offset - drawn.offset).abs().median() < 0.02
