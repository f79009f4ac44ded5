"""Preprocessing of image batches and of image files."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as TF
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import odd_pixel_sum
from pyiqa_amhp.model.preprocess import Preprocess, prepare_mirror, should_mirror

PLAIN = {
    'size': 32,
    'mean': (0.0, 0.0, 0.0),
    'std': (1.0, 1.0, 1.0),
    'resize': 'squash',
    'resize_size': 40,
    'crop': 'center',
    'flip': False,
}


def view(x, **options):
    """Resize and crop images; the mean and deviation of ``PLAIN`` change nothing."""
    return Preprocess(**{**PLAIN, **options}).eval()(x)


def ramp(height, width):
    """Values from 0 to 1, in the first channel by column and in the second by row."""
    x = torch.zeros(1, 3, height, width)
    x[:, 0] = torch.linspace(0, 1, width)
    x[:, 1] = torch.linspace(0, 1, height)[:, None]
    return x


def bytes_of(*shape, seed=0):
    """Random pixels as a file holds them: multiples of 1/255."""
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return pixels.float() / 255


# Resize


@pytest.mark.parametrize(('height', 'width'), [(100, 200), (200, 100), (64, 64), (20, 70)])
def test_squash_shows_the_whole_image_and_changes_its_shape(height, width):
    seen = view(ramp(height, width), resize_size=32)
    assert seen.shape == (1, 3, 32, 32)
    for channel in (0, 1):
        assert seen[:, channel].min() < 0.03
        assert seen[:, channel].max() > 0.97


@pytest.mark.parametrize(
    ('crop', 'low', 'high'), [('center', 0.25, 0.75), ('corner', 0, 0.5)], ids=['center', 'corner']
)
def test_shortest_keeps_the_shape_and_shows_a_square_part(crop, low, high):
    options = {'resize': 'shortest', 'resize_size': 32, 'crop': crop}
    wide, tall = view(ramp(100, 200), **options)[0], view(ramp(200, 100), **options)[0]
    for cut, whole in ((wide[0], wide[1]), (tall[1], tall[0])):
        assert cut.min() == pytest.approx(low, abs=0.02)
        assert cut.max() == pytest.approx(high, abs=0.02)
        assert whole.min() == pytest.approx(0, abs=0.02)
        assert whole.max() == pytest.approx(1, abs=0.02)


def test_images_are_resized_as_by_pillow():
    x = bytes_of(1, 3, 90, 130)
    image = Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())
    small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    seen = view(x, resize_size=32)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen, small, atol=1.5 / 255)


def test_an_image_of_the_resized_size_is_only_cropped():
    x = bytes_of(2, 3, 40, 40)
    assert torch.equal(view(x), x[..., 4:36, 4:36])


# Crop and mirror


@pytest.mark.parametrize(
    ('crop', 'rows'), [('center', slice(4, 36)), ('corner', slice(0, 32))], ids=['center', 'corner']
)
def test_the_crop_is_the_middle_or_the_top_left_corner(crop, rows):
    x = bytes_of(2, 3, 40, 40)
    assert torch.equal(view(x, crop=crop), x[..., rows, rows])


def odd_and_even():
    """Two images that differ in one step of one pixel, outside the crop; the first sum is odd."""
    x = bytes_of(1, 3, 40, 40).repeat(2, 1, 1, 1)
    x[0, 0, 39, 39], x[1, 0, 39, 39] = 0, 1 / 255
    sums = [int((image * 255).round().sum()) % 2 for image in x]
    return x if sums == [1, 0] else x.flip(0)


def test_an_odd_image_is_mirrored_and_an_even_one_is_not():
    x = odd_and_even()
    seen = view(x, flip=True, crop='corner')
    assert torch.equal(seen[0], x[0, :, :32].flip(-1)[..., :32])
    assert torch.equal(seen[1], x[1, :, :32, :32])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize('resize', ['squash', 'shortest'])
def test_the_corner_of_a_mirrored_image_is_its_right_side(resize):
    x = torch.zeros(1, 3, 256, 256)
    x[:, 0, :, 0] = 1  # 256 times 255
    x[0, 1, 0, 255] = 1  # makes the sum odd
    options = {'size': 224, 'resize_size': 256, 'crop': 'corner', 'flip': True, 'resize': resize}
    seen = view(x, **options)
    assert not seen[:, 0].any()  # the authors' loader never shows column 0 of a mirrored image
    assert seen[0, 1, 0, 0] == 1
    x[0, 1, 0, 254] = 1
    assert view(x, **options)[0, 0, :, 0].all()


def authors_view(image, mirrored):
    """The view of the authors' loader: resize, mirror, corner."""
    image = image.resize((40, 40), Image.Resampling.BILINEAR)
    image = ImageOps.mirror(image) if mirrored else image
    return np.asarray(image.crop((0, 0, 32, 32))) / 255


@pytest.mark.parametrize('size', [(90, 70), (33, 200), (40, 40)])
def test_the_view_is_that_of_the_authors_loader(tmp_path, size):
    seen = set()
    for seed in range(8):
        image = Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
        )
        image.save(tmp_path / 'x.png')
        x = to_tensor(image)[None]
        odd = int(np.asarray(image).astype(int).sum()) % 2 == 1
        assert odd_pixel_sum(image) == bool(should_mirror(x)) == odd
        seen.add(odd)
        expected = authors_view(image, odd)
        process = Preprocess(**{**PLAIN, 'crop': 'corner', 'flip': True}).eval()
        by_pillow = process.view_file(tmp_path / 'x.png') / 255
        exact = process.view(x)[0].permute(1, 2, 0).numpy()
        assert np.abs(by_pillow - expected).max() < 1.1 / 255
        assert np.abs(exact - expected).max() < 1.6 / 255
    assert seen == {True, False}


@pytest.mark.parametrize('crop', ['center', 'corner'])
@pytest.mark.parametrize('size', [(60, 90), (90, 60), (4, 300)])
def test_the_seen_region_is_that_of_the_view(crop, size):
    height, width = size
    for mirrored in (False, True):
        x = ramp(*size) * 254 / 255
        x = (x * 255).round() / 255
        if bool(should_mirror(x)) != mirrored:
            x[0, 2, 0, 0] = 1 / 255
        options = {'resize': 'shortest', 'crop': crop, 'flip': True}
        seen = view(x, **options)[0]
        region = Preprocess(**{**PLAIN, **options}).seen_region(height, width, mirrored)
        left, top, right, bottom = region
        assert (seen[0].min(), seen[0].max()) == pytest.approx((left, right), abs=0.05)
        assert (seen[1].min(), seen[1].max()) == pytest.approx((top, bottom), abs=0.2)
        assert (seen[0, 0, 0] > seen[0, 0, -1]) == mirrored


@pytest.mark.parametrize('mirror', [[True, True], [True, False], [False, True], [False, False]])
def test_a_choice_on_other_pixels_is_kept(mirror):
    x = odd_and_even()
    seen = view(prepare_mirror(x, torch.tensor(mirror)), flip=True, crop='corner')
    for image, shown, mirrored in zip(x, seen, mirror, strict=True):
        image = image.flip(-1) if mirrored else image
        assert torch.equal(shown, image[:, :32, :32])


def test_without_the_option_nothing_is_mirrored():
    x = odd_and_even()
    assert torch.equal(view(x), x[..., 4:36, 4:36])


def test_about_half_of_all_images_are_mirrored():
    x = bytes_of(200, 3, 40, 40)
    mirrored = (view(x, flip=True) != view(x)).flatten(1).any(1)
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize('size', [(40, 40), (57, 93)])
def test_mirroring_depends_on_nothing_but_the_image(size):
    x = bytes_of(40, 3, *size)
    seen = view(x, flip=True)
    assert torch.equal(view(x, flip=True), seen)
    assert torch.equal(view(x.flip(0), flip=True).flip(0), seen)
    assert torch.equal(torch.cat([view(image[None], flip=True) for image in x]), seen)
    others = (x.contiguous(memory_format=torch.channels_last), x.double(), x + 1e-5, x.half())
    for other in others:  # same pixels, other arithmetic
        assert (view(other, flip=True) - seen).abs().max() < 0.01


# Normalisation


def test_the_constants_are_those_of_clip(make_amhp):
    net = make_amhp()
    grey = torch.full((1, 3, 40, 40), 0.5)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(net.preprocess(grey)[0, :, 7, 9], (0.5 - mean) / std)


def test_constants_can_be_options(make_amhp):
    net = make_amhp(image_mean=[0.5, 0.25, 0], image_std=(1, 0.5, 0.25))
    grey = torch.full((1, 3, 40, 40), 0.5)
    assert net.preprocess(grey)[0, :, 7, 9].tolist() == pytest.approx([0, 0.5, 2], abs=1e-5)


@pytest.mark.parametrize('protocol', ['paper', 'reference'])
def test_in_training_a_crop_is_only_normalised(make_amhp, protocol):
    preprocess = make_amhp(protocol=protocol).preprocess.train()
    crops = bytes_of(6, 3, 32, 32)
    assert torch.equal(preprocess(crops), (crops - preprocess.mean) / preprocess.std)
    photos = bytes_of(6, 3, 50, 60)
    seen = preprocess(photos)
    assert torch.equal(seen, preprocess.eval()(photos))
    assert not torch.allclose(preprocess(crops), (crops - preprocess.mean) / preprocess.std)


@pytest.mark.parametrize(('size', 'resized'), [(32, 37), (64, 73), (224, 256)])
def test_by_default_images_are_resized_in_clips_proportion(make_amhp, tiny, size, resized):
    tiny['vision_cfg']['image_size'] = size
    preprocess = make_amhp(backbone=tiny).preprocess
    assert (preprocess.size, preprocess.resize_size, preprocess.resize) == (size, resized, 'squash')


def test_the_gradient_passes_through(make_amhp):
    x = bytes_of(2, 3, 40, 50).requires_grad_()
    view(x, flip=True, resize='shortest').sum().backward()
    assert (x.grad != 0).any()
    assert torch.isfinite(x.grad).all()


# Views of files


def grainy(width, height):
    """An image with detail of every size, down to the pixel."""
    rng = np.random.default_rng(width)
    layers = [
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).resize((width, height))
        for size in (3, 12, 50, 200, 800)
    ]
    layers.append(Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)))
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def both_views(file, **options):
    """Views of a file by Pillow and by torch, ``(size, size, 3)`` in [0, 1]."""
    process = Preprocess(**{**PLAIN, **options}).eval()
    with Image.open(file) as image:
        pixels = np.array(image.convert('RGB'))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    return process.view_file(file) / 255, process.view(x)[0].permute(1, 2, 0).numpy()


# Sides from just above twice the 73 pixels: decoded at 1/1, 1/2, 1/4 and 1/8.
@pytest.mark.parametrize(
    'size', [(148, 147), (293, 295), (590, 585), (1170, 1175), (1600, 1200), (640, 150)]
)
@pytest.mark.parametrize('resize', ['squash', 'shortest'])
def test_a_view_of_a_jpeg_moves_the_mean_pixel_by_less_than_documented(tmp_path, size, resize):
    file = tmp_path / 'photo.jpg'
    grainy(*size).save(file, quality=92)
    by_pillow, exact = both_views(file, size=64, resize_size=73, resize=resize)
    assert by_pillow.shape == exact.shape == (64, 64, 3)
    assert np.abs(by_pillow - exact).mean() < 0.01


@pytest.mark.parametrize('options', [{'crop': 'corner'}, {'flip': True}, {'resize': 'shortest'}])
@pytest.mark.parametrize('seed', range(4))
def test_a_view_of_another_file_format_differs_by_rounding_only(tmp_path, options, seed):
    file = tmp_path / 'photo.png'
    pixels = np.random.default_rng(seed).integers(0, 256, (90 + seed, 130, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    by_pillow, exact = both_views(file, **options)
    assert np.abs(by_pillow - exact).max() < 1.1 / 255


BOXES = [(224, 256), (32, 64), (225, 256), (256, 256), (300, 512), (31, 32)]


@pytest.mark.parametrize('crop', ['center', 'corner'])
@pytest.mark.parametrize(('size', 'resized'), BOXES)
def test_resizing_the_part_that_is_kept_changes_no_pixel(size, resized, crop):
    preprocess = Preprocess(size, (0.5,) * 3, (0.5,) * 3, 'squash', resized, crop, False)
    rng = np.random.default_rng(size)
    sides = np.exp(rng.uniform(0, np.log(2000), (20, 2))).astype(int).tolist()
    for width, height in [*sides, (resized, 99), (resized, resized), (1, 1), (2**24 // resized, 2)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        assert preprocess._box_before_resizing(width, height) is not None
        expected = np.array(preprocess._resize_and_crop(image))
        assert (preprocess.view_file(image) == expected).all(), (width, height)


def test_a_part_whose_ends_are_not_exact_is_cut_after_resizing():
    odd = Preprocess(336, (0.5,) * 3, (0.5,) * 3, 'squash', 384, 'center', False)
    shortest = Preprocess(224, (0.5,) * 3, (0.5,) * 3, 'shortest', 256, 'center', False)
    even = Preprocess(224, (0.5,) * 3, (0.5,) * 3, 'squash', 256, 'center', False)
    assert odd._box_before_resizing(640, 427) is shortest._box_before_resizing(640, 427) is None
    assert even._box_before_resizing(2**24 // 256 + 1, 2) is None
    assert even._box_before_resizing(640, 427) == (40, 427 / 16, 600, 427 * 15 / 16)


@pytest.mark.parametrize('crop', ['center', 'corner'])
def test_a_large_strip_is_cut_whatever_the_limit_of_pillow(tmp_path, monkeypatch, crop):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2001, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'strip.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    process = Preprocess(**{**PLAIN, 'resize': 'shortest', 'crop': crop})
    by_pillow = process.view_file(tmp_path / 'strip.png', 10**6) / 255
    exact = process.view(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    assert np.abs(by_pillow - exact.permute(1, 2, 0).numpy()).max() < 1.1 / 255


@pytest.mark.parametrize('crop', ['center', 'corner'])
@pytest.mark.parametrize('transposed', [False, True])
def test_a_long_strip_is_cut_before_it_is_enlarged(monkeypatch, crop, transposed):
    x = torch.rand(1, 3, 3, 2000)
    x = x.transpose(2, 3) if transposed else x
    options = {'resize': 'shortest', 'resize_size': 32, 'crop': crop}
    whole = TF.resize(x, [32], antialias=True)
    sizes, resize = [], TF.resize
    monkeypatch.setattr(
        TF, 'resize', lambda x, *args, **kw: sizes.append(x.shape) or resize(x, *args, **kw)
    )
    seen = view(x, **options)
    assert [max(size) for size in sizes] == [96]
    assert seen.shape == (1, 3, 32, 32)
    expected = TF.center_crop(whole, 32) if crop == 'center' else whole[..., :32, :32]
    assert (seen - expected).abs().max() < 0.05
