"""The documentation site: it builds without a warning, and everything it points to is there."""

import ast
import logging
import re
import runpy
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip('material', reason="the documentation is built with 'pyiqa-amhp[docs]'")
pytest.importorskip('mkdocstrings')

ROOT = Path(__file__).parents[1]
# What makes a browser fetch, by element; links that people may follow are not among them.
FETCHED = {'script': 'src', 'img': 'src', 'link': 'href', 'iframe': 'src', 'source': 'src'}
NO_FETCH = {'prev', 'next', 'canonical'}  # of <link>


class Page(HTMLParser):
    """The anchors of a page, where it links to, and what it loads."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links, self.loads, self.text = {''}, [], [], []
        self.feed(file.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag == 'a' and 'href' in attrs:
            self.links.append(attrs['href'])
        if attrs.get(FETCHED.get(tag, '')) and attrs.get('rel') not in NO_FETCH:
            self.loads.append(attrs[FETCHED[tag]])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    """The site's folder, and what mkdocs warned of while it built it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger('mkdocs').addHandler(handler)
    folder = tmp_path_factory.mktemp('site') / 'site'
    config = load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(folder), strict=False)
    config.plugins.on_startup(command='build', dirty=False)
    build(config)
    config.plugins.on_shutdown()
    logging.getLogger('mkdocs').removeHandler(handler)
    return folder, said


@pytest.fixture(scope='session')
def pages(built):
    """Every page, by its file."""
    return {file: Page(file) for file in sorted(built[0].rglob('*.html'))}


def test_it_builds_without_a_warning(built):
    assert built[1] == []


def test_it_is_strict():
    text = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    assert re.search(r'^strict: true$', text, re.M)
    assert 'site_url:' not in text and 'repo_url:' not in text  # there is no such place


def test_every_page_of_the_docs_is_in_the_menu(built, pages):
    menu = {link.partition('#')[0] for link in pages[built[0] / 'index.html'].links}
    for page in (ROOT / 'docs').rglob('*.md'):
        assert page.relative_to(ROOT / 'docs').with_suffix('.html').as_posix() in menu


def target(file, link, site):
    """The file and the anchor that a link leads to."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    if not path:
        return file, unquote(parts.fragment)
    base = site if path.startswith('/') else file.parent
    return (base / path.lstrip('/')).resolve(), unquote(parts.fragment)


def test_every_link_and_anchor_within_it_leads_somewhere(built, pages):
    site, _ = built
    count = 0
    for file, page in pages.items():
        if file.name == '404.html':  # written for the root of a server
            continue
        for link in (*page.links, *page.loads):
            if urlsplit(link).scheme in ('http', 'https', 'mailto', 'data'):
                continue
            goal, anchor = target(file, link, site)
            assert goal.is_relative_to(site) and goal.exists(), f'{file.name}: {link}'
            if goal in pages and anchor:
                assert anchor in pages[goal].anchors, f'{file.name}: {link}'
            count += 1
    assert count > 1000


def test_nothing_is_loaded_from_elsewhere(built, pages):
    for file, page in pages.items():
        for link in page.loads:
            assert urlsplit(link).scheme in ('', 'data'), f'{file.name}: {link}'
    for file in built[0].rglob('*.css'):
        found = re.findall(r'(?:@import|url\()\s*["\']?(https?:|//)', file.read_text('utf-8'))
        assert not found, file


def test_the_crawl_itself_finds_what_is_wrong(tmp_path):
    file = tmp_path / 'page.html'
    file.write_text('<p id="a"><a href="#b">b</a><script src="https://x.org/y.js"></script>')
    page = Page(file)
    assert page.links == ['#b'] and 'b' not in page.anchors and 'a' in page.anchors
    assert page.loads == ['https://x.org/y.js']
    assert target(file, 'other.html#c', tmp_path) == (tmp_path / 'other.html', 'c')


def test_equations_are_numbered_and_drawn_without_a_script(built, pages):
    page = pages[built[0] / 'method.html']
    assert {f'eq-{number}' for number in range(1, 9)} <= page.anchors
    html = (built[0] / 'method.html').read_text(encoding='utf-8')
    assert html.count('class="equation"') == 8 and 'arithmatex' not in html
    assert html.count('role="img" aria-label="') >= 20


def test_sections_of_the_readme_are_on_the_site(built, pages):
    words = ' '.join(pages[built[0] / 'ratings.html'].text)
    assert 'path relative to' in words and 'in the README' not in words


def test_the_public_python_is_in_the_reference(built, pages):
    anchors = set().union(*(page.anchors for page in pages.values()))
    for name in (
        'score.score_images', 'score.create_metric', 'score.Score', 'score_file.ScoreFile',
        'model.amhp.AMHP', 'model.config.AMHPConfig', 'explain.reasons.explain',
        'text.attributes.attribute_sentences', 'data.images.read_image',
        'data.ratings.distribution_from_mean', 'train.run.run_train', 'train.loss.AMHPEMDLoss',
        'benchmark.evaluate.evaluate', 'errors.AMHPError',
    ):  # fmt: skip
        assert f'pyiqa_amhp.{name}' in anchors, name


def test_every_command_is_on_its_page(built, pages):
    from typer.main import get_command

    from pyiqa_amhp.cli.main import app

    words = ' '.join(''.join(pages[built[0] / 'commands.html'].text).split())
    for name, command in get_command(app).commands.items():
        for sub in getattr(command, 'commands', None) or ['']:
            assert f'amhp {name} {sub}'.strip() in words
    assert '--max-pixels' in words


def test_pictures_can_be_drawn_again(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib')
    draw = runpy.run_path(str(ROOT / 'docs' / 'pictures' / 'draw.py'))
    monkeypatch.setitem(draw['save'].__globals__, 'HERE', tmp_path)
    files = {file.name for file in draw['main']()}
    assert files == {file.name for file in (ROOT / 'docs' / 'pictures').glob('*.svg')}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in files)


# The hooks: what is wrong in a page becomes a warning, which ends a strict build


@pytest.mark.parametrize(
    ('hook', 'text', 'expected'),
    [
        ('readme', '<!-- readme: Nothing -->\nx\n<!-- /readme -->', 'no section'),
        ('repository', '[it](../nothing.py)', 'no file ../nothing.py'),
        ('needs', '<!-- needs: money -->', "needs 'money'"),
    ],
)
def test_a_hook_warns_of_what_is_not_there(caplog, hook, text, expected):
    on_page_markdown(hook, text)
    assert expected in caplog.text


def on_page_markdown(hook, text):
    """What a hook makes of a page ``docs/page.md``."""
    file = SimpleNamespace(src_path='page.md', src_uri='page.md')
    functions = runpy.run_path(str(ROOT / 'docs' / 'hooks' / f'{hook}.py'))
    config = {'docs_dir': str(ROOT / 'docs')}
    return functions['on_page_markdown'](text, page=SimpleNamespace(file=file), config=config)


def test_links_to_files_of_the_repository_become_names():
    text = '[`model/amhp.py`](../pyiqa_amhp/model/amhp.py), [the options](../options), [x](ava.md)'
    expected = '`pyiqa_amhp/model/amhp.py`, the options (`options`), [x](ava.md)'
    assert on_page_markdown('repository', text) == expected


def test_a_section_of_the_readme_ends_at_the_next_heading_and_links_from_docs():
    text = '<!-- readme: Train on your own ratings -->\nx\n<!-- /readme -->'
    section = on_page_markdown('readme', text)
    assert section.startswith('A CSV with a header') and '\n## ' not in section
    assert '](training.md)' in section and '](../options/train_amhp_custom.yml)' in section
    assert '# writes to ./experiments' in section  # a comment in code is no heading


# Troubleshooting


@cache
def strings_of_the_code():
    """Every text in the code, with `...` for what is put into it."""
    found = []
    for file in (ROOT / 'pyiqa_amhp').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else '...' for v in node.values)
                found.append(''.join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r'%[sdg]', '...', node.value))
    return [' '.join(text.replace('`', '').replace('\\[', '[').split()) for text in found]


def is_in_the_code(message):
    """Whether the parts of a message between `...` stand in one text, in their order."""
    parts = [re.escape(part.strip()) for part in message.split('...') if len(part.strip()) > 1]
    pattern = re.compile('.*'.join(parts))
    return any(pattern.search(text) for text in strings_of_the_code())


def quoted_messages():
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    return re.findall(r'^> `(.+)`$', text, re.M)


@pytest.mark.parametrize('message', quoted_messages(), ids=lambda message: message[:40])
def test_a_message_in_troubleshooting_is_one_of_ours(message):
    assert is_in_the_code(message)


def test_messages_that_nobody_prints_are_found():
    assert len(quoted_messages()) >= 30
    assert not is_in_the_code('...: no such file; look under the sofa')
    assert not is_in_the_code('give one for each image, None where there is none ... got')
