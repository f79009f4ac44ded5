"""The demo's report and card: complete, self-contained, and safe with any text."""

import base64
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pyiqa_amhp.demo.report import (
    CARD_COLUMN,
    METRIC_COLUMNS,
    Example,
    ModelResult,
    Report,
    smooth,
    write_card,
    write_report,
)
from pyiqa_amhp.errors import AMHPError

LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
FULL = {
    'acc': 0.911, 'srcc': 0.922, 'plcc': 0.933, 'krcc': 0.744,
    'mse': 0.355, 'emd1': 0.066, 'emd2': 0.077,
}  # fmt: skip
IMAGE = {
    'acc': 0.511, 'srcc': -0.522, 'plcc': 0.533, 'krcc': 0.544,
    'mse': 2.555, 'emd1': 0.166, 'emd2': 0.177,
}  # fmt: skip


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('report') / 'photo.jpg'
    Image.new('RGB', (40, 30), 'orange').save(path)
    return path


@pytest.fixture(scope='module')
def example(photo):
    return Example(
        image=photo,
        text='lovely light',
        rated=6.25,
        predicted=7.75,
        rated_dist=[0.0, 0.1, 0.4, 0.3, 0.2],
        predicted_dist=[0.05, 0.05, 0.2, 0.5, 0.2],
        caption='The most liked',
    )


@pytest.fixture(scope='module')
def report(example):
    rng = np.random.default_rng(0)

    def model(title, metrics):
        return ModelResult(
            title=title,
            metrics=metrics,
            predicted=rng.uniform(2, 9, 20),
            rated=rng.uniform(2, 9, 20),
            losses=[(10 * i, 0.3 / (i + 1)) for i in range(12)],
            validation=[(40, 0.5), (80, 0.7)],
        )

    return Report(
        models={'full': model('image and text', FULL), 'image': model('image only', IMAGE)},
        examples=[example, replace(example, text='', caption='Nobody commented')],
        levels=LEVELS,
        splits={'train': 1001, 'val': 122, 'test': 303},
        sources={'train': 5, 'val': 1, 'test': 2},
        comments={'attribute': 250, 'praise': 31, 'none': 22},
        seed=17,
        seconds=98.7,
        encoder='a small CLIP',
        note='Simulated raters.',
    )


@pytest.fixture(scope='module')
def html(report, tmp_path_factory):
    """The page for ``report``."""
    path = write_report(tmp_path_factory.mktemp('html') / 'report.html', report)
    return path.read_text(encoding='utf-8')


@pytest.fixture
def page(report, tmp_path):
    """Write the page for ``report`` with other values."""

    def write(**changes):
        path = write_report(tmp_path / 'report.html', replace(report, **changes))
        return path.read_text(encoding='utf-8')

    return write


class Outline(HTMLParser):
    """Parser that collects open tags, attributes and texts of a page."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.words, self.tags = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ('meta', 'img', 'link', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and 'style' not in self.open:
            self.words.append(' '.join(data.split()))


def sources(html):
    return [v for _, name, v in Outline(html).attributes if name in ('src', 'href', 'srcset')]


def svgs(html):
    """Decode the SVG figures embedded in the page."""
    start = 'data:image/svg+xml;base64,'
    return [
        base64.b64decode(uri.removeprefix(start)).decode()
        for uri in sources(html)
        if uri.startswith(start)
    ]


def test_the_page_refers_to_no_other_file(html):
    assert len(sources(html)) == 2 + 2 + 2  # curves, scatters, examples
    assert all(uri.startswith('data:image/') for uri in sources(html))
    outside = re.sub(r'data:[^"]*', '', html)
    for loader in ('http:', 'https:', '//', 'url(', '@import', '<script', '<link', '<iframe'):
        assert loader not in outside


def test_the_figures_refer_to_no_other_file(html):
    drawings = svgs(html)
    assert len(drawings) == 4
    for drawing in drawings:
        links = re.findall(r'(?:href|src)="([^"]*)"', drawing)
        assert all(link.startswith(('#', 'data:')) for link in links)
        assert not re.search(r'url\((?!#)', drawing)


def test_every_element_is_closed(html):
    assert Outline(html).open == []


def test_the_images_are_embedded(html, photo):
    embedded = 'data:image/jpeg;base64,' + base64.b64encode(photo.read_bytes()).decode()
    assert sources(html).count(embedded) == 2


def test_the_page_shows_every_metric_of_every_model(html):
    words = Outline(html).words
    for key, title, higher_better in METRIC_COLUMNS:
        assert f'{title} {"↑" if higher_better else "↓"}' in words
        for metrics in (FULL, IMAGE):
            assert f'{metrics[key]:.3f}' in words


def test_the_better_value_is_bold(html):
    bold = re.findall(r'<td class="number best">([^<]*)</td>', html)
    assert bold == [f'{FULL[key]:.3f}' for key, _, _ in METRIC_COLUMNS]
    usual = re.findall(r'<td class="number">([^<]*)</td>', html)
    assert usual == [f'{IMAGE[key]:.3f}' for key, _, _ in METRIC_COLUMNS]


def test_the_page_states_data_seed_and_duration(html):
    text = ' '.join(Outline(html).words)
    for words in (
        'tested on 303 images cut from 2 photographs',
        'Trained on 1001 images of 5 photographs',
        'chosen on 122 images of 1 other photograph.',
        '250 have a comment about their qualities, 31 only empty praise, and 22 no comment',
        'simulated',
        'Seed 17 · 99 seconds',
    ):
        assert words in text


def test_the_page_and_its_end_say_the_note_and_the_page_the_encoders(html):
    words = ' '.join(Outline(html).words)
    assert words.count('Simulated raters.') == 2 and 'Encoders: a small CLIP.' in words


def test_the_card_has_a_line_for_the_note(example, tmp_path):
    plain, noted = (
        Image.open(write_card(tmp_path / f'{note}.png', [example], LEVELS, note))
        for note in ('', 'Simulated raters.')
    )
    assert noted.height == plain.height + 40
    line = np.asarray(noted.convert('L'))[-40:]
    assert line.min() < 150


def test_the_page_shows_caption_comment_and_scores_of_the_examples(html):
    words = Outline(html).words
    for expected in ('The most liked', '“lovely light”', '6.25', '7.75', 'Nobody commented'):
        assert expected in words
    assert words.count('no comment') == 1


def test_bar_heights_are_relative_to_the_largest_share(html):
    heights = re.findall(r'class="(rated|predicted)-fill" style="height: ([\d.]+)%"', html)
    one = [('rated', 0), ('predicted', 10), ('rated', 20), ('predicted', 10), ('rated', 80)]
    one += [('predicted', 40), ('rated', 60), ('predicted', 100), ('rated', 40), ('predicted', 40)]
    assert [(kind, float(height)) for kind, height in heights] == one * 2


@pytest.mark.parametrize('field', ['text', 'caption'])
def test_html_in_texts_is_shown_and_not_run(page, example, field):
    evil = '<script>alert("x")</script> & <img src=x onerror=\'y\'>'
    html = page(examples=[replace(example, **{field: evil})])
    assert 'script' not in Outline(html).tags
    assert evil in ' '.join(Outline(html).words)
    assert len(sources(html)) == 5


def test_html_in_names_is_shown_and_not_run(page, example, report, tmp_path):
    image = tmp_path / '"><script>.png'
    Image.new('RGB', (4, 4)).save(image)
    html = page(
        examples=[replace(example, image=image)],
        models={'<script>a': replace(report.models['full'], title='<script>b')},
        levels=('<script>', *LEVELS[1:]),
    )
    assert 'script' not in Outline(html).tags


def test_any_number_of_levels_is_shown(page, example):
    changed = replace(example, rated_dist=[0.5, 0.3, 0.2], predicted_dist=[0.2, 0.2, 0.6])
    html = page(examples=[changed], levels=('low', 'so-so', 'high'))
    assert {'low', 'so-so', 'high'} <= set(Outline(html).words)
    assert html.count('class="pair"') == 3


def test_a_page_without_models_and_examples_is_valid(page):
    html = page(models={}, examples=[])
    assert Outline(html).open == []
    assert len(sources(html)) == 2


def test_same_report_gives_the_same_page(page, html):
    assert page() == html


def test_the_curves_depend_on_the_models(page, html, report):
    longer = replace(report.models['full'], validation=[(40, 0.5), (80, 0.7), (120, 0.9)])
    before, after = svgs(html), svgs(page(models=report.models | {'full': longer}))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_matplotlibs_settings_are_unchanged_after_drawing(page):
    import matplotlib

    before = json.dumps(dict(matplotlib.rcParams), default=str)
    page()
    assert json.dumps(dict(matplotlib.rcParams), default=str) == before


def test_smooth_is_a_running_mean_of_the_same_length():
    assert smooth(np.array([0.0, 3.0, 0.0, 3.0])).tolist() == [1.5, 1.0, 2.0, 1.5]
    assert smooth(np.full(40, 2.0)).tolist() == [2.0] * 40
    assert smooth(np.array([])).tolist() == []


@pytest.mark.parametrize('number', [1, 3])
def test_the_card_is_a_png_with_a_column_for_each_example(example, number, tmp_path):
    path = write_card(tmp_path / 'card.png', [example] * number, LEVELS)
    with Image.open(path) as card:
        assert card.format == 'PNG'
        assert card.width == CARD_COLUMN * number
        pixels = np.asarray(card.convert('RGB')).astype(int)
    for left in range(0, card.width, CARD_COLUMN):  # the picture is in each column
        middle = pixels[CARD_COLUMN // 2, left + CARD_COLUMN // 2]
        assert np.abs(middle - (255, 165, 0)).max() < 8


def test_the_card_grows_with_the_comment_up_to_a_limit(example, tmp_path):
    def height(text):
        path = write_card(tmp_path / 'card.png', [replace(example, text=text)], LEVELS)
        return Image.open(path).height

    assert height('') == height('short')
    assert height('short') < height('words ' * 30) < height('words ' * 60) == height('words ' * 900)


@pytest.mark.parametrize('text', ['costs $5 or $6', r'$\nosuchcommand{$', '$x^2$', 'ü – <b>&'])
def test_the_card_accepts_any_comment(example, text, tmp_path):
    assert write_card(tmp_path / 'card.png', [replace(example, text=text)], LEVELS).is_file()


def test_a_dollar_in_a_comment_is_drawn_as_a_dollar(example, tmp_path):
    def pixels(text):
        path = write_card(tmp_path / 'card.png', [replace(example, text=text)], LEVELS)
        return np.asarray(Image.open(path))

    assert (pixels('a $x$ b') != pixels('a x b')).any()


def test_a_card_without_an_example_is_an_error(tmp_path):
    with pytest.raises(AMHPError, match='at least one example'):
        write_card(tmp_path / 'card.png', [], LEVELS)


def write_either(kind, path, report):
    if kind == 'report':
        return write_report(path, report)
    return write_card(path, report.examples, report.levels)


@pytest.mark.parametrize('kind', ['report', 'card'])
@pytest.mark.parametrize('field', ['rated_dist', 'predicted_dist'])
def test_a_distribution_of_another_length_is_an_error(kind, field, report, example, tmp_path):
    report = replace(report, examples=[example, replace(example, **{field: [0.5, 0.5]})])
    with pytest.raises(AMHPError, match=rf'photo\.jpg: {field} has 2 values, .* 5 levels \(bad'):
        write_either(kind, tmp_path / 'out', report)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('kind', ['report', 'card'])
@pytest.mark.parametrize(('content', 'problem'), [(None, 'no such file'), (b'no', 'not an image')])
def test_an_unreadable_image_is_an_error(kind, content, problem, report, example, tmp_path):
    image = tmp_path / 'gone.jpg'
    if content is not None:
        image.write_bytes(content)
    report = replace(report, examples=[replace(example, image=image)])
    with pytest.raises(AMHPError, match=rf'gone\.jpg: {problem}'):
        write_either(kind, tmp_path / 'out', report)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('kind', 'module'), [('report', 'jinja2'), ('report', 'matplotlib'), ('card', 'matplotlib')]
)
def test_a_missing_library_is_an_error_with_the_extra(kind, module, report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(AMHPError, match=rf"{module}.*pip install 'pyiqa-amhp\[demo\]'"):
        write_either(kind, tmp_path / 'out', report)


def test_an_error_keeps_the_earlier_report(report, example, tmp_path):
    path = write_report(tmp_path / 'report.html', report)
    before = path.read_text(encoding='utf-8')
    with pytest.raises(AMHPError):
        write_report(path, replace(report, examples=[replace(example, rated_dist=[1.0])]))
    assert path.read_text(encoding='utf-8') == before
    assert [p.name for p in tmp_path.iterdir() if 'report' in p.name] == ['report.html']
