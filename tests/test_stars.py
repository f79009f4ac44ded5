"""Star ratings in XMP, in the forms that programs write."""

import numpy as np
import pytest
from PIL import Image

from pyiqa_amhp.datasets.stars import rating_in_xmp, read_stars
from pyiqa_amhp.errors import AMHPError

HEAD = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
)
FOOT = '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
ATTRIBUTE = (
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:darktable="http://darktable.sf.net/" xmp:Rating="{}" darktable:xmp_version="5"/>'
)
ELEMENT = (
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"/>'
    '<rdf:Description rdf:about="" xmlns:xap="http://ns.adobe.com/xap/1.0/">'
    '<xap:Rating>{}</xap:Rating></rdf:Description>'
)


def xmp(rating, form=ATTRIBUTE):
    return (HEAD + form.format(rating) + FOOT).encode()


def write_image(path, rating=None, form=ATTRIBUTE):
    """Write an image, with a packet if there is a rating."""
    options = {} if rating is None else {'xmp': xmp(rating, form)}
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, **options)
    return path


@pytest.mark.parametrize('form', [ATTRIBUTE, ELEMENT], ids=['attribute', 'element'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_both_forms_are_read_in_each_encoding(form, encoding):
    assert rating_in_xmp(xmp(4, form).decode().encode(encoding), 'a.xmp') == 4


def test_xmp_without_a_rating_has_none():
    assert rating_in_xmp((HEAD + FOOT).encode(), 'a.xmp') is None


@pytest.mark.parametrize('suffix', ['.jpg', '.webp', '.png', '.tif'])
def test_a_rating_in_the_file_itself(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    if suffix == '.png':
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt('XML:com.adobe.xmp', xmp(3).decode())
        Image.new('RGB', (8, 8)).save(path, pnginfo=info)
    elif suffix == '.tif':
        Image.new('RGB', (8, 8)).save(path, tiffinfo={700: xmp(3)})
    else:
        write_image(path, 3)
    assert read_stars([path]).stars == {path: 3}


def test_a_sidecar_wins_over_the_file_and_the_longer_name_over_the_shorter(tmp_path):
    image = write_image(tmp_path / 'a.jpg', 1)
    assert read_stars([image]).stars == {image: 1}
    (tmp_path / 'a.xmp').write_bytes(xmp(2, ELEMENT))
    assert read_stars([image]).stars == {image: 2}
    (tmp_path / 'a.jpg.xmp').write_bytes(xmp(5))
    found = read_stars([image])
    assert found.stars == {image: 5} and found.sidecars == 1


def test_a_sidecar_without_a_rating_leaves_that_of_the_file(tmp_path):
    image = write_image(tmp_path / 'a.jpg', 4)
    (tmp_path / 'a.jpg.xmp').write_bytes((HEAD + FOOT).encode())
    assert read_stars([image]).stars == {image: 4}


def test_unrated_and_rejected_are_counted_and_left_out(tmp_path):
    names = {'a.jpg': 0, 'b.jpg': -1, 'c.jpg': None, 'd.jpg': 2}
    images = [write_image(tmp_path / name, rating) for name, rating in names.items()]
    found = read_stars(images)
    assert (found.unrated, found.rejected, list(found.stars.values())) == (2, 1, [2])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (xmp('seven'), "xmp:Rating 'seven', expected -1, 0, or 1 to 5"),
        (xmp(7), "xmp:Rating '7'"),
        (xmp('nan'), "xmp:Rating 'nan'"),
        (b'<x', 'damaged XMP'),
        (b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>', 'a document type'),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'.encode('utf-16'), 'a document type'),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_file(tmp_path, content, message):
    image = write_image(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg.xmp').write_bytes(content)
    found = read_stars([image])
    assert not found.stars and len(found.problems) == 1
    assert 'a.jpg.xmp' in found.problems[0] and message in found.problems[0]


def test_too_large_xmp_is_refused(monkeypatch):
    monkeypatch.setattr('pyiqa_amhp.datasets.stars.MAX_BYTES', 100)
    with pytest.raises(AMHPError, match='expected 100 at most'):
        rating_in_xmp(xmp(3), 'a.xmp')
