"""Turn links to files outside docs/ into the names of the files.

A code host follows such links; the site has no page for them. A link to a file that does not exist
is a warning, and a warning ends the build.
"""

import logging
import re
from pathlib import Path

logger = logging.getLogger('mkdocs.hooks.repository')
ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r'\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[\w-]*)?\)')


def on_page_markdown(markdown: str, page, config, **_) -> str:
    """Replace the links of a page that leave docs/."""
    folder = Path(config['docs_dir'], page.file.src_uri).parent

    def name(link: re.Match) -> str:
        file = (folder / link[2]).resolve()
        if file.is_relative_to(config['docs_dir']):
            return link[0]
        if not file.exists():
            logger.warning('%s: no file %s', page.file.src_path, link[2])
            return link[1]
        path = file.relative_to(ROOT).as_posix()
        text = link[1].strip('`')
        return f'`{path}`' if text in path else f'{link[1]} (`{path}`)'

    return OUTSIDE.sub(name, markdown)
