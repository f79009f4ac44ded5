"""Show what a command needs beyond the package: a comment above its code block becomes a line.

``<!-- needs: AVA, GPU -->`` applies to the block, ``<!-- needs: network for nima -->`` to its lines
with the word ``nima``. ``tests/test_docs_commands.py`` runs the commands without a mark.
"""

import logging
import re

logger = logging.getLogger('mkdocs.hooks.needs')
MARK = re.compile(r'^(?P<indent> *)<!-- needs: (?P<names>[^>]*?)(?: for (?P<word>\S+))? -->$', re.M)
NEEDS = {
    'AVA': '[AVA](ava.md)',
    'PARA': '[PARA](para.md)',
    'AADB': '[AADB](aadb.md)',
    'CLIP': "CLIP's weights ([from the network or a file](weights.md))",
    'GPU': 'a GPU',
    'network': 'the network',
    'cluster': 'a cluster',
    'account': 'an account at the hub',
    'time': 'some minutes or more',
    'server': 'to be ended with Ctrl-C',
    'clone': 'a clone of the repository',
}
"""The names that a mark may have, and their text on the site."""


def names_of(mark: re.Match) -> list[str]:
    """Return the names in a mark."""
    return [name.strip() for name in mark['names'].split(',')]


def on_page_markdown(markdown: str, page, **_) -> str:
    """Replace each mark of a page by a line of text."""

    def line(mark: re.Match) -> str:
        for name in names_of(mark):
            if name not in NEEDS:
                logger.warning('%s: needs %r, expected %s', page.file.src_path, name, list(NEEDS))
        words = ', '.join(NEEDS.get(name, name) for name in names_of(mark))
        some = f' (`{mark["word"]}`)' if mark['word'] else ''
        return f'{mark["indent"]}<p class="needs" markdown>Needs {words}{some}.</p>\n'

    return MARK.sub(line, markdown)
