"""All cases of malicious input: the input, the command or call that reads it, and the answer.

``test_hostile.py`` runs every case. ``python tests/hostile.py`` writes the table in
``docs/security.md``.
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
    """Format the cases as Markdown tables, one for each kind."""
    lines = []
    for kind in KINDS:
        lines += [f'\n### {kind}\n', '| input | read by | answer |', '| --- | --- | --- |']
        lines += [f'| {c.what} | {c.way} | {c.gets} |' for c in CASES if c.kind == kind]
    return '\n'.join(lines).lstrip('\n') + '\n'


def with_table(page: str) -> str:
    """Replace the table in the page of the docs."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == '__main__':
    DOCS.write_text(with_table(DOCS.read_text(encoding='utf-8')), encoding='utf-8')
