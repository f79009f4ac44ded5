"""Which uploaded files are whose, so that they are deleted as soon as nobody needs them."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Upload(NamedTuple):
    """A file that somebody uploaded: where it lies, and what it was called there."""

    path: str
    name: str


class Uploads:
    """The files that sessions hold.

    Gradio puts files of the same name and content into one place, whoever uploaded them: such
    a file is deleted when the last of its holders lets it go.

    Args:
        folder: of the uploads. Nothing outside it is ever deleted.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], set[str]] = {}

    def hold(self, session: str, where: str, uploads: Iterable[Upload | None]) -> None:
        """Keep these for one place of a session; what that place held before is let go."""
        new = {upload.path for upload in uploads if upload is not None}
        with self._lock:
            old = self._held.pop((session, where), set())
            if new:
                self._held[session, where] = new
            self._delete(old - new)

    def let_go(self, session: str) -> None:
        """Delete what a session held."""
        with self._lock:
            for place in [place for place in self._held if place[0] == session]:
                self._delete(self._held.pop(place))

    def size(self) -> int:
        """Bytes of all files in the folder."""
        total = 0
        for file in self.folder.rglob('*'):
            with suppress(OSError):
                total += file.stat().st_size if file.is_file() else 0
        return total

    def _delete(self, paths: set[str]) -> None:
        for path in paths.difference(*self._held.values()):
            file = Path(path).resolve()
            if self.folder not in file.parents:
                continue
            with suppress(OSError):
                file.unlink()
                file.parent.rmdir()  # each file has a folder of its own
