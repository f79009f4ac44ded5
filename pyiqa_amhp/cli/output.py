"""What all commands print with."""

from collections.abc import Sequence

from rich.console import Console

from pyiqa_amhp.utils.files import printable

console, problems = Console(), Console(stderr=True)


def escape(text: str) -> str:
    """Text of somebody else's as it is, not as rich's markup or commands to the terminal."""
    from rich import markup

    return markup.escape(printable(text))


def list_problems(title: str, errors: Sequence[str]) -> None:
    """A title, in rich's markup, and the first few errors below it."""
    problems.print(title)
    for error in errors[:5]:
        problems.print(f'  {escape(error)}', soft_wrap=True)


def progress(items, total: int, what: str):
    """``items`` with a bar, where somebody looks."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, disable=None, leave=False)
