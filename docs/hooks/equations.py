"""Draw equations as pictures in the page, without scripts, fonts or the network.

Pages write ``$...$`` and fenced blocks ``math``, which code hosts draw too. ``\\tag{4}`` numbers a
block and gives it the anchor ``eq-4``. MathML is no alternative: browsers draw it well only with a
font that many readers do not have.
"""

import html
import re
import warnings
from xml.etree import ElementTree

from pymdownx.arithmatex import arithmatex_fenced_format

with warnings.catch_warnings():  # ziamath finds its font in a deprecated way
    warnings.simplefilter('ignore', DeprecationWarning)
    import ziamath

FENCE = {
    'name': 'math',
    'class': 'arithmatex',
    'format': arithmatex_fenced_format(mode='generic'),
}
FOUND = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.S)
TAG = re.compile(r'\\tag\{(\w+)\}')
EM = 20  # size of the drawing's text in pixels; the page scales it to its own text


def on_config(config, **_):
    """Add the blocks ``math`` to Markdown; YAML cannot name a function with arguments."""
    config['mdx_configs'].setdefault('pymdownx.superfences', {})['custom_fences'] = [FENCE]


def on_page_content(content: str, **_) -> str:
    """Replace the equations of a page by pictures."""
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
    """Return an ``svg`` in the colour and size of the text, with its TeX for screen readers."""
    ziamath.config.svg2 = False  # shapes without ids, which could clash between pictures
    ziamath.config.math.color = 'currentColor'
    equation = ziamath.Latex(tex, size=EM, inline=inline)
    svg = equation.svgxml()
    for side in ('width', 'height'):
        svg.set(side, f'{float(svg.get(side)) / EM:.3f}em')
    svg.set('role', 'img')
    svg.set('aria-label', tex)
    if inline:  # on the baseline of the text
        _, top, _, height = map(float, svg.get('viewBox').split())
        svg.set('style', f'vertical-align: {-(top + height) / EM:.3f}em')
    return ElementTree.tostring(svg, encoding='unicode')
