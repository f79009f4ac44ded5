"""Cards, the page and ``amhp explain``: complete, sorted, escaped, and robust to bad files."""

import dataclasses
import html
import json
import re
import sys
import warnings
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import smooth_pixels, write_photos
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.explain import folder, words
from pyiqa_amhp.explain.card import WIDTH, draw_card, relevance_layer
from pyiqa_amhp.explain.explanation import Attribute

HOSTILE = '<b onclick=x>&\'"$a$'
COMMENT = '</p><script>alert(1)</script> "light" & $x$ {{ 7 * 7 }}'


def picture(seed, size=(60, 44)):
    return Image.fromarray(smooth_pixels(*size, seed))


@pytest.fixture
def photos(tmp_path):
    """Three images, one with a hostile name, two whose names differ in case; and a bad file."""
    root = write_photos(tmp_path / 'photos', (f'{HOSTILE}.png', 'a.png', 'sub/A.png'))
    (root / 'bad.jpg').write_text('no image')
    return root


@pytest.fixture
def explained(amhp, photos, tiny_weights, tmp_path):
    """Exit code, standard error and output folder of a run on all of them."""
    quoted = COMMENT.replace('"', '""')
    texts, out = tmp_path / 'texts.csv', tmp_path / 'out'
    texts.write_text(f'img_name,text\na.png,"{quoted}"\n')
    options = ('--texts', texts, '--weights', tiny_weights, '--device', 'cpu', '--out', out)
    code, _, err = amhp('explain', photos, *options)
    return code, err, out


def test_the_folder_has_json_cards_and_a_page(explained):
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
            assert image.width == WIDTH and np.asarray(image.convert('L')).std() > 10
    assert entries[1]['prompt_source'] == 'given'
    assert [word['word'] for word in entries[1]['words']] == COMMENT.split()
    assert not list(out.rglob('.*'))  # no temporary files


def test_the_page_is_sorted_and_escapes_names_and_texts(explained):
    page = (explained[2] / 'index.html').read_text()
    scores = re.findall(r'data-score="([^"]*)"', page)
    assert scores[-1] == '' and len(scores) == 4
    assert list(map(float, scores[:3])) == sorted(map(float, scores[:3]), reverse=True)
    names = re.findall(r'data-name="([^"]*)"', page)
    assert f'{HOSTILE}.png' in map(html.unescape, names)
    assert '<b onclick' not in page and '<script>alert' not in page
    assert len(re.findall('<script', page)) == 1
    marked = re.findall(r'<mark[^>]*title[^>]*>([^<]*)</mark>', page)
    assert [html.unescape(word) for word in marked] == COMMENT.split()


def test_the_page_loads_nothing_from_elsewhere(explained):
    out = explained[2]
    page = (out / 'index.html').read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 3 and all(s.startswith('data:image/jpeg;base64,') for s in sources)
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 3 and not re.search(r'https?:|@import|url\(', page)
    assert all((out / unquote(html.unescape(link))).is_file() for link in links)


def test_the_terminal_shows_score_levels_attributes_and_changes(amhp, photos, tiny_weights):
    options = ('--weights', tiny_weights, '--device', 'cpu', '--text', 'soft [b]x')
    code, out, _ = amhp('explain', photos / 'a.png', *options)
    assert code == 0
    assert 'a.png' in out and 'on a scale from 1 to 10' in out
    assert '[b]x' in out and 'Scored with the given text' in out
    for word in ('perfect', 'bad', 'composition', 'object emphasis', 'one level better'):
        assert word in out
    assert len(re.findall(r'[+−±]\d\.\d\d', out)) >= 12


def test_other_metrics_and_two_sources_of_texts_are_refused(amhp, photos):
    code, _, err = amhp('explain', photos / 'a.png', '--metric', 'niqe', '--device', 'cpu')
    assert code == 1 and 'has no explanations' in err
    code, _, err = amhp('explain', photos, '--text', 'x', '--texts', 'y.csv')
    assert code == 1 and 'not both' in err


@pytest.mark.parametrize(
    'options, text',
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
def test_cards_of_all_models_and_texts_are_drawn(make_amhp, tmp_path, options, text):
    image = picture(1, (30, 90))
    explanation = make_amhp(**options).explain(image, text)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # such as a layout that does not fit
        path = draw_card(tmp_path / 'card.png', HOSTILE * 30, image, explanation)
    with Image.open(path) as card:
        assert card.width == WIDTH and card.height > 600


@pytest.mark.parametrize('size', [(2000, 3), (3, 2000), (1, 1)])
def test_cards_of_all_aspect_ratios_are_drawn(make_amhp, tmp_path, size):
    explanation = make_amhp().explain(picture(0, size))
    path = draw_card(tmp_path / 'card.png', 'x', picture(0, size), explanation)
    with Image.open(path) as card:
        assert card.width == WIDTH


@pytest.fixture
def without_map(make_amhp, tiny):
    """A model whose image encoder has no relevance map."""
    tiny['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
    return make_amhp(backbone=tiny)


def test_a_card_without_a_map_gives_the_photograph_the_whole_width(without_map, tmp_path):
    black = Image.new('RGB', (90, 30))
    explanation = without_map.explain(black)
    assert explanation.relevance is None
    with Image.open(draw_card(tmp_path / 'card.png', 'x', black, explanation)) as card:
        widest = (np.asarray(card.convert('L')) < 10).sum(axis=1).max()
    assert widest == pytest.approx(0.92 * WIDTH, abs=5)


def test_a_page_speaks_of_the_map_only_if_there_is_one(without_map, make_amhp, photos, tmp_path):
    for net, with_map in ((without_map, False), (make_amhp(), True)):
        out = folder.check_output(tmp_path / str(with_map))
        entries = list(folder.explain_files(net, [photos / 'a.png'], [None], out))
        folder.write_folder(out, entries, 'x')
        page = ' '.join((out / 'index.html').read_text().split())
        assert ('where in the image it comes from' in page) == with_map
        assert 'how other words would change the score' in page


def test_the_map_lies_on_the_region_that_the_model_sees(make_amhp):
    explanation = make_amhp().explain(picture(0))
    layer = relevance_layer(explanation, side=100)
    left, top, right, bottom = (round(100 * share) for share in explanation.region)
    assert layer[:top, :, 3].max() == 0 and layer[:, right:, 3].max() == 0
    assert layer[top:bottom, left:right, 3].min() > 0
    largest = np.unravel_index(np.argmax(explanation.relevance), (2, 2))
    half = (bottom - top) // 2
    seen = layer[top:bottom, left:right, 3]
    quarters = [
        [seen[:half, :half].mean(), seen[:half, half:].mean()],
        [seen[half:, :half].mean(), seen[half:, half:].mean()],
    ]
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == largest


def test_names_of_cards_are_unique_and_valid():
    taken = set()
    stems = ['a', 'A', 'a', 'a-2', '../../x', '', 'é' * 200, 'é' * 201, 'a?b', '\udcff']
    names = [folder.card_name(stem, taken) for stem in stems]
    assert names[:4] == ['a.png', 'A-2.png', 'a-3.png', 'a-2-2.png']
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name.encode()) < 140 and Path(name).name == name for name in names)


def test_numbers_have_the_digits_of_the_scale(make_amhp):
    wide, narrow = (make_amhp(dataset=name).explain(picture(0)) for name in ('ava', 'aadb'))
    assert words.format_change(0.1234, wide) == '+0.12'
    assert words.format_change(-0.1234, narrow) == '−0.123'
    assert words.format_change(-0.001, wide) == '±0.00'
    assert words.format_change(None, wide) == '–'


def test_strongest_moves_come_first(make_amhp):
    attributes = (Attribute('light', 'fair', {}, 0.1, -0.3), Attribute('low_noise', 'bad', {}, 0.2))
    explanation = make_amhp().explain(picture(0))
    explanation = dataclasses.replace(explanation, attributes=attributes)
    moves = words.strongest_moves(explanation, 2)
    assert moves == [('light down', -0.3), ('low noise up', 0.2)]
    assert words.largest_move(explanation) == 0.3


def test_an_output_that_cannot_be_written_is_refused_first(amhp, photos, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = amhp('explain', photos, '--weights', 'none.pth', '--out', tmp_path / 'file')
    assert code == 1 and 'file' in err and 'none.pth' not in err


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(AMHPError, match=r'pyiqa-amhp\[demo\]'):
        folder.check_output(tmp_path)


def test_files_are_explained_as_a_call_does(make_amhp, photos):
    net = make_amhp()
    (entry,) = folder.explain_files(net, [photos / 'a.png'], ['light'])
    assert entry.explanation == net.explain(photos / 'a.png', 'light')
    with Image.open(photos / 'a.png') as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    score = net(pixels / 255, 'light').item()
    assert entry.explanation.score == pytest.approx(score, abs=1e-5)
