"""What a command takes beyond the package: a comment above the code block becomes a line.

``<!-- needs: AVA, GPU -->`` holds for the block, ``<!-- needs: network for nima -->`` for its lines
with the word ``nima``. ``tests/test_docs_commands.py`` runs what is not marked.
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
    'time': 'some time',
    'server': 'to be ended with Ctrl-C',
    'clone': 'a clone of the repository',
}
"""What may stand in a mark, and how the site says it."""


def names_of(mark: re.Match) -> list[str]:
    """The names in a mark."""
    return [name.strip() for name in mark['names'].split(',')]


def on_page_markdown(markdown: str, page, **_) -> str:
    """The page's text with a line for each mark; blocks of text keep theirs."""

    def line(mark: re.Match) -> str:
        for name in names_of(mark):
            if name not in NEEDS:
                logger.warning('%s: needs %r, expected %s', page.file.src_path, name, list(NEEDS))
        words = ', '.join(NEEDS.get(name, name) for name in names_of(mark))
        some = f' (`{mark["word"]}`)' if mark['word'] else ''
        return f'{mark["indent"]}<p class="needs" markdown>Needs {words}{some}.</p>\n'

    return MARK.sub(line, markdown)
