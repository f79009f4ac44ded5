"""Input made to do harm: what it is, how it comes in, and what it must get.

``test_hostile.py`` runs every case through the command or the call that a user would make;
``python tests/hostile.py`` writes the table in ``docs/security.md``.
"""

from pathlib import Path

import hostile_data
import hostile_reports
import hostile_weights
from hostile_world import CASES, World

__all__ = ['CASES', 'DOCS', 'World', 'hostile_data', 'hostile_reports', 'hostile_weights']
KINDS = (
    'Weights', 'Names and paths', 'Tables', 'Comments and options', 'Images', 'Interrupted runs',
    'Reports',
)  # fmt: skip
DOCS = Path(__file__).parents[1] / 'docs' / 'security.md'
BEGIN, END = '<!-- tests/hostile.py writes from here -->\n', '<!-- to here -->\n'


def table() -> str:
    """The cases as Markdown, kind by kind."""
    lines = []
    for kind in KINDS:
        lines += [f'\n### {kind}\n', '| input | how it comes in | gets |', '| --- | --- | --- |']
        lines += [f'| {c.what} | {c.way} | {c.gets} |' for c in CASES if c.kind == kind]
    return '\n'.join(lines).lstrip('\n') + '\n'


def with_table(page: str) -> str:
    """The page of the docs with the table of now."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == '__main__':
    DOCS.write_text(with_table(DOCS.read_text(encoding='utf-8')), encoding='utf-8')
