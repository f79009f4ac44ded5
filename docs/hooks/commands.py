"""The page of commands: what ``amhp COMMAND --help`` says, written out by typer itself."""

import os
import subprocess
import sys

MARK = '<!-- commands -->'
WRITE = [sys.executable, '-m', 'typer', 'pyiqa_amhp.cli.main', 'utils', 'docs', '--name', 'amhp']
HELP = '* `--help`: Show this message and exit.\n'


def on_page_markdown(markdown: str, **_) -> str:
    """The page's text with all commands, where it asks for them."""
    return markdown.replace(MARK, all_commands()) if MARK in markdown else markdown


def all_commands() -> str:
    """Markdown: a section for each command."""
    plain = os.environ | {'TYPER_USE_RICH': '0'}
    done = subprocess.run(WRITE, env=plain, capture_output=True, encoding='utf-8', check=True)
    _, heading, sections = done.stdout.replace(HELP, '').partition('\n## ')
    return heading + sections.replace('**Options**:\n\n\n', '')
