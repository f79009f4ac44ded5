"""Results of a long run on disk, one JSON line each, so that an interrupted run resumes."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pyiqa_amhp.utils.files import writing_to

DAMAGED = object()


class Journal:
    """A file of JSON lines that are appended as they come.

    A line that an interruption cut, or that was damaged, is cut off together with all after it,
    so that what is read is always what was written, in its order.

    Args:
        path: the file; it and its folder are made when the first line is appended.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    def repair(self, is_valid: Callable[[Any], bool] = lambda value: True) -> Iterator[Any]:
        """Read the values of all whole lines, and cut off the rest of the file.

        The file is cut when the iteration ends.

        Args:
            is_valid: whether a value is one that this journal holds.

        Yields:
            The values in their order; nothing where there is no file.
        """
        if not self.exists():
            return
        with writing_to(self.path), self.path.open('rb+') as file:
            kept = 0  # bytes of whole lines
            for line in file:
                value = _parse(line)
                if value is DAMAGED or not is_valid(value):
                    break
                kept += len(line)
                yield value
            file.truncate(kept)

    def read(self) -> Iterator[Any]:
        """Read the values of all whole lines up to the first damaged one, in constant memory."""
        if self.exists():
            with self.path.open('rb') as file:
                for line in file:
                    if (value := _parse(line)) is DAMAGED:
                        return
                    yield value

    def append(self, values: Iterable[Any]) -> Iterator[Any]:
        """Pass values on, each after its line has been written.

        Raises:
            AMHPError: the system could not write it.
        """
        with writing_to(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open('a', encoding='utf-8') as file:
                for value in values:
                    file.write(json.dumps(value) + '\n')
                    file.flush()
                    yield value

    def delete(self) -> None:
        """Remove the file, if it is there."""
        self.path.unlink(missing_ok=True)


def _parse(line: bytes) -> Any:
    """The value of a line; ``DAMAGED`` where it was cut or is no JSON."""
    try:
        return json.loads(line) if line.endswith(b'\n') else DAMAGED
    except (ValueError, RecursionError):
        return DAMAGED
