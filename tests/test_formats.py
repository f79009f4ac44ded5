"""HEIC and raw files: what is read, and what is said where a package is missing."""

import io

import numpy as np
import pytest
from PIL import Image
from raw_files import write_dng

from pyiqa_amhp.datasets import formats
from pyiqa_amhp.datasets.images import find_images, read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError

RED = (0.9, 0.1, 0.1)


def jpeg(colour, size):
    buffer = io.BytesIO()
    Image.new('RGB', size, colour).save(buffer, 'JPEG')
    return buffer.getvalue()


@pytest.fixture
def without(monkeypatch):
    """A function that makes an extra's package look as if it were not installed."""

    def without(extra):
        installed = formats.has_extra
        monkeypatch.setattr(formats, 'has_extra', lambda e: e != extra and installed(e))
        from pyiqa_amhp.datasets import images

        monkeypatch.setattr(images, 'has_extra', formats.has_extra)

    return without


def test_heic_files_are_read(tmp_path):
    import pillow_heif

    x = np.zeros((40, 60, 3), np.uint8)
    x[:20, :, 0] = 250  # red above, blue below
    x[20:, :, 2] = 250
    pillow_heif.from_pillow(Image.fromarray(x)).save(tmp_path / 'a.heic', quality=95)
    image = read_image(tmp_path / 'a.heic')
    assert image.size == (60, 40) and image.mode == 'RGB'
    above, below = np.asarray(image)[5, 30], np.asarray(image)[35, 30]
    assert above[0] > 200 > 60 > above[2] and below[2] > 200 > 60 > below[0]
    assert read_image((tmp_path / 'a.heic').read_bytes()).size == (60, 40)
    assert find_images([tmp_path]) == [tmp_path / 'a.heic']


@pytest.mark.parametrize(('flip', 'size'), [(1, (96, 64)), (6, (64, 96)), (3, (96, 64))])
def test_raw_files_without_a_preview_are_developed_upright(tmp_path, flip, size):
    image = read_image(write_dng(tmp_path / 'a.dng', RED, flip=flip))
    assert image.size == size and image.mode == 'RGB'
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(0)
    assert red > 2 * green and red > 2 * blue
    assert find_images([tmp_path]) == [tmp_path / 'a.dng']


@pytest.mark.parametrize(('flip', 'size'), [(1, (1200, 800)), (6, (800, 1200)), (3, (1200, 800))])
def test_the_preview_of_a_raw_file_is_taken_if_it_is_large(tmp_path, flip, size):
    preview = (jpeg((10, 220, 10), (1200, 800)), 1200, 800)
    path = write_dng(tmp_path / 'a.DNG', RED, flip=flip, preview=preview)
    image = read_image(path)
    assert image.size == size
    assert np.asarray(image)[5, 5].tolist() == pytest.approx([10, 220, 10], abs=8)


def test_a_small_preview_is_not_taken_whatever_the_name(tmp_path):
    preview = (jpeg((10, 220, 10), (160, 120)), 160, 120)
    path = write_dng(tmp_path / 'a.dng', RED, preview=preview)
    renamed = tmp_path / 'a.tif'
    renamed.write_bytes(path.read_bytes())
    for source in (path, renamed, path.read_bytes()):
        image = read_image(source)
        assert image.size == (96, 64)
        assert np.asarray(image)[5, 5, 0] > np.asarray(image)[5, 5, 1]


def test_the_limit_on_pixels_holds_for_them(tmp_path):
    with pytest.raises(ImageReadError, match='too large'):
        read_image(write_dng(tmp_path / 'a.dng', RED), max_pixels=1000)


@pytest.mark.parametrize('name', ['a.heic', 'a.nef'])
def test_a_damaged_file_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b'damaged' * 100)
    with pytest.raises(ImageReadError, match=f'{name}: '):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ('extra', 'what', 'suffix'), [('heif', 'HEIC', 'HEIC'), ('raw', 'raw', 'nef')]
)
def test_without_its_package_files_are_counted_and_never_silently_left_out(
    tmp_path, without, caplog, extra, what, suffix
):
    without(extra)
    for i in range(3):
        (tmp_path / f'{i}.{suffix}').write_bytes(b'x')
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    assert find_images([tmp_path]) == [tmp_path / 'a.png']
    [record] = caplog.records
    assert record.getMessage() == (
        f"3 {what} files were skipped: pip install 'pyiqa-amhp[{extra}]' reads them"
    )
    with pytest.raises(ImageReadError, match=rf'0.{suffix}: .*pyiqa-amhp\[{extra}\]'):
        read_image(tmp_path / f'0.{suffix}')  # given by its name it is an error, not skipped
    (tmp_path / 'a.png').unlink()
    caplog.clear()
    with pytest.raises(AMHPError, match='no images in this folder'):
        find_images([tmp_path])
    assert '3 ' in caplog.records[0].getMessage()


def test_folders_of_other_programs_are_left_out_and_counted(tmp_path, caplog):
    for name in ('@eaDir', '__MACOSX', '.thumbnails', 'mine'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / name / 'a.png')
    assert find_images([tmp_path]) == [tmp_path / 'mine' / 'a.png']
    assert caplog.records[0].getMessage().startswith("2 folders of other programs' thumbnails")
