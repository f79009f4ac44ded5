"""Equations as MathML, which browsers draw by themselves: no script, no fonts, no network.

Pages write ``$...$`` and fenced blocks ``math``, which code hosts draw too; ``\\tag{4}`` numbers a
block and makes it the anchor ``eq-4``.
"""

import html
import re

from latex2mathml.converter import convert
from pymdownx.arithmatex import arithmatex_fenced_format

FENCE = {
    'name': 'math',
    'class': 'arithmatex',
    'format': arithmatex_fenced_format(mode='generic'),
}
FOUND = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.S)
TAG = re.compile(r'\\tag\{(\w+)\}')


def on_config(config, **_):
    """Tell Markdown of the blocks; YAML has no word for a function with arguments."""
    config['mdx_configs'].setdefault('pymdownx.superfences', {})['custom_fences'] = [FENCE]


def on_page_content(content: str, **_) -> str:
    """The page with its equations drawn."""
    return FOUND.sub(_drawn, content)


def _drawn(found: re.Match) -> str:
    tex = html.unescape(found[2]).strip()
    if found[1] == 'span':
        return convert(tex)
    number = TAG.search(tex)
    mathml = convert(TAG.sub('', tex), display='block')
    if number is None:
        return f'<div class="equation">{mathml}</div>'
    return (
        f'<div class="equation" id="eq-{number[1]}">{mathml}'
        f'<a class="number" href="#eq-{number[1]}">({number[1]})</a></div>'
    )
