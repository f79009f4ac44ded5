"""Edits of ``perf/edits.py``: each strength does what it says, and controls harm nothing."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_pixels
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / 'perf'))

from edits import (
    CASTS,
    CONTROLS,
    EDITS,
    LUMA,
    blur,
    cast,
    centre_crop,
    corner_crop,
    desaturate,
    jpeg,
    mirror,
    scale_values,
    share_inside,
    tilt,
)


@pytest.fixture
def photo():
    return Image.fromarray(smooth_pixels(120, 80, 0))


def values(image):
    return np.asarray(image, np.float64)


@pytest.mark.parametrize('factor', [0.75, 0.5, 0.25])
def test_darker_scales_the_mean_brightness_by_the_factor(photo, factor):
    expected = factor * values(photo).mean()
    assert values(scale_values(photo, factor)).mean() == pytest.approx(expected, abs=0.5)


def test_overexposed_cuts_what_exceeds_white(photo):
    edited = values(scale_values(photo, 2))
    assert (edited == 255).mean() == pytest.approx((values(photo) >= 127.5).mean(), abs=1e-9)
    assert np.abs(edited - np.minimum(255, 2 * values(photo))).max() <= 0.5


@pytest.mark.parametrize('share', [0.01, 0.02, 0.04])
def test_blur_spreads_a_point_by_its_share_of_the_shorter_side(share):
    point = np.zeros((200, 300, 3), np.uint8)
    point[90:110, 140:160] = 255
    spread = values(blur(Image.fromarray(point), share))[..., 0].sum(axis=0)
    x = np.arange(300)

    def variance(weights):
        center = (weights * x).sum() / weights.sum()
        return (weights * (x - center) ** 2).sum() / weights.sum()

    added = variance(spread) - variance(values(Image.fromarray(point))[..., 0].sum(axis=0))
    assert added**0.5 == pytest.approx(200 * share, rel=0.1)


@pytest.mark.parametrize('degrees', [4, 8, 15])
@pytest.mark.parametrize('number', [0, 1])
def test_tilt_turns_a_horizon_by_the_angle(degrees, number):
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[150:] = 255
    edited = values(tilt(Image.fromarray(pixels), degrees, number))[..., 0]
    assert np.isin(edited[[0, -1]], (0, 255)).all()
    heights = (edited < 128).sum(axis=0)  # dark pixels above the horizon in each column
    slope = np.polyfit(np.arange(len(heights)), heights, 1)[0]
    turned = np.degrees(np.arctan(slope))
    assert turned == pytest.approx(-degrees if number == 0 else degrees, abs=0.3)


@pytest.mark.parametrize('size', [(224, 224), (400, 300), (300, 401)])
@pytest.mark.parametrize('degrees', [4, 8, 15])
def test_tilt_leaves_no_corner_outside_the_photograph(size, degrees):
    white = Image.new('RGB', size, 'white')
    edited = tilt(white, degrees, 0)
    assert values(edited).min() == 255
    kept = share_inside(size, degrees)
    assert edited.size == tuple(int(kept * side) for side in size)
    larger = centre_crop(white.rotate(degrees, Image.Resampling.BICUBIC), kept * 1.05)
    assert values(larger).min() == 0  # no larger part has none


@pytest.mark.parametrize('number', range(len(CASTS)))
def test_a_cast_keeps_its_channels_and_the_luma(number):
    grey = Image.new('RGB', (8, 8), (100, 100, 100))
    pixel = values(cast(grey, 0.4, number))[0, 0]
    kept = np.array(CASTS[number], bool)
    assert pixel[~kept].mean() / pixel[kept].mean() == pytest.approx(0.6, abs=0.01)
    assert pixel @ LUMA == pytest.approx(100, abs=0.5)


def test_a_cast_of_black_is_black():
    assert values(cast(Image.new('RGB', (8, 8)), 0.7, 0)).max() == 0


@pytest.mark.parametrize('strength', [0.4, 0.7, 1])
def test_desaturation_shrinks_the_distance_from_grey(photo, strength):
    grey = values(photo.convert('L'))[..., None]
    before, after = np.abs(values(photo) - grey), np.abs(values(desaturate(photo, strength)) - grey)
    assert after.mean() == pytest.approx((1 - strength) * before.mean(), abs=0.6)


@pytest.mark.parametrize('number, corner', [(0, (0, 0)), (1, (0, 20)), (2, (30, 0)), (3, (30, 20))])
def test_a_corner_crop_keeps_its_share_at_one_corner(photo, number, corner):
    left, top = corner
    expected = values(photo)[top : top + 60, left : left + 90]
    assert (values(corner_crop(photo, 0.75, number)) == expected).all()


def test_controls_change_little(photo):
    assert (values(mirror(photo)) == values(photo)[:, ::-1]).all()
    assert 0 < np.abs(values(jpeg(photo, 90)) - values(photo)).mean() < 3
    assert (values(centre_crop(photo, 0.5)) == values(photo)[20:60, 30:90]).all()


@pytest.mark.parametrize('edit', EDITS, ids=lambda edit: edit.name)
def test_a_stronger_edit_changes_more_pixels_or_keeps_fewer(photo, edit):
    def damage(strength):
        edited = edit.apply(photo, strength, 0)
        if edited.size != photo.size:
            return -edited.width * edited.height
        return np.abs(values(edited) - values(photo)).mean()

    weak, medium, strong = map(damage, edit.strengths)
    assert weak < medium < strong


def test_every_edit_names_an_attribute_of_para_and_no_control_does():
    from pyiqa_amhp.datasets.para import ATTRIBUTES

    assert {edit.attribute for edit in EDITS} <= set(ATTRIBUTES)
    assert not any(edit.attribute for edit in CONTROLS)
