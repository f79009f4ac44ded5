"""A folder in which 2% of the files are bad, in many different ways."""

import io
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import ImageReadError
from pyiqa_amhp.weights.checkpoint import save_checkpoint

GOOD = 539


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Build a PNG of 8-bit grey with any size in its header."""
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    data = b'\x89PNG\r\n\x1a\n'
    for name, body in ((b'IHDR', header), *chunks, (b'IEND', b'')):
        data += struct.pack('>I', len(body)) + name + body
        data += struct.pack('>I', zlib.crc32(name + body))
    return data


def long_text() -> bytes:
    """Build a PNG with 200 MB of text in 200 kB."""
    return png(1, 1, (b'zTXt', b'a\0\0' + zlib.compress(bytes(200_000_000), 9)))


def wide_frame() -> bytes:
    """Build a GIF of one pixel, whose first frame has 4 thousand million."""
    return b'GIF89a\1\0\1\0\x80\0\0' + bytes(6) + b',\0\0\0\0\xff\xff\xff\xff\0' + b'\2\2L\1\0;'


def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(noise)


BAD = {
    'truncated': lambda: encode(photo(), 'JPEG')[:-200],
    'empty': lambda: b'',
    'text': lambda: b'not an image',
    'bomb': lambda: encode(Image.new('1', (20_000, 10_000)), 'PNG'),
    'header of 60,000 x 60,000': lambda: png(60_000, 60_000, (b'IDAT', zlib.compress(b'\0\0'))),
    'long text': long_text,
    'wide frame': wide_frame,
    'program': lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n',
    'ICO': lambda: encode(photo().resize((16, 16)), 'ICO'),
    'TIFF': lambda: encode(photo(), 'TIFF')[:300],
    'WebP': lambda: encode(photo(), 'WEBP', lossless=True)[:-100],
}  # together with a broken link, one for fifty of GOOD


@pytest.mark.parametrize('kind', BAD)
def test_the_error_of_a_bad_image_names_the_problem(kind, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)  # as some programs set it
    expected = {
        'empty': 'the file is empty',
        'bomb': 'too large',
        'header of 60,000 x 60,000': 'too large',
        'wide frame': 'too large',
        **dict.fromkeys(('text', 'program', 'ICO'), 'not an image that Pillow can read'),
    }
    with pytest.raises(ImageReadError, match=expected.get(kind, 'damaged or truncated')):
        read_image(BAD[kind]())


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A folder of good images, and one of the same with bad images among them."""
    good, mixed = (tmp_path_factory.mktemp(name) for name in ('good', 'mixed'))
    noise = np.random.default_rng(1).integers(0, 256, (GOOD, 16, 16, 3), np.uint8)
    shapes = {0: (1, 1), 1: (20_000, 3), 2: (3, 20_000)}
    for number, pixels in enumerate(noise):
        image = Image.fromarray(pixels)
        data = encode(image.resize(shapes.get(number, image.size)), 'PNG')
        for folder in (good, mixed):
            (folder / f'{number:03}.png').write_bytes(data)
    for number, make in enumerate(BAD.values()):
        (mixed / f'{49 * number:03}-bad.jpg').write_bytes(make())
    (mixed / '200-bad.jpg').symlink_to('nowhere')
    return good, mixed


@pytest.mark.parametrize('exact', [[], ['--exact']])
def test_bad_images_change_nothing_for_the_good_ones(exact, folders, amhp, make_amhp, tmp_path):
    weights = save_checkpoint(tmp_path / 'net.pth', make_amhp(seed=3).state_dict())
    tables, codes = [], []
    for name, folder in zip(('good', 'mixed'), folders, strict=True):
        out = tmp_path / f'{name}.csv'
        options = ['--weights', str(weights), '--device', 'cpu', '--out', str(out), *exact]
        code, _, message = amhp('score', str(folder), *options)
        tables.append(pd.read_csv(out, keep_default_na=False).set_index('path'))
        tables[-1].index = [path.rpartition('/')[2] for path in tables[-1].index]
        codes.append(code)
    good, mixed = tables
    bad = mixed[mixed.error != '']
    assert codes == [0, 1] and len(good) == GOOD and len(mixed) == GOOD + 12
    assert '12 of 551 images could not be scored' in message and '000-bad.jpg' in message
    assert [name[4:] for name in bad.index] == ['bad.jpg'] * 12
    assert all(name in error for name, error in bad.error.items()) and {*bad.score} == {''}
    scores = [table.score.astype(float) for table in (good, mixed[mixed.error == ''])]
    pd.testing.assert_series_equal(*scores, rtol=0, atol=1e-5)


def test_the_limit_on_pixels_is_an_option(folders, amhp, make_amhp, tmp_path):
    weights = save_checkpoint(tmp_path / 'net.pth', make_amhp().state_dict())
    options = ['--weights', str(weights), '--device', 'cpu', '--max-pixels', '256']
    files = [str(folders[0] / f'{number:03}.png') for number in (1, 3)]
    code, out, message = amhp('score', *files, *options)
    assert code == 1 and '1 of 2 images could not be scored' in message
    assert '20000 x 3 are 60,000 pixels, and 256 the limit' in ' '.join((message + out).split())
