"""Reading image files as upright RGB, and finding them in folders and globs."""

import io
import threading

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from pyiqa_amhp.datasets.images import find_images, read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def photo(width=32, height=24):
    """A smooth colour image with a bright top left corner."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([255 - 6 * x, 255 - 8 * y, 60 + x + y], axis=-1)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def saved(image, suffix, **options):
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image).astype(int)


def noisy_jpeg(**options):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), '.jpg', **options)


@pytest.fixture
def keep_pillow_setting():
    """Restore Pillow's setting for truncated images."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES = before


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_of_every_exif_orientation_are_upright(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo().transpose(undo[orientation]) if orientation > 1 else photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(saved(stored, '.png', exif=exif))
    assert image.size == (32, 24)
    np.testing.assert_array_equal(pixels(image), pixels(photo()))


def test_an_image_with_damaged_exif_data_is_read():
    data = saved(photo(), '.jpg', exif=b'Exif\x00\x00II*\x00\xff\xff\xff\x7f')
    assert read_image(data).size == (32, 24)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA'])
def test_alpha_is_composited_over_white(mode, tmp_path):
    if mode == 'PA':
        image = Image.new('P', (2, 1), 0)
        image.putpalette([255, 0, 0])
        image = image.convert('PA')
        image.putalpha(Image.frombytes('L', (2, 1), bytes([0, 255])))
        expected = [WHITE, RED]
        path = tmp_path / 'pa.tif'
        image.save(path)
        result = read_image(path)
    else:
        image = Image.new(mode, (2, 1), (255, 0, 0, 255) if mode == 'RGBA' else (100, 255))
        image.putalpha(Image.frombytes('L', (2, 1), bytes([0, 255])))
        expected = [WHITE, RED if mode == 'RGBA' else (100, 100, 100)]
        result = read_image(saved(image, '.png'))
    assert result.mode == 'RGB'
    assert [result.getpixel((i, 0)) for i in range(2)] == expected


def test_half_transparent_black_is_mid_grey():
    image = read_image(saved(Image.new('RGBA', (1, 1), (0, 0, 0, 128)), '.png'))
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_colour_is_white():
    palette = Image.new('P', (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    for data in (
        saved(palette, '.png', transparency=1),
        saved(palette, '.gif', transparency=1),
        saved(palette.convert('RGB'), '.png', transparency=(0, 255, 0)),
    ):
        image = read_image(data)
        assert [image.getpixel((i, 0)) for i in range(2)] == [RED, WHITE]


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_16_bit_grey_is_scaled_and_not_clipped(suffix):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = read_image(saved(Image.fromarray(values), suffix))
    assert pixels(image)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert image.mode == 'RGB'


@pytest.mark.parametrize(
    ('dtype', 'values', 'expected'),
    [
        (np.int32, [0, 257, 65535], [0, 1, 255]),
        (np.int32, [0, 2**30, 2**31 - 1], [0, 128, 255]),
        (np.int32, [-5, 0, 65535], [0, 0, 255]),
        (np.float32, [0, 0.2, 1], [0, 51, 255]),
        (np.float32, [0, 51, 255], [0, 51, 255]),
        (np.float32, [0, 257, 65535], [0, 1, 255]),
        (np.float32, [0, 1e6, 2e6], [0, 128, 255]),
    ],
)
def test_wide_grey_values_are_scaled(dtype, values, expected):
    image = read_image(saved(Image.fromarray(np.array([values], dtype=dtype)), '.tif'))
    assert pixels(image)[0, :, 0].tolist() == expected


def test_float_pixels_that_are_not_finite_are_reported():
    data = saved(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), '.tif')
    with pytest.raises(ImageReadError, match='NaN'):
        read_image(data)


@pytest.mark.parametrize(
    ('mode', 'suffix'),
    [
        ('1', '.png'),
        ('L', '.png'),
        ('P', '.png'),
        ('CMYK', '.jpg'),
        ('CMYK', '.tif'),
        ('YCbCr', '.tif'),
    ],
)
def test_other_modes_become_rgb(mode, suffix):
    # Pillow 12.3 cannot read YCbCr back that it writes without compression.
    options = {'compression': 'tiff_lzw'} if suffix == '.tif' else {}
    image = read_image(saved(Image.new('RGB', (16, 16), 'white').convert(mode), suffix, **options))
    assert image.mode == 'RGB'
    assert pixels(image).min() > 245
    assert read_image(saved(photo().convert(mode), suffix, **options)).size == (32, 24)


def test_lab_is_converted_to_rgb():
    # whether a and b are signed differs between versions of Pillow, so it makes them itself
    srgb, lab_profile = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
    to_lab = ImageCms.buildTransform(srgb, lab_profile, 'RGB', 'LAB')
    lab = ImageCms.applyTransform(Image.new('RGB', (2, 2), RED), to_lab)
    red = pixels(read_image(saved(lab, '.tif')))[0, 0]
    assert np.abs(red - [255, 0, 0]).max() < 12


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp', '.tif'])
def test_the_first_frame_of_many_is_taken(suffix):
    frames = [Image.new('RGB', (16, 16), color) for color in ('red', 'blue')]
    options = {'lossless': True} if suffix == '.webp' else {}
    data = saved(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert read_image(data).getpixel((0, 0)) == RED


def test_paths_bytes_and_open_files_give_the_same(tmp_path):
    path = tmp_path / 'photo.png'
    photo().save(path)
    with open(path, 'rb') as file:
        images = [read_image(path), read_image(str(path)), read_image(path.read_bytes())]
        file.seek(5)
        images.append(read_image(file))
        assert not file.closed
    for image in images:
        np.testing.assert_array_equal(pixels(image), pixels(photo()))


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_an_image_that_was_read_needs_neither_its_file_nor_its_type(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    Image.effect_noise((32, 24), 90).convert('RGB').save(path)
    pixels = np.asarray(Image.open(path))
    image = read_image(path)
    path.write_bytes(b'')
    path.unlink()
    assert type(image) is Image.Image and image.info == {}
    assert np.array_equal(np.asarray(image), pixels)
    image.paste('red', (0, 0, 8, 8))
    assert np.array_equal(np.asarray(image)[8:], pixels[8:])
    assert np.asarray(image)[0, 0].tolist() == [255, 0, 0]


def test_the_pixels_of_a_callers_image_are_copied():
    source = Image.new('RGB', (8, 8), 'blue')
    read_image(source).paste('red', (0, 0, 8, 8))
    assert source.getpixel((0, 0)) == (0, 0, 255)


def test_another_type_of_source_is_a_type_error():
    with pytest.raises(TypeError, match='got int'):
        read_image(3)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'L', 'CMYK', '1', 'I;16', 'I', 'F', 'YCbCr'])
def test_a_pillow_image_of_any_mode_is_read_as_its_file(mode):
    if mode in ('I;16', 'I', 'F'):
        types = {'I;16': np.uint16, 'I': np.int32, 'F': np.float32}
        image = Image.fromarray((pixels(photo().convert('L')) * 257).astype(types[mode]))
    else:
        image = photo().convert(mode)
    if mode in ('RGBA', 'LA'):
        image.putalpha(Image.linear_gradient('L').resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(image, '.tif', exif=exif, compression='tiff_lzw')
    expected = read_image(data)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels(read_image(opened)), pixels(expected))
    image.info['exif'] = exif.tobytes()
    before = image.mode, dict(image.info), image.tobytes()
    rounding = 1 if mode == 'YCbCr' else 0  # libtiff converts it by its own rule
    assert np.abs(pixels(read_image(image)) - pixels(expected)).max() <= rounding
    assert (image.mode, dict(image.info), image.tobytes()) == before


def test_a_pillow_image_that_cannot_be_read_is_reported(tmp_path):
    path = tmp_path / 'half.jpg'
    path.write_bytes(noisy_jpeg()[:-200])
    with Image.open(path) as image, pytest.raises(ImageReadError, match=r'half\.jpg.*truncated'):
        read_image(image)
    with pytest.raises(ImageReadError, match='<image of 32 x 24>: too large'):
        read_image(photo(), max_pixels=10)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (None, 'no such file; check the path'),
        (b'', 'the file is empty'),
        (b'hello, this is not an image', 'not an image that Pillow can read'),
        (noisy_jpeg()[:-200], 'truncated'),
        (noisy_jpeg(progressive=True)[:-2000], 'truncated'),
        (noisy_jpeg()[:300], 'damaged or truncated|not an image'),
        (saved(photo(), '.png')[:-40], 'truncated'),
        (saved(photo(), '.bmp')[:-100], 'truncated'),
        (saved(photo(), '.webp')[:-20], 'damaged or truncated|not an image'),
    ],
)
@pytest.mark.parametrize('tolerant', [False, True])
def test_an_unreadable_file_is_reported_whatever_the_setting_of_pillow(
    content, reason, tolerant, tmp_path, keep_pillow_setting
):
    ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    path = tmp_path / 'photo.img'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


def test_empty_bytes_and_a_folder_are_reported(tmp_path):
    with pytest.raises(ImageReadError, match='<0 bytes>: the file is empty'):
        read_image(b'')
    with pytest.raises(ImageReadError, match='a folder'):
        read_image(tmp_path)


@pytest.mark.parametrize('size', [(1, 1), (20_000, 3), (3, 20_000)])
def test_images_of_extreme_shapes_are_read(size):
    assert read_image(saved(Image.new('RGB', size), '.png')).size == size


def test_readers_in_threads_restore_the_setting_of_pillow(keep_pillow_setting):
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    good, bad = noisy_jpeg(), noisy_jpeg()[:-200]
    outcomes = []

    def work():
        for data in [good, bad] * 20:
            try:
                read_image(data)
                outcomes.append(data is good)
            except ImageReadError:
                outcomes.append(data is bad)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 160
    assert all(outcomes)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ('b.JPG', 'a.png', 'notes.txt', '.hidden.png', 'sub/c.webp', 'sub/deep/d.tiff'):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths):
    return [path.as_posix() for path in paths]


ALL = ['photos/a.png', 'photos/b.JPG', 'photos/sub/c.webp', 'photos/sub/deep/d.tiff']


def test_a_folder_is_searched_to_any_depth_in_sorted_order(tree):
    assert names(find_images(['photos'])) == ALL
    assert names(find_images('photos')) == ALL


def test_globs_are_expanded(tree):
    assert names(find_images(['photos/*.png'])) == ['photos/a.png']
    assert names(find_images(['photos/**/*.*'])) == ALL
    assert names(find_images(['photos/**'])) == ALL
    assert names(find_images(['photos/s*'])) == ALL[2:]


def test_order_is_kept_and_each_file_comes_once(tree):
    given = ['photos/sub/c.webp', 'photos', './photos/a.png', str(tree / 'photos/b.JPG')]
    assert names(find_images(given)) == [ALL[2], ALL[0], ALL[1], ALL[3]]


def test_a_file_that_is_given_is_kept_even_if_missing_or_no_image(tree):
    given = ['missing.jpg', 'photos/notes.txt']
    assert names(find_images(given)) == given


def test_a_name_with_brackets_is_a_file_if_there_is_one(tree):
    (tree / 'photo[1].jpg').touch()
    assert names(find_images(['photo[1].jpg'])) == ['photo[1].jpg']


@pytest.mark.parametrize('path', ['empty', '*.png', 'photos/*.txt'])
def test_a_folder_or_glob_without_images_is_an_error(tree, path):
    with pytest.raises(AMHPError, match='no images in this'):
        find_images([path])


def test_a_link_to_a_parent_folder_is_followed_once(tree):
    (tree / 'photos' / 'loop').symlink_to(tree / 'photos', target_is_directory=True)
    assert names(find_images(['photos'])) == ALL


# Decoding at a fraction of the size


@pytest.mark.parametrize(
    ('size', 'at_least', 'expected'),
    [
        ((800, 640), None, (800, 640)),
        ((800, 640), 641, (800, 640)),
        ((800, 640), 330, (800, 640)),
        ((800, 640), 320, (400, 320)),
        ((800, 640), 100, (200, 160)),
        ((801, 643), 80, (101, 81)),
        ((800, 640), 1, (100, 80)),
        ((5000, 100), 60, (5000, 100)),
    ],
)
def test_a_jpeg_is_decoded_smaller_if_enough_pixels_remain(size, at_least, expected):
    assert read_image(saved(Image.new('RGB', size), '.jpg'), at_least).size == expected


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tiff', '.gif'])
def test_other_formats_keep_their_size(suffix):
    assert read_image(saved(Image.new('RGB', (800, 640)), suffix), 80).size == (800, 640)


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_jpegs_of_other_modes_are_decoded_smaller_too(mode):
    image = read_image(saved(Image.new(mode, (800, 640), 'white'), '.jpg'), 160)
    assert image.size == (200, 160) and image.mode == 'RGB'


def test_a_jpeg_that_is_decoded_smaller_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert read_image(saved(Image.new('RGB', (800, 640)), '.jpg', exif=exif), 160).size == (
        160,
        200,
    )


def test_a_truncated_jpeg_that_is_decoded_smaller_is_reported():
    whole = saved(Image.effect_noise((800, 640), 90), '.jpg')
    with pytest.raises(ImageReadError, match='truncated'):
        read_image(whole[: len(whole) // 2], 160)
