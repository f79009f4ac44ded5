"""The limit on the pixels of an image: ours takes the place of Pillow's own."""

import io
import threading
import warnings

import pytest
from PIL import Image
from test_images import photo, saved

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import ImageReadError


def test_an_image_with_too_many_pixels_is_reported(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    advice = r'raise the limit \(--max-pixels; in Python and option files max_pixels\)'
    with pytest.raises(ImageReadError, match=f'too large.*{advice}'):
        read_image(saved(photo(), '.png'))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(ImageReadError, match='too large'):
            read_image(saved(photo(), '.png'))


def test_the_limit_on_pixels_does_not_depend_on_pillow(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    width, height = photo().size
    with pytest.raises(ImageReadError, match=f'{width} x {height} are .* pixels, and 10 the limit'):
        read_image(saved(photo(), '.png'), max_pixels=10)
    assert read_image(saved(photo(), '.png'), max_pixels=width * height).size == photo().size
    bomb = saved(Image.new('1', (20_000, 10_000)), '.png')  # 25 kB
    with pytest.raises(ImageReadError, match='178,956,970 the limit'):
        read_image(bomb)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.gif', '.tif', '.bmp', '.webp', '.ppm'])
def test_an_own_limit_on_pixels_takes_the_place_of_pillows(monkeypatch, suffix):
    data, pixels = saved(photo(), suffix), photo().width * photo().height
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image(data, max_pixels=pixels).size == photo().size
    with pytest.raises(ImageReadError, match=rf'{pixels - 1} the limit\); scale it down, or raise'):
        read_image(data, max_pixels=pixels - 1)
    with pytest.raises(Image.DecompressionBombError):  # in other code it is as before
        Image.open(io.BytesIO(data)).load()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_own_limit_does_not_lift_pillows_in_other_threads(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    data, opened, refused = saved(photo(), '.png'), threading.Event(), threading.Event()

    class SlowFile(io.BytesIO):
        def read(self, *args):
            if not opened.is_set():
                opened.set()
                refused.wait(10)
            return super().read(*args)

    def other_code():
        opened.wait(10)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        refused.set()

    thread = threading.Thread(target=other_code)
    thread.start()
    assert read_image(SlowFile(data), max_pixels=10**6).size == photo().size
    thread.join()
    assert refused.is_set()
