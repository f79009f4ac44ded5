"""Equations as pictures within the page: no script, no fonts, no network, the same everywhere.

Pages write ``$...$`` and fenced blocks ``math``, which code hosts draw too; ``\\tag{4}`` numbers a
block and makes it the anchor ``eq-4``. (Browsers draw MathML well only where the reader has a font
for it.)
"""

import html
import re
import warnings
from xml.etree import ElementTree

from pymdownx.arithmatex import arithmatex_fenced_format

with warnings.catch_warnings():  # of how it finds its font
    warnings.simplefilter('ignore', DeprecationWarning)
    import ziamath

FENCE = {
    'name': 'math',
    'class': 'arithmatex',
    'format': arithmatex_fenced_format(mode='generic'),
}
FOUND = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.S)
TAG = re.compile(r'\\tag\{(\w+)\}')
EM = 20  # of the drawing; on the page it is the text's


def on_config(config, **_):
    """Tell Markdown of the blocks; YAML has no word for a function with arguments."""
    config['mdx_configs'].setdefault('pymdownx.superfences', {})['custom_fences'] = [FENCE]


def on_page_content(content: str, **_) -> str:
    """The page with its equations drawn."""
    return FOUND.sub(_placed, content)


def _placed(found: re.Match) -> str:
    tex = html.unescape(found[2]).strip()
    if found[1] == 'span':
        return drawn(tex, inline=True)
    number = TAG.search(tex)
    picture = drawn(TAG.sub('', tex).strip())
    if number is None:
        return f'<div class="equation">{picture}</div>'
    return (
        f'<div class="equation" id="eq-{number[1]}">{picture}'
        f'<a class="number" href="#eq-{number[1]}">({number[1]})</a></div>'
    )


def drawn(tex: str, inline: bool = False) -> str:
    """An ``svg`` in the text's colour and size, which says its TeX to those who do not see it."""
    ziamath.config.svg2 = False  # shapes in place: ids of one picture never meet another's
    ziamath.config.math.color = 'currentColor'
    equation = ziamath.Latex(tex, size=EM, inline=inline)
    svg = equation.svgxml()
    for side in ('width', 'height'):
        svg.set(side, f'{float(svg.get(side)) / EM:.3f}em')
    svg.set('role', 'img')
    svg.set('aria-label', tex)
    if inline:  # down to where the text's own baseline is
        _, top, _, height = map(float, svg.get('viewBox').split())
        svg.set('style', f'vertical-align: {-(top + height) / EM:.3f}em')
    return ElementTree.tostring(svg, encoding='unicode')
