"""What all commands print with."""

from rich.console import Console

console, problems = Console(), Console(stderr=True)


def escape(text: str) -> str:
    """Text of somebody else's as it is, not as rich's markup."""
    from rich import markup

    return markup.escape(text)


def progress(items, total: int, what: str):
    """``items`` with a bar, where somebody looks."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, disable=None, leave=False)
