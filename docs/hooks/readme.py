"""Show sections of the README on the site, so that nothing is written twice.

The text between ``<!-- readme: Heading -->`` and ``<!-- /readme -->`` is for code hosts (a link to
the section). The site replaces it by the section, without its heading.
"""

import logging
import re
from pathlib import Path

logger = logging.getLogger('mkdocs.hooks.readme')
README = Path(__file__).parents[2] / 'README.md'
WANTED = re.compile(r'<!-- readme: (.+?) -->\n.*?<!-- /readme -->', re.S)
LINK = re.compile(r'(\]\()(?!https?://|#)')


def section(heading: str) -> str | None:
    """Return the text below a heading of the README, with links as in docs/; None: no heading."""
    text = README.read_text(encoding='utf-8')
    found = re.search(rf'^#+ {re.escape(heading)}\n(.*)', text, re.M | re.S)
    if found is None:
        return None
    end = re.search(r'^#+ ', _without_code(found[1]), re.M)
    body = found[1][: end.start()] if end else found[1]
    return LINK.sub(r'\1../', body.strip()).replace('](../docs/', '](')


def _without_code(text: str) -> str:
    """Overwrite blocks of code, whose comments look like headings; positions stay."""
    return re.sub(r'^```.*?^```', lambda code: 'x' * len(code[0]), text, flags=re.M | re.S)


def on_page_markdown(markdown: str, page, **_) -> str:
    """Replace the marks of a page by sections of the README."""

    def found(wanted: re.Match) -> str:
        body = section(wanted[1])
        if body is None:
            logger.warning('%s: README.md has no section %r', page.file.src_path, wanted[1])
        return body or ''

    return WANTED.sub(found, markdown)
