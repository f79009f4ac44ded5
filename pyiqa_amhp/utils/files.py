"""Files that are written whole or not at all."""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyiqa_amhp.errors import AMHPError

HINTS = {
    errno.ENOSPC: 'the disk is full: make room, or write elsewhere',
    errno.EDQUOT: 'your quota is used up: make room, or write elsewhere',
    errno.EFBIG: 'files may not be as large here: write elsewhere, or raise the limit',
    errno.EROFS: 'nothing can be written there: write elsewhere',
}


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary file in the same folder, then move it to ``path``.

    The content is on the disk before it takes the place of what was there.

    Raises:
        AMHPError: the system could not write it; what was there before is as it was.
    """
    path = Path(path).expanduser()
    with told_as(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f'.{path.name[:100]}.'
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)
    return path


@contextmanager
def told_as(path: Path) -> Iterator[None]:
    """Turn what the system says about writing into an ``AMHPError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        hint = HINTS.get(error.errno, 'check the folder and its permissions')
        raise AMHPError(f'{path}: could not be written ({reason}); {hint}') from error


def _flush(path: Path) -> None:
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


def visible(text: str) -> str:
    """Control characters but line ends as ``\\x1b``: a file's name may hold some."""
    return re.sub(r'[\x00-\x09\x0b-\x1f\x7f-\x9f]', lambda found: ascii(found[0])[1:-1], text)
