"""Cards, the page and the command: complete, sorted, escaped, and whole where a file is bad."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_photos
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.explain import folder, words
from pyiqa_amhp.explain.canvas import fitted, flowed, text_width, wrapped
from pyiqa_amhp.explain.card import WIDTH, draw_card, relevance_layer
from pyiqa_amhp.explain.explanation import Attribute
from pyiqa_amhp.weights.checkpoint import save_checkpoint

HOSTILE = '<b onclick=x>&\'"$a$'
SPOKEN = '</p><script>alert(1)</script> "light" & $x$ {{ 7 * 7 }}'


def picture(seed, size=(60, 44)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels // (1 + seed % 3))


@pytest.fixture
def gallery(tmp_path):
    """Three photographs, one with a hostile name and two with one name, and a file that is none."""
    folder = write_photos(tmp_path / 'photos', [f'{HOSTILE}.png', 'a.png', 'sub/A.png'])
    (folder / 'bad.jpg').write_text('no image')
    return folder


@pytest.fixture
def weights(make_amhp, tmp_path):
    """A checkpoint of a tiny model that texts move."""
    return save_checkpoint(tmp_path / 'tiny.pth', make_amhp().state_dict())


@pytest.fixture
def texts(tmp_path):
    csv = tmp_path / 'texts.csv'
    quoted = SPOKEN.replace('"', '""')
    csv.write_text(f'img_name,text\na.png,"{quoted}"\n')
    return csv


@pytest.fixture
def explained(amhp, gallery, weights, texts, tmp_path):
    """Exit code, standard error and folder of a run on all of them."""
    out = tmp_path / 'out'
    code, _, err = amhp(
        'explain',
        gallery,
        '--texts',
        texts,
        '--weights',
        weights,
        '--device',
        'cpu',
        '--out',
        out,
    )
    return code, err, out


def test_a_folder_has_json_cards_and_a_page(explained, gallery):
    code, err, out = explained
    assert code == 1 and 'bad.jpg: not an image' in err
    entries = json.loads((out / 'explanations.json').read_text())
    assert [Path(entry['path']).name for entry in entries] == [
        f'{HOSTILE}.png', 'a.png', 'bad.jpg', 'A.png'
    ]  # fmt: skip
    assert entries[2].keys() == {'path', 'error'}
    cards = [entry['card'] for entry in entries if 'card' in entry]
    assert len({card.lower() for card in cards}) == 3
    for card in cards:
        with Image.open(out / card) as image:
            image.load()
            assert image.width == WIDTH and np.asarray(image.convert('L')).std() > 10
    assert entries[1]['prompt_source'] == 'given'
    assert [word['word'] for word in entries[1]['words']] == SPOKEN.split()
    assert not list(out.rglob('.*'))  # nothing half written


def test_the_page_is_sorted_and_whatever_names_and_texts_say_is_only_text(explained):
    page = (explained[2] / 'index.html').read_text()
    scores = re.findall(r'data-score="([^"]*)"', page)
    assert scores[-1] == '' and len(scores) == 4
    assert list(map(float, scores[:3])) == sorted(map(float, scores[:3]), reverse=True)
    names = re.findall(r'data-name="([^"]*)"', page)
    assert f'{HOSTILE}.png' in map(html.unescape, names)
    assert '<b onclick' not in page and '<script>alert' not in page and '49' not in names
    assert len(re.findall('<script', page)) == 1
    shown = re.findall(r'<mark[^>]*title[^>]*>([^<]*)</mark>', page)
    assert [html.unescape(word) for word in shown] == SPOKEN.split()


def test_the_page_needs_nothing_from_outside(explained):
    out = explained[2]
    page = (out / 'index.html').read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 3 and all(s.startswith('data:image/jpeg;base64,') for s in sources)
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 3 and not re.search(r'https?:|@import|url\(', page)
    from urllib.parse import unquote

    assert all((out / unquote(html.unescape(link))).is_file() for link in links)


def test_the_terminal_card_says_it_all(amhp, gallery, weights):
    code, out, _ = amhp(
        'explain',
        gallery / 'a.png',
        '--weights',
        weights,
        '--device',
        'cpu',
        '--text',
        'soft [b]x',
    )
    assert code == 0
    assert 'a.png' in out and 'on a scale from 1 to 10' in out
    assert '[b]x' in out and 'text that was given' in out
    for word in ('perfect', 'bad', 'composition', 'object emphasis', 'said one better'):
        assert word in out
    assert len(re.findall(r'[+−±]\d\.\d\d', out)) >= 12


def test_metrics_that_cannot_explain_themselves_are_refused(amhp, gallery):
    code, _, err = amhp('explain', gallery / 'a.png', '--metric', 'niqe', '--device', 'cpu')
    assert code == 1 and 'cannot explain itself' in err
    code, _, err = amhp('explain', gallery, '--text', 'x', '--texts', 'y.csv')
    assert code == 1 and 'not both' in err


@pytest.mark.parametrize(
    'options, said',
    [
        ({}, 'lovely light ' * 60),
        ({'variant': 'image'}, None),
        ({'predictor': 'levels'}, None),
        ({'predictor': 'feature'}, None),
        ({'predictor': 'levels', 'predicted_text': 'expectation'}, None),
        ({'attributes': [f'{HOSTILE} of a long name {i}' for i in range(9)]}, 'x' * 300),
        ({'levels': ['no', 'yes'], 'level_values': [0, 1]}, '日本語'),
    ],
)
@pytest.mark.filterwarnings('error')
def test_a_card_of_any_model_and_text_can_be_drawn(make_amhp, tmp_path, options, said):
    image = picture(1, (30, 90))
    found = make_amhp(**options).explain(image, said)
    path = draw_card(tmp_path / 'card.png', HOSTILE * 30, image, found)
    with Image.open(path) as card:
        assert card.width == WIDTH and card.height > 600


@pytest.mark.parametrize('size', [(2000, 3), (3, 2000), (1, 1)])
def test_a_card_of_a_strange_format_can_be_drawn(make_amhp, tmp_path, size):
    found = make_amhp().explain(picture(0, size))
    with Image.open(draw_card(tmp_path / 'card.png', 'x', picture(0, size), found)) as card:
        assert card.width == WIDTH


def test_a_card_without_a_map(make_amhp, tiny, tmp_path):
    tiny['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
    found = make_amhp(backbone=tiny).explain(picture(0))
    assert draw_card(tmp_path / 'card.png', 'x', picture(0), found).stat().st_size > 10_000


def test_the_map_lies_where_the_model_looks(make_amhp):
    found = make_amhp().explain(picture(0))
    layer = relevance_layer(found, side=100)
    left, top, right, bottom = (round(100 * share) for share in found.region)
    assert layer[:top, :, 3].max() == 0 and layer[:, right:, 3].max() == 0
    assert layer[top:bottom, left:right, 3].min() > 0
    place = np.unravel_index(np.argmax(found.relevance), (2, 2))
    half = (bottom - top) // 2
    seen = layer[top:bottom, left:right, 3]
    quarters = [
        [seen[:half, :half].mean(), seen[:half, half:].mean()],
        [seen[half:, :half].mean(), seen[half:, half:].mean()],
    ]
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == place


def test_cards_are_named_after_images_and_never_collide():
    taken = set()
    stems = ['a', 'A', 'a', 'a-2', '../../x', '', 'é' * 200, 'é' * 201, 'a?b', '\udcff']
    names = [folder.card_name(stem, taken) for stem in stems]
    assert names[:4] == ['a.png', 'A-2.png', 'a-3.png', 'a-2-2.png']
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name.encode()) < 140 and Path(name).name == name for name in names)


def test_numbers_have_the_digits_of_the_scale(make_amhp):
    wide, narrow = (make_amhp(dataset=name).explain(picture(0)) for name in ('ava', 'aadb'))
    assert words.signed(0.1234, wide) == '+0.12' and words.signed(-0.1234, narrow) == '−0.123'
    assert words.signed(-0.001, wide) == '±0.00' and words.signed(None, wide) == '–'


def test_strongest_moves_come_first(make_amhp):
    from dataclasses import replace

    attributes = (Attribute('light', 'fair', {}, 0.1, -0.3), Attribute('low_noise', 'bad', {}, 0.2))
    found = replace(make_amhp().explain(picture(0)), attributes=attributes)
    assert words.strongest_moves(found, 2) == [('light down', -0.3), ('low noise up', 0.2)]
    assert words.largest_move(found) == 0.3


def test_lines_fit():
    text = 'a few words that take more than one line of this width ' * 3
    lines = flowed(text.split(), 12, 200)
    assert [word for line in lines for word in line] == text.split()
    assert all(text_width(' '.join(line), 12) <= 200 for line in lines)
    assert text_width(fitted('x' * 500, 12, 200), 12) <= 200
    assert len(wrapped(text, 12, 200, 2)) == 2


def test_unwritable_output_is_said_before_anything_is_computed(amhp, gallery, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = amhp('explain', gallery, '--weights', 'none.pth', '--out', tmp_path / 'file')
    assert code == 1 and 'file' in err and 'none.pth' not in err


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__('sys').modules, 'matplotlib', None)
    with pytest.raises(AMHPError, match=r'pyiqa-amhp\[demo\]'):
        folder.check_output(tmp_path)


def test_files_are_explained_as_a_call_does(make_amhp, gallery):
    net = make_amhp()
    (entry,) = folder.explain_files(net, [gallery / 'a.png'], ['light'])
    assert entry.found == net.explain(gallery / 'a.png', 'light')
    pixels = torch.from_numpy(np.array(Image.open(gallery / 'a.png')))  # (H, W, 3)
    assert entry.found.score == pytest.approx(
        net(pixels.permute(2, 0, 1)[None] / 255, 'light').item(),
        abs=1e-5,
    )
