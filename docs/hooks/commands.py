"""Write the page of commands: the help of every command, as typer prints it in Markdown."""

import os
import subprocess
import sys

MARK = '<!-- commands -->'
WRITE = [sys.executable, '-m', 'typer', 'pyiqa_amhp.cli.main', 'utils', 'docs', '--name', 'amhp']
HELP = '* `--help`: Show this message and exit.\n'


def on_page_markdown(markdown: str, **_) -> str:
    """Replace the mark of a page by the sections of all commands."""
    return markdown.replace(MARK, all_commands()) if MARK in markdown else markdown


def all_commands() -> str:
    """Return Markdown with a section for each command."""
    plain = os.environ | {'TYPER_USE_RICH': '0'}
    done = subprocess.run(WRITE, env=plain, capture_output=True, encoding='utf-8', check=True)
    _, heading, sections = done.stdout.replace(HELP, '').partition('\n## ')
    return heading + sections.replace('**Options**:\n\n\n', '')
