"""Uploaded files and the sessions that hold them, so that they are deleted when not needed."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Upload(NamedTuple):
    """An uploaded file.

    Attributes:
        path: where the file is on the server.
        name: the name of the file at the client.
    """

    path: str
    name: str


class Uploads:
    """The files that sessions hold.

    Gradio stores uploads with the same name and content as one file, whoever uploaded them. Such
    a file is deleted when the last session releases it.

    Args:
        folder: the folder of uploads. Nothing outside it is ever deleted.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], set[str]] = {}

    def hold(self, session: str, slot: str, uploads: Iterable[Upload | None]) -> None:
        """Hold uploads in a slot of a session, and release the earlier ones of the slot."""
        new = {upload.path for upload in uploads if upload is not None}
        with self._lock:
            old = self._held.pop((session, slot), set())
            if new:
                self._held[session, slot] = new
            self._delete(old - new)

    def release(self, session: str) -> None:
        """Delete the uploads that only this session holds."""
        with self._lock:
            for key in [key for key in self._held if key[0] == session]:
                self._delete(self._held.pop(key))

    def size(self) -> int:
        """Return the size of all files in the folder in bytes."""
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
                file.parent.rmdir()  # Gradio makes a folder for each file
