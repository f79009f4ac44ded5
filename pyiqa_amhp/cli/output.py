"""Output of all commands on the terminal."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console

from pyiqa_amhp.utils.text import printable

console, error_console = Console(), Console(stderr=True)
MAX_LISTED = 5
INTERRUPTED = 130  # exit code after Ctrl-C, as in a shell
Item = TypeVar('Item')


def escape(text: str) -> str:
    """Escape rich's markup and control characters of a text, so that it prints as it is."""
    from rich import markup

    return markup.escape(printable(text))


def print_written(files: Iterable[object]) -> None:
    """Print the paths of the files that a command wrote."""
    for file in files:
        console.print(f'written: {escape(str(file))}', soft_wrap=True)


def list_errors(title: str, errors: Sequence[str]) -> None:
    """Print a title in rich's markup and the first errors to standard error."""
    error_console.print(title)
    for error in errors[:MAX_LISTED]:
        error_console.print(f'  {escape(error)}', soft_wrap=True)


def progress(items: Iterable[Item], total: int, title: str) -> Iterable[Item]:
    """Show a progress bar over items on an interactive terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=title, disable=None, leave=False)
