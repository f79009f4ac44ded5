"""Files that are written whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.text import writable

HINTS = {
    errno.ENOSPC: 'the disk is full: make room, or write elsewhere',
    errno.EDQUOT: 'your quota is used up: make room, or write elsewhere',
    errno.EFBIG: 'files may not be as large here: write elsewhere, or raise the limit',
    errno.EROFS: 'nothing can be written there: write elsewhere',
}


FILE_SUFFIXES = frozenset((
    '.csv', '.html', '.jpeg', '.jpg', '.json', '.jsonl', '.md', '.onnx', '.parquet', '.pdf', '.png',
    '.pt', '.pth', '.safetensors', '.tex', '.txt', '.yaml', '.yml',
))  # fmt: skip
"""Suffixes of files, which no new folder of results has (our choice)."""


def check_output(path: str | Path, suffixes: Collection[str]) -> Path:
    """Check the path of an output file, before any work is done for it.

    Args:
        path: as the user gave it; ``~`` is expanded.
        suffixes: those that are allowed, in lower case, such as ``.csv``.

    Raises:
        AMHPError: another suffix, a folder of that name, or nothing can be written there.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in suffixes:
        raise AMHPError(f'{path}: expected a name that ends in {", ".join(suffixes)}')
    if path.is_dir():
        raise AMHPError(f'{path}: is a folder, expected a file')
    _check_writable(path)
    return path


def check_folder(path: str | Path) -> Path:
    """Check the path of an output folder, before any work is done for it; it is not made.

    Args:
        path: as the user gave it; ``~`` is expanded.

    Raises:
        AMHPError: a file of that name, a new name that ends as that of a file
            (``FILE_SUFFIXES``), or nothing can be written there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _check_writable(path / 'file')
        return path
    if path.exists() or path.suffix.lower() in FILE_SUFFIXES:
        found = 'is a file' if path.exists() else f'ends in {path.suffix} as a file does'
        raise AMHPError(f'{path}: {found}; expected a folder, such as {path.with_suffix("")}')
    _check_writable(path)
    return path


def _check_writable(path: Path) -> None:
    """Try to write beside ``path``, or in the first folder above it that exists."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with writing_to(path), tempfile.TemporaryFile(dir=folder):
        pass


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file in the same folder, then move it to ``path``.

    The content is on the disk before it replaces what was there.

    Raises:
        AMHPError: the system could not write it; what was there before is unchanged.
    """
    path = Path(path).expanduser()
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f'.{path.name[:100]}.'
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            _fsync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, whole or not at all.

    What UTF-8 cannot write becomes an escape, see ``pyiqa_amhp.utils.text.writable``.

    Raises:
        AMHPError: see ``write_atomically``.
    """
    return write_atomically(path, lambda file: file.write_text(writable(text), encoding='utf-8'))


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the system's errors of writing into an ``AMHPError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        hint = HINTS.get(error.errno or 0, 'check the folder and its permissions')
        raise AMHPError(f'{path}: could not be written ({reason}); {hint}') from error


def _fsync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    if path.is_dir() and os.name == 'nt':
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != 'nt' else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
