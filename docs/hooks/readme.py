"""Sections of the README on the site, so that nothing is written twice.

What stands between ``<!-- readme: Heading -->`` and ``<!-- /readme -->`` is for code hosts (a link
to the section); the site shows the section itself, without its heading.
"""

import logging
import re
from pathlib import Path

logger = logging.getLogger('mkdocs.hooks.readme')
README = Path(__file__).parents[2] / 'README.md'
WANTED = re.compile(r'<!-- readme: (.+?) -->\n.*?<!-- /readme -->', re.S)
LINK = re.compile(r'(\]\()(?!https?://|#)')


def section(heading: str) -> str | None:
    """The text below a heading of the README up to the next one, its links as in docs/."""
    text = README.read_text(encoding='utf-8')
    found = re.search(rf'^#+ {re.escape(heading)}\n(.*)', text, re.M | re.S)
    if found is None:
        return None
    end = re.search(r'^#+ ', _without_code(found[1]), re.M)
    body = found[1][: end.start()] if end else found[1]
    return LINK.sub(r'\1../', body.strip()).replace('](../docs/', '](')


def _without_code(text: str) -> str:
    """The same with comments in code, which look like headings, blotted out."""
    return re.sub(r'^```.*?^```', lambda code: 'x' * len(code[0]), text, flags=re.M | re.S)


def on_page_markdown(markdown: str, page, **_) -> str:
    """The page's text with the sections it asks for."""

    def found(wanted: re.Match) -> str:
        body = section(wanted[1])
        if body is None:
            logger.warning('%s: README.md has no section %r', page.file.src_path, wanted[1])
        return body or ''

    return WANTED.sub(found, markdown)
