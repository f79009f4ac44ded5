"""Files wherever pyarrow or fsspec opens them, under the names that users give them.

``photos/a.jpg`` is local; ``s3://bucket/a.jpg``, ``gs://``, ``hdfs://``, ``abfs://`` are pyarrow's;
all others (``https://``, ``hf://``, ``az://`` ...) are fsspec's, where its package is installed.
"""

import io
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from pyiqa_amhp.datasets.images import IMAGE_SUFFIXES, expand
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.files import write_atomically

PYARROW_SCHEMES = ('abfs', 'abfss', 'gs', 'hdfs', 's3', 'viewfs')
MAX_BYTES = 2**30  # of a remote image, which is read as a whole (our choice)
ATTEMPTS = 3  # to read a remote file, since networks fail for moments (our choice)
MAGIC = re.compile(r'[*?\[]')


def scheme_of(name: str) -> str:
    """``s3`` of ``s3://bucket/key``; '' for local names. One letter is a Windows drive."""
    found = re.match(r'([a-z][a-z0-9+.-]+)://', name, re.IGNORECASE)
    return found[1].lower() if found else ''


def hidden(name: str) -> str:
    """A name without what is secret in it: keys before ``@`` and options behind ``?``."""
    scheme = scheme_of(name)
    if scheme not in PYARROW_SCHEMES:
        return re.sub(r'(?<=://)[^/@]*@', '', name)
    user = r'(?<=://)[^/@]*@' if scheme in ('s3', 'gs') else r'(?<=://)[^/@]*:[^/@]*@'
    return re.sub(user, '', name.partition('?')[0])


@dataclass
class Files:
    """The file systems of a job.

    Args:
        names: the inputs and outputs as given. What they say about a scheme's connection
            (``s3://key:secret@bucket?endpoint_override=host``) goes for all names of that scheme.

    Attributes:
        folder: what relative names are relative to: worker processes run elsewhere.
        connections: by scheme, the part before ``@`` and the part behind ``?``.
    """

    names: Iterable[str]
    folder: str = field(default_factory=os.getcwd)
    connections: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        self.names = list(self.names)
        for name in self.names:
            if (scheme := scheme_of(name)) in PYARROW_SCHEMES and name != hidden(name):
                rest, _, query = name.partition('?')
                user = rest.partition('://')[2].rpartition('@')[0] if '@' in rest else ''
                user = user if scheme in ('s3', 'gs') else ''
                self.connections.setdefault(scheme, (user, query))

    def at(self, name: str) -> tuple[fs.FileSystem, str]:
        """The file system of a name, and its path there.

        Raises:
            AMHPError: nothing opens such names, or not with these credentials.
        """
        scheme = scheme_of(name)
        if not scheme:
            return _local(), os.path.join(self.folder, os.path.expanduser(name))
        try:
            if scheme == 'file':
                return fs.FileSystem.from_uri(name)
            if scheme not in PYARROW_SCHEMES:
                return _by_fsspec(name)
            name = hidden(name) if name in self.names else name  # a key may have a "?" in it
            host, _, path = name.partition('://')[2].partition('/')
            user, query = self.connections.get(scheme, ('', ''))
            filesystem, base = _connected(
                f'{scheme}://{user}{"@" * bool(user)}{host}{"?" * bool(query)}{query}'
            )
            return filesystem, f'{base.rstrip("/")}/{path}' if path else base
        except (OSError, ValueError, ImportError, NotImplementedError) as error:
            if isinstance(error, AMHPError):
                raise
            raise AMHPError(
                f'{hidden(name)}: cannot be opened ({_line(error)}); expected a local path, or an '
                'address that pyarrow or an installed package of fsspec opens (s3://, gs://, ...)'
            ) from error

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        filesystem, path = self.at(name)
        return filesystem.get_file_info(path).type != fs.FileType.NotFound

    def listed(self, name: str) -> list[str]:
        """The names of the files in a folder; none where there is no such folder."""
        filesystem, path = self.at(name)
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [info.base_name for info in found if info.type == fs.FileType.File]

    def read(self, name: str) -> bytes:
        """A whole file."""
        filesystem, path = self.at(name)
        with filesystem.open_input_stream(path, compression=None) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """A whole file or, where that fails, none.

        Object stores show an object once it is complete; on local disks a temporary file takes
        its name then.

        Raises:
            AMHPError: it could not be written.
        """
        filesystem, path = self.at(name)
        if isinstance(filesystem, fs.LocalFileSystem):
            write_atomically(path, lambda file: file.write_bytes(content))
            return
        try:
            if filesystem.type_name not in ('s3', 'gcs', 'abfs'):
                filesystem.create_dir(path.rpartition('/')[0], recursive=True)
            renames = filesystem.type_name == 'hdfs'
            with filesystem.open_output_stream(path + '.partial' * renames) as file:
                file.write(content)
            if renames:
                filesystem.move(path + '.partial', path)
        except OSError as error:
            raise AMHPError(f'{hidden(name)}: could not be written ({_line(error)})') from error

    def open_image(self, name: str) -> str | io.BytesIO:
        """What ``read_image`` reads for a name: a local path, or a remote file's content.

        Raises:
            ImageReadError: nothing opens such names; or a remote file is gone, too large, or cannot
                be read.
        """
        try:
            filesystem, path = self.at(name)
        except AMHPError as error:
            raise ImageReadError(str(error)) from error
        if isinstance(filesystem, fs.LocalFileSystem):
            return path
        for attempt in range(ATTEMPTS):
            try:
                with filesystem.open_input_file(path) as file:
                    if file.size() > MAX_BYTES:
                        raise ImageReadError(
                            f'{name}: {file.size():,} bytes, {MAX_BYTES:,} at most'
                        )
                    return Content(file.read(), name)
            except FileNotFoundError as error:
                raise ImageReadError(f'{name}: no such file; check the path') from error
            except OSError as error:
                if attempt == ATTEMPTS - 1:
                    raise ImageReadError(f'{name}: cannot be read ({_line(error)})') from error
                time.sleep(attempt + 0.5)
        raise AssertionError('unreachable')

    def images(self, name: str) -> Iterator[str]:
        """The names of the images that a file, folder or glob stands for, one by one, in order.

        As ``find_images``, to which local names go.

        Raises:
            AMHPError: a folder or a glob without images.
        """
        if not scheme_of(name):
            yield from map(str, expand(Path(name)))
            return
        filesystem, path = self.at(name)
        base = hidden(name).rstrip('/')
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.Directory:
            found = _walk(filesystem, path)
        elif kind == fs.FileType.NotFound and MAGIC.search(path):
            base, found = base[: -len(path)], _globbed(filesystem, path)
            found = (file for file in found if _is_image(file))
        else:
            yield base
            return
        first = next(found, None)
        if first is None:
            raise AMHPError(
                f'{base}: no images here; expected files that end in '
                f'{", ".join(sorted(IMAGE_SUFFIXES))}'
            )
        yield base + first
        yield from (base + file for file in found)

    def matching(self, name: str) -> list[str]:
        """The files that a name with ``*`` stands for, or the name itself; for tables."""
        filesystem, path = self.at(name)
        if not MAGIC.search(path) or filesystem.get_file_info(path).type == fs.FileType.File:
            return [hidden(name)]
        base = hidden(name)[: -len(path)] if scheme_of(name) else ''
        found = [base + file for file in _globbed(filesystem, path)]
        if not found:
            raise AMHPError(f'{hidden(name)}: no such files')
        return found


class Content(io.BytesIO):
    """A file's content under its name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def _walk(filesystem: fs.FileSystem, folder: str, below: str = '') -> Iterator[str]:
    """``/x/a.jpg`` of the images below a folder, in the order of their paths."""
    for info in sorted(
        filesystem.get_file_info(fs.FileSelector(folder)), key=lambda info: info.base_name
    ):
        name = f'{below}/{info.base_name}'
        if info.type == fs.FileType.Directory and not info.base_name.startswith('.'):
            yield from _walk(filesystem, info.path, name)
        elif info.type == fs.FileType.File and _is_image(name):
            yield name


def _is_image(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')


def _globbed(filesystem: fs.FileSystem, pattern: str) -> Iterator[str]:
    from fsspec.implementations.arrow import ArrowFSWrapper

    return iter(sorted(ArrowFSWrapper(filesystem).glob(pattern)))


@lru_cache
def _local() -> fs.LocalFileSystem:
    return fs.LocalFileSystem()


@lru_cache(64)
def _connected(uri: str) -> tuple[fs.FileSystem, str]:
    """A connection, made once for a bucket or host."""
    return fs.FileSystem.from_uri(uri)


def _by_fsspec(name: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(name)
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
