"""Links to files of the repository, which a code host follows and a site cannot.

Python modules become links to their place in the API reference where they have one; other files are
named as code. A file that is not there is a warning, which ends a strict build.
"""

import logging
import re
from pathlib import Path

logger = logging.getLogger('mkdocs.hooks.repository')
ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r'\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[\w-]*)?\)')


def on_page_markdown(markdown: str, page, config, **_) -> str:
    """The page's text, with links that leave docs/ turned into names."""
    folder = Path(config['docs_dir'], page.file.src_uri).parent

    def name(link: re.Match) -> str:
        file = (folder / link[2]).resolve()
        if file.is_relative_to(config['docs_dir']):
            return link[0]
        if not file.exists():
            logger.warning('%s: no file %s', page.file.src_path, link[2])
        path = file.relative_to(ROOT).as_posix()
        text = link[1].strip('`')
        return f'`{path}`' if text in path else f'{link[1]} (`{path}`)'

    return OUTSIDE.sub(name, markdown)
