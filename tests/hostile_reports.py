"""Malicious names, comments and messages in pages, tables and terminals."""

import html
import re
from html.parser import HTMLParser

from hostile_world import World, case

EVIL = '</p><script>alert(1)</script><img src=x onerror=alert(2)>"\'&{{ 7 * 7 }}'
NAME = '"><img src=x onerror=alert(1)>'  # without a slash, since it is a file name
SHOWN = 'shown as text'
LOADERS = {'script', 'iframe', 'object', 'embed', 'link', 'base', 'form'}


class Page(HTMLParser):
    """The text of a page; fails if the page runs code or loads something.

    Args:
        page: the page.
        scripts: number of scripts that the page itself has.
    """

    def __init__(self, page: str, scripts: int = 0):
        super().__init__()
        self.words, self.tags = '', []
        self.feed(page)
        self.close()
        own = [tag for tag in self.tags if tag in LOADERS]
        assert own == ['script'] * scripts, own

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith('on'), (tag, name)
            if name in ('src', 'href', 'srcset', 'action'):
                assert value.startswith('data:image/') or re.fullmatch(r'cards/[^:<>"]*', value)

    def handle_data(self, data):
        self.words += data


def shown(page: str, *texts: str, scripts: int = 0) -> str:
    """Check that a page shows texts as text, and loads nothing."""
    words = ' '.join(Page(page, scripts).words.split())
    for text in texts:
        assert ' '.join(text.split()) in words, text
    assert not re.search(r'https?://|@import', html.unescape(re.sub(r'data:[^"]*', '', page)))
    return SHOWN


def report(what: str, way: str, gets: str = SHOWN):
    return case('Reports', what, way, gets)


@report('a file name and a comment of HTML and scripts', '`amhp explain --out DIR`: page and card')
def _(world: World) -> str:
    from pyiqa_amhp.weights.checkpoint import save_checkpoint

    model = save_checkpoint(world.folder / 'tiny.pth', world.make_amhp().state_dict())
    photo, out = world.photo(f'{NAME}.png'), world.folder / 'out'
    code, _, err = world.amhp(
        'explain', photo, '--text', EVIL, '--weights', model, '--device', 'cpu', '--out', out
    )
    assert code == 0, err
    words = EVIL.split()
    return shown((out / 'index.html').read_text(), f'{NAME}.png', *words, scripts=1)


def benchmarked(world: World):
    """Make the rows of a benchmark with malicious names."""
    from pyiqa_amhp.evaluation.tables import error_row

    return [error_row(f'{EVIL} | [a](javascript:alert(1))', f'{EVIL}\x1b]0;owned\x07')]


@report('a method, a title and an error of HTML and scripts', '`amhp benchmark`: page')
def _(world):
    from pyiqa_amhp.evaluation.page import write_page

    rows = benchmarked(world)
    page = write_page(world.folder / 'page.html', EVIL, [EVIL], None, rows, [], [])
    return shown(page.read_text(), EVIL, rows[0].method)


@report('the same, and links to scripts', '`amhp benchmark`: Markdown')
def _(world):
    from pyiqa_amhp.evaluation.tables import to_markdown

    text = to_markdown(benchmarked(world), EVIL, [EVIL])
    assert not re.search(r'<[a-z/!]|\]\(', text)
    assert len({line.replace(r'\|', '').count('|') for line in text.splitlines()[2:5]}) == 1
    return SHOWN


@report('the same, and `\\input{/etc/passwd}`', '`amhp benchmark`: LaTeX')
def _(world):
    from pyiqa_amhp.evaluation.tables import error_row, to_latex

    text = to_latex([error_row(r'\input{/etc/passwd}$%&#_', EVIL)], r'\write18{ls}')
    assert r'\input' not in text and r'\write' not in text
    return SHOWN


@report('the same, and commands for the terminal', '`amhp benchmark`: the terminal')
def _(world):
    import io

    from rich.console import Console

    from pyiqa_amhp.evaluation.tables import to_terminal

    out = io.StringIO()
    Console(file=out, width=200).print(to_terminal(benchmarked(world), EVIL))
    assert '\x1b' not in out.getvalue() and r'\x1b]0;owned' in out.getvalue()
    return SHOWN


@report('a comment, a caption and names of HTML and scripts', '`amhp demo`: page')
def _(world):
    from pyiqa_amhp.demo.report import Example, ModelResult, Report, write_report

    measured = dict.fromkeys(('acc', 'srcc', 'plcc', 'krcc', 'mse', 'emd1', 'emd2'), 0.5)
    model = ModelResult(EVIL, measured, [1.0, 2.0], [1.0, 2.0], [(1, 0.3)], [(1, 0.5)])
    example = Example(
        image=world.photo(f'{NAME}.png'), text=EVIL, caption=EVIL, rated=5.0, predicted=5.0,
        rated_dist=[0.5, 0.5], predicted_dist=[0.5, 0.5],
    )  # fmt: skip
    page = write_report(
        world.folder / 'report.html',
        Report(
            models={EVIL: model}, examples=[example], levels=(EVIL, 'good'),
            splits=dict.fromkeys(('train', 'val', 'test'), 1),
            sources=dict.fromkeys(('train', 'val', 'test'), 1),
            comments=dict.fromkeys(('attribute', 'praise', 'none'), 1), seed=0, seconds=1.0,
            encoder=EVIL, note=EVIL,
        ),
    )  # fmt: skip
    return shown(page.read_text(), EVIL)


@report('a comment and a data set of HTML and scripts', '`amhp reproduce fig3`: page and picture')
def _(world):
    from pyiqa_amhp.evaluation.figures import Example, write_fig3

    example = Example(world.photo(f'{NAME}.png'), EVIL, f'{EVIL} $x$ $', 0.5, 0.5, 0.5)
    files = write_fig3(world.folder, EVIL, [example, example])
    return shown(next(file for file in files if file.suffix == '.html').read_text(), EVIL)


@report('a data set, options and a version of HTML and scripts', '`amhp weights push`: model card')
def _(world: World) -> str:
    from pyiqa_amhp.sharing.card import model_card
    from pyiqa_amhp.sharing.evidence import Evidence
    from pyiqa_amhp.weights.hub import HubId

    evil = EVIL + ' ```` ` | \n# Title\n'
    data = {'name': evil, 'type': evil, 'split': evil}
    record = {'name': evil, 'versions': {evil: evil}, 'data': {'train': data}, 'seed': evil}
    measured = {'data': data, 'images': 3, 'metrics': {evil: 0.5}}
    config = world.make_amhp(levels=[evil, 'good'], level_values=[1, 2]).config
    card = str(model_card(HubId('a/b'), config, Evidence(record, 1, (measured,)), 1, None))
    body = card.split('\n---\n', 1)[1]
    assert 'alert(1)' in body
    outside = re.sub(r'(`+).*?\1', '', body, flags=re.DOTALL)  # code is shown as it is
    assert 'alert' not in outside and '<' not in outside
    assert [line for line in body.split('\n') if line.startswith('# ')] == ['# b']
    return SHOWN
