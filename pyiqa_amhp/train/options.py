"""Values of the section ``train``, checked."""

from collections.abc import Callable, Collection
from typing import Any

from pyiqa_amhp.errors import AMHPError


def one_of(train: dict[str, Any], name: str, known: Collection[str]) -> str:
    """A word out of ``known``; the first where none is given.

    Raises:
        AMHPError: another word.
    """
    value = train.get(name) or next(iter(known))
    if value not in known:
        raise AMHPError(f'train: {name}={value!r}, expected {", ".join(known)}')
    return value


def number(
    train: dict[str, Any],
    name: str,
    default: float | None,
    fits: Callable[[float], bool],
    expected: str,
) -> float | None:
    """A number that ``fits``.

    Args:
        default: where none is given. expected: in words, for the error.

    Raises:
        AMHPError: anything else.
    """
    value = train.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise AMHPError(f'train: {name}={value!r}, expected {expected}')
    return value
