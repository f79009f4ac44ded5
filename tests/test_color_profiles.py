"""Colour profiles: an image is read as sRGB whatever colour space it is stored in."""

import io
import threading

import icc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pyiqa_amhp.datasets import color_profiles
from pyiqa_amhp.datasets.images import read_image

WIDE = ('adobe', 'p3', 'prophoto')


def picture():
    """All colours at steps of 17, the middle ones, in sRGB: 200 x 64."""
    steps = np.arange(34, 222, 17, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.resize(rgb, (64, 200, 3)))


def stored_in(space):
    """The same picture, stored in another colour space."""
    pixels = 255 * icc.from_srgb(np.asarray(picture()) / 255, space)
    return Image.fromarray(pixels.round().astype(np.uint8))


def saved(image, suffix='.png', **options):
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def difference(one, other):
    """The mean and the largest difference of two images, in levels of 255."""
    gap = np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int))
    return gap.mean(), gap.max()


@pytest.mark.parametrize('space', WIDE)
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg', '.webp', '.avif'])
def test_a_picture_in_any_space_and_format_is_read_as_in_srgb(space, suffix):
    lossless = {'.webp': {'lossless': True}, '.jpg': {'quality': 100, 'subsampling': 0}}
    options = lossless.get(suffix, {})
    if suffix == '.avif':
        options = {'quality': 100, 'subsampling': '4:4:4'}
        if suffix not in Image.registered_extensions():
            pytest.skip('this Pillow writes no AVIF')
    data = saved(stored_in(space), suffix, icc_profile=icc.rgb_profile(space), **options)
    image = read_image(data)
    assert image.mode == 'RGB'
    assert difference(image, picture())[0] < (4 if suffix in ('.jpg', '.avif') else 1.5)
    off = read_image(data, color_profiles=False)
    assert difference(off, stored_in(space))[0] < (4 if suffix in ('.jpg', '.avif') else 1e-9)
    assert difference(off, picture())[0] > 8


@pytest.mark.parametrize('space', WIDE)
def test_the_conversion_is_right_to_a_few_levels(space):
    image = color_profiles.to_srgb(stored_in(space), icc.rgb_profile(space))
    mean, largest = difference(image, picture())
    assert mean < 1.5 and largest <= (9 if space == 'prophoto' else 4)  # 8 bits of a wide space


def test_profiles_of_srgb_itself_change_no_pixel():
    pillows = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for profile in (icc.rgb_profile('srgb'), pillows):
        data = saved(picture(), icc_profile=profile)
        assert difference(read_image(data), picture()) == (0, 0)
        assert color_profiles.to_srgb(image := picture(), profile) is image


def test_transparent_pixels_are_white_and_others_converted():
    image = stored_in('adobe').convert('RGBA')
    image.putalpha(Image.new('L', image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, 100, 64))
    image = read_image(saved(image, icc_profile=icc.rgb_profile('adobe')))
    assert difference(image.crop((0, 0, 100, 64)), np.full((64, 100, 3), 255)) == (0, 0)
    right = (100, 0, 200, 64)
    assert difference(image.crop(right), picture().crop(right))[0] < 1.5


def test_half_transparent_pixels_are_laid_on_white_after_the_conversion():
    profile = icc.rgb_profile('prophoto')
    opaque = color_profiles.to_srgb(Image.new('RGB', (1, 1), (100, 120, 90)), profile)
    half = read_image(saved(Image.new('RGBA', (1, 1), (100, 120, 90, 128)), icc_profile=profile))
    expected = [value * 128 / 255 + 127 for value in opaque.getpixel((0, 0))]
    assert np.abs(np.array(half.getpixel((0, 0))) - expected).max() <= 1


@pytest.mark.parametrize('transparent', [False, True])
def test_a_palette_is_converted(transparent):
    palette = Image.new('P', (2, 1), 0)
    palette.putpalette([200, 90, 60, 10, 200, 30])
    palette.putpixel((1, 0), 1)
    options = {'transparency': 1} if transparent else {}
    profile = icc.rgb_profile('prophoto')
    image = read_image(saved(palette, icc_profile=profile, **options))
    both = color_profiles.to_srgb(palette.convert('RGB'), profile)
    assert image.getpixel((0, 0)) == both.getpixel((0, 0)) != (200, 90, 60)
    assert image.getpixel((1, 0)) == ((255, 255, 255) if transparent else both.getpixel((1, 0)))


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'I;16'])
def test_grey_is_converted_by_a_profile_of_grey(mode):
    # linear light: 51 of 255 is a fifth of the light, which sRGB stores as 123 or 124
    levels, expected = [0, 51, 128, 255], [0, 123.5, 187.5, 255]
    if mode == 'I;16':
        image = Image.fromarray(np.array([levels], np.uint16) * 257)
    else:
        image = Image.fromarray(np.array([levels], np.uint8)).convert(mode)
    image = read_image(saved(image, icc_profile=icc.grey_profile(1.0)))
    rgb = np.asarray(image)[0].astype(int)
    assert (rgb == rgb[:, :1]).all()
    if mode == '1':
        assert set(rgb[:, 0]) <= {0, 255}
    else:
        assert np.abs(rgb[:, 0] - expected).max() <= 1


@pytest.mark.parametrize('suffix', ['.tif', '.jpg'])
def test_cmyk_is_converted_by_its_profile(suffix):
    image = Image.new('CMYK', (16, 16), (0, 0, 0, 128))
    plain = read_image(saved(image, suffix, quality=100)).getpixel((8, 8))
    red = read_image(saved(image, suffix, quality=100, icc_profile=icc.cmyk_profile(True)))
    assert max(plain) - min(plain) <= 2
    r, g, b = red.getpixel((8, 8))
    assert r > g + 40 and r > b + 30
    white = saved(Image.new('CMYK', (16, 16)), suffix, icc_profile=icc.cmyk_profile(True))
    assert min(read_image(white).getpixel((8, 8))) > 245


@pytest.mark.parametrize(
    ('mode', 'profile'),
    [
        ('RGB', icc.grey_profile(1.0)),
        ('RGB', icc.cmyk_profile(True)),
        ('L', icc.rgb_profile('prophoto')),
        ('LA', icc.rgb_profile('prophoto')),
        ('CMYK', icc.rgb_profile('prophoto')),
        ('RGB', b'no profile at all'),
        ('RGB', icc.rgb_profile('prophoto')[:200]),
        ('RGB', icc.rgb_profile('prophoto').replace(b'rXYZ', b'zXYZ')),
        ('RGB', icc.rgb_profile('prophoto').replace(b'mntr', b'link')),
        ('RGB', icc.rgb_profile('prophoto') + bytes(color_profiles.MAX_PROFILE)),
    ],
)
def test_a_profile_that_is_damaged_or_of_another_kind_of_image_is_ignored(mode, profile):
    image = picture().convert(mode)
    data = saved(image, '.tif', icc_profile=profile)
    assert difference(read_image(data), read_image(data, color_profiles=False)) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((icc.rgb_profile('adobe'), icc.cmyk_profile(), icc.grey_profile(2.2))),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12),
    st.integers(0, 10**6),
)
def test_no_damage_of_a_profile_makes_an_image_unreadable(profile, changes, end):
    damaged = bytearray(profile)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = bytes(damaged[: max(1, end)])
    for mode in ('RGB', 'CMYK', 'L', 'RGBA', 'P'):
        image = Image.new('RGB', (3, 2), (10, 200, 90)).convert(mode)
        image.info['icc_profile'] = damaged
        assert read_image(image).size == (3, 2)


def test_an_image_that_was_read_is_not_converted_again():
    data = saved(stored_in('prophoto'), icc_profile=icc.rgb_profile('prophoto'))
    once = read_image(data)
    assert difference(read_image(once), once) == (0, 0) and not once.info


def test_a_rotated_photograph_is_converted_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = stored_in('p3').transpose(Image.Transpose.ROTATE_90)
    image = read_image(saved(lying, exif=exif, icc_profile=icc.rgb_profile('p3')))
    assert difference(image, picture())[0] < 1.5


def test_a_profile_is_read_once_and_threads_share_its_transform(monkeypatch):
    color_profiles._transform.cache_clear()
    built, build = [], ImageCms.buildTransform
    monkeypatch.setattr(
        ImageCms, 'buildTransform', lambda *args: built.append(args) or build(*args)
    )
    files = {
        space: saved(stored_in(space), icc_profile=icc.rgb_profile(space))
        for space in (*WIDE, 'srgb')
    }
    expected = {space: np.asarray(read_image(data)) for space, data in files.items()}
    results = []

    def work(offset):
        for i in range(40):
            space = list(files)[(i + offset) % len(files)]
            results.append(np.array_equal(np.asarray(read_image(files[space])), expected[space]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 240 and all(results)
    assert len(built) == len(files)


def test_without_imagecms_images_are_read_as_they_are(monkeypatch, caplog):
    color_profiles._transform.cache_clear()

    def missing(*_):
        raise ImportError('the _imagingcms C module is not installed')

    monkeypatch.setattr(ImageCms, 'ImageCmsProfile', missing)
    data = saved(stored_in('adobe'), icc_profile=icc.rgb_profile('adobe'))
    assert difference(read_image(data), stored_in('adobe')) == (0, 0)
    assert 'no ImageCms' in caplog.text
    color_profiles._transform.cache_clear()
