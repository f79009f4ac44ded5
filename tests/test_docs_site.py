"""The documentation site builds without a warning, and every link in it has a target."""

import ast
import importlib
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
# Attributes that make a browser load something, by element.
LOADED = {'script': 'src', 'img': 'src', 'link': 'href', 'iframe': 'src', 'source': 'src'}
NOT_LOADED = {'prev', 'next', 'canonical'}  # kinds of <link>


class Page(HTMLParser):
    """The anchors, links, loaded addresses and text of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links, self.loads, self.text = {''}, [], [], []
        self.feed(file.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag == 'a' and 'href' in attrs:
            self.links.append(attrs['href'])
        if attrs.get(LOADED.get(tag, '')) and attrs.get('rel') not in NOT_LOADED:
            self.loads.append(attrs[LOADED[tag]])

    def handle_data(self, data):
        self.text.append(data)


def build_site(folder, warnings, **options):
    """Build the site into a folder; appends what mkdocs warns of to ``warnings``.

    Args:
        options: options of mkdocs.yml to change
    """
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger('mkdocs').addHandler(handler)
    try:
        config = load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(folder), **options)
        config.plugins.on_startup(command='build', dirty=False)
        build(config)
        config.plugins.on_shutdown()
    finally:
        logging.getLogger('mkdocs').removeHandler(handler)


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    """The site's folder, and the warnings of mkdocs."""
    folder, warnings = tmp_path_factory.mktemp('site') / 'site', []
    build_site(folder, warnings, strict=False)
    return folder, warnings


@pytest.fixture(scope='session')
def pages(built):
    """Every page, by its file."""
    return {file: Page(file) for file in sorted(built[0].rglob('*.html'))}


def test_it_builds_without_a_warning(built):
    assert built[1] == []


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('[x](absent.md)', "'absent.md'"),
        ('[x](#absent)', "'#absent'"),
        ('[x](../absent.py)', 'no file ../absent.py'),
        ('<!-- needs: money -->', "needs 'money'"),
    ],
)
def test_a_mistake_in_a_page_ends_the_build(tmp_path, text, expected):
    from mkdocs.exceptions import Abort

    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'index.md').write_text(f'# A page\n\n{text}\n')
    warnings = []
    options = {'docs_dir': str(tmp_path / 'docs'), 'nav': ['index.md'], 'extra_css': []}
    with pytest.raises(Abort):
        build_site(tmp_path / 'site', warnings, **options)
    assert len(warnings) == 1 and expected in warnings[0]


def test_every_page_of_the_docs_is_in_the_menu(built, pages):
    menu = {link.partition('#')[0] for link in pages[built[0] / 'index.html'].links}
    for page in (ROOT / 'docs').rglob('*.md'):
        assert page.relative_to(ROOT / 'docs').with_suffix('.html').as_posix() in menu


def target(file, link, site):
    """Find the file and the anchor that a link leads to."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    if not path:
        return file, unquote(parts.fragment)
    base = site if path.startswith('/') else file.parent
    return (base / path.lstrip('/')).resolve(), unquote(parts.fragment)


def test_every_link_within_the_site_has_a_target(built, pages):
    site, _ = built
    count = 0
    for file, page in pages.items():
        if file.name == '404.html':  # written for the root of a server
            continue
        for link in (*page.links, *page.loads):
            if urlsplit(link).scheme in ('http', 'https', 'mailto', 'data'):
                continue
            linked, anchor = target(file, link, site)
            assert linked.is_relative_to(site) and linked.exists(), f'{file.name}: {link}'
            if linked in pages and anchor:
                assert anchor in pages[linked].anchors, f'{file.name}: {link}'
            count += 1
    assert count > 1000


def is_on_the_site(link):
    """Whether a browser loads a link from the site itself."""
    parts = urlsplit(link)
    return parts.scheme in ('', 'data') and not parts.netloc


def test_pages_load_nothing_from_elsewhere(built, pages):
    for file, page in pages.items():
        for link in page.loads:
            assert is_on_the_site(link), f'{file.name}: {link}'
    for file in built[0].rglob('*.css'):
        found = re.findall(r'(?:@import|url\()\s*["\']?(https?:|//)', file.read_text('utf-8'))
        assert not found, file


def test_the_reader_of_pages_finds_anchors_links_and_what_is_loaded(tmp_path):
    file = tmp_path / 'page.html'
    file.write_text('<p id="a"><a href="#b">b</a><script src="https://x.org/y.js"></script>')
    page = Page(file)
    assert page.links == ['#b'] and 'b' not in page.anchors and 'a' in page.anchors
    assert page.loads == ['https://x.org/y.js']
    assert target(file, 'other.html#c', tmp_path) == (tmp_path / 'other.html', 'c')
    assert is_on_the_site('a.js') and is_on_the_site('data:image/png;base64,')
    assert not is_on_the_site('https://x.org/y.js') and not is_on_the_site('//x.org/y.js')


def test_equations_are_numbered_and_drawn_without_a_script(built, pages):
    page = pages[built[0] / 'method.html']
    assert {f'eq-{number}' for number in range(1, 9)} <= page.anchors
    html = (built[0] / 'method.html').read_text(encoding='utf-8')
    assert html.count('class="equation"') == 8 and 'arithmatex' not in html
    assert html.count('role="img" aria-label="') >= 20


def test_the_public_python_is_in_the_reference(pages):
    anchors = set().union(*(page.anchors for page in pages.values()))
    for name in (
        'scoring.scorer.Scorer', 'scoring.scorer.create_metric', 'scoring.writer.ScoreFile',
        'model.amhp.AMHP', 'model.config.AMHPConfig', 'explain.explanation.explain',
        'datasets.attributes.attribute_sentences', 'datasets.images.read_image',
        'datasets.ratings.distribution_from_mean', 'train.loss.AMHPEMDLoss',
        'evaluation.measures.evaluate', 'errors.AMHPError',
    ):  # fmt: skip
        assert f'pyiqa_amhp.{name}' in anchors, name


def listed_members():
    """Find the modules of the reference, each with the names that its page shows."""
    for page in sorted((ROOT / 'docs' / 'api').glob('*.md')):
        for block in page.read_text(encoding='utf-8').split('\n::: ')[1:]:
            members = re.search(r'members: \[(.*?)\]', block, re.S)
            names = re.findall(r'\w+', members[1]) if members else []
            yield pytest.param(block.split()[0], names, id=block.split()[0])


@pytest.mark.parametrize(('module', 'names'), listed_members())
def test_the_reference_lists_names_that_exist(module, names):
    absent = [name for name in names if not hasattr(importlib.import_module(module), name)]
    assert absent == []


def test_every_command_has_a_section_with_its_options(built, pages):
    page = pages[built[0] / 'commands.html']
    names = (
        'demo', 'score', 'explain', 'prepare', 'train', 'test', 'benchmark', 'reproduce',
        'weights-add', 'weights-list', 'weights-push', 'tanet-calibrate', 'export', 'app', 'info',
    )  # fmt: skip
    assert {f'amhp-{name}' for name in names} <= page.anchors
    words = ''.join(page.text)
    for option in ('--max-pixels', '--resume', '--auto_resume', '--as', '--verify-images'):
        assert option in words, option


def test_pictures_can_be_drawn_again(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib')
    draw = runpy.run_path(str(ROOT / 'docs' / 'pictures' / 'draw.py'))
    monkeypatch.setitem(draw['save'].__globals__, 'HERE', tmp_path)
    files = {file.name for file in draw['main']()}
    assert files == {file.name for file in (ROOT / 'docs' / 'pictures').glob('*.svg')}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in files)


# The hooks


def on_page_markdown(hook, text):
    """Run a hook on the text of a page ``docs/page.md``."""
    file = SimpleNamespace(src_path='page.md', src_uri='page.md')
    functions = runpy.run_path(str(ROOT / 'docs' / 'hooks' / f'{hook}.py'))
    config = {'docs_dir': str(ROOT / 'docs')}
    return functions['on_page_markdown'](text, page=SimpleNamespace(file=file), config=config)


def test_links_to_files_of_the_repository_become_names():
    text = '[`model/amhp.py`](../pyiqa_amhp/model/amhp.py), [the options](../options), [x](ava.md)'
    expected = '`pyiqa_amhp/model/amhp.py`, the options (`options`), [x](ava.md)'
    assert on_page_markdown('repository', text) == expected


def test_the_readme_fits_a_screen_or_two_and_leads_to_the_pages():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert text.count('\n') <= 130
    pages = {page.name for page in (ROOT / 'docs').glob('*.md')} - {'index.md', 'start.md'}
    linked = set(re.findall(r'\]\(docs/([a-z]+\.md)', text))
    assert pages - linked == {'method.md', 'commands.md'}  # the site's menu has them
    assert len(re.findall(r'^pip install', text, re.M)) == 2  # what `.ci/run` runs


# Troubleshooting


@cache
def strings_of_the_code():
    """Collect every string in the code, with `...` for the values in an f-string."""
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
    """Whether one string has the parts of a message between `...`, in their order."""
    parts = [re.escape(part.strip()) for part in message.split('...') if len(part.strip()) > 1]
    pattern = re.compile('.*'.join(parts))
    return any(pattern.search(text) for text in strings_of_the_code())


def quoted_messages():
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    return re.findall(r'^> `(.+)`$', text, re.M)


@pytest.mark.parametrize('message', quoted_messages(), ids=lambda message: message[:40])
def test_a_message_in_troubleshooting_is_in_the_code(message):
    assert is_in_the_code(message)


def test_a_message_that_is_not_in_the_code_is_found():
    assert len(quoted_messages()) >= 30
    assert not is_in_the_code('...: no such file; look under the sofa')
    assert not is_in_the_code('give one for each image, None where there is none ... got')
