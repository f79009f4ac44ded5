"""Files of a job, local or at addresses: ``s3://``, ``gs://``, ``hdfs://``, ``https://`` ...

fsspec opens all of them, each kind of address with its own package (s3fs for ``s3://``).
"""

import base64
import io
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pyiqa_amhp.datasets.formats import IMAGE_SUFFIXES, is_image_name
from pyiqa_amhp.datasets.images import expand
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.utils.text import existing_name

QUERY_OPTIONS = {
    'gs': ('endpoint_override', 'scheme', 'project_id'),
    's3': ('endpoint_override', 'scheme', 'region'),
}
"""Schemes whose buckets share one connection, which keys before ``@`` and these options behind
``?`` describe: another host (``host:port``) than Google's or Amazon's, ``http`` or ``https`` ..."""
USER_SCHEMES = ('abfs', 'abfss', 'hdfs')
"""Before ``@`` stands a user or a container: part of the name, and secret only with a password."""
OBJECT_STORES = ('abfs', 'abfss', 'az', 'gcs', 'gs', 's3', 's3a')
"""They have no folders that must be made first."""

MAX_BYTES = 2**30  # of a remote image, which is read as a whole (our choice)
READ_ATTEMPTS = 3  # for a remote image, since networks fail for moments (our choice)
S3_BLOCK_BYTES = 5 * 2**20  # read ahead in a table: s3fs's own 50 MB are more than most parts need
GLOB = re.compile(r'[*?\[]')


def scheme_of(name: str) -> str:
    """``s3`` for ``s3://bucket/key``; ``''`` for local names, Windows drives among them."""
    found = re.match(r'([a-z][a-z0-9+.-]+)://', name, re.IGNORECASE)
    return found[1].lower() if found else ''


def redact(name: str) -> str:
    """Remove what is secret in an address: keys and passwords before ``@``, options behind ``?``.

    What stands behind ``?`` stays in addresses where it is part of the name (``https://``).
    """
    scheme = scheme_of(name)
    if scheme in (*QUERY_OPTIONS, *USER_SCHEMES):
        name = name.partition('?')[0]
    return _secret_user(scheme).sub('', name)


def _secret_user(scheme: str) -> re.Pattern[str]:
    if scheme in USER_SCHEMES:
        return re.compile(r'(?<=://)[^/@]*:[^/@]*@')
    return re.compile(r'(?<=://)[^/@]*@')


class Storage:
    """The file systems of a job, usable in any process.

    Args:
        names: inputs and outputs as the user gave them. Keys and options in one of them
            (``s3://key:secret@bucket?endpoint_override=host``) are used for all names of the same
            scheme (``s3://``, ``gs://``) or the same host (others).

    Attributes:
        folder: the folder of relative names, since worker processes run elsewhere.
    """

    def __init__(self, names: Iterable[str] = ()):
        self.folder = os.getcwd()
        names = list(names)
        self._given = frozenset(names)
        self._connections: dict[str, tuple[str, str]] = {}  # text before "@", text behind "?"
        for name in names:
            if redact(name) == name:
                continue
            scheme = scheme_of(name)
            user = _secret_user(scheme).search(name)
            query = name.partition('?')[2] if scheme in (*QUERY_OPTIONS, *USER_SCHEMES) else ''
            connection = user[0].removesuffix('@') if user else '', query
            self._connections.setdefault(_connection_key(name), connection)

    def resolve(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Find the file system of a name, and the path of the name there.

        Raises:
            AMHPError: no installed package opens such names, or not with these credentials.
        """
        scheme = scheme_of(name)
        if not scheme:
            return LocalFileSystem(), os.path.join(self.folder, os.path.expanduser(name))
        if scheme == 'file':
            return LocalFileSystem(), unquote(name[len('file://') :])
        if name in self._given:
            name = redact(name)  # other names may have a "?" in an object's key
        user, query = self._connections.get(_connection_key(name), ('', ''))
        rest = name.partition('://')[2]
        try:
            if scheme in QUERY_OPTIONS:
                return fsspec.filesystem(scheme, **_bucket_options(scheme, user, query)), rest
            if scheme in ('http', 'https'):
                return fsspec.filesystem(scheme, **_http_options(user)), name
            address = f'{scheme}://{user}{"@" * bool(user)}{rest}{"?" * bool(query)}{query}'
            return fsspec.core.url_to_fs(address)
        except Exception as error:  # each package of fsspec has its own
            raise AMHPError(
                f'{redact(name)}: cannot be opened ({_reason(error)}); expected a local path, or '
                'an address that an installed package of fsspec opens (s3://, gs://, ...)'
            ) from error

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder.

        Raises:
            AMHPError: it cannot be found out.
        """
        filesystem, path = self.resolve(name)
        with _reading(name):
            return _kind(filesystem, path) is not None

    def list_files(self, folder: str) -> list[str]:
        """List the names of the files in a folder; none where there is no such folder.

        Raises:
            AMHPError: it cannot be listed.
        """
        filesystem, path = self.resolve(folder)
        filesystem.invalidate_cache()  # other machines write there
        with _reading(folder):
            try:
                entries = filesystem.ls(path, detail=True)
            except FileNotFoundError:
                return []
        return [_base_name(entry) for entry in entries if entry['type'] == 'file']

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            AMHPError: there is no such file, or it cannot be opened.
        """
        filesystem, path = self.resolve(name)
        with _reading(name):
            return filesystem.open(path, 'rb')

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            AMHPError: there is no such file, or it cannot be read.
        """
        filesystem, path = self.resolve(name)
        with _reading(name):
            return filesystem.cat_file(path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Object stores show an object once it is complete; on local disks and HDFS a temporary file
        is renamed.

        Raises:
            AMHPError: it could not be written.
        """
        filesystem, path = self.resolve(name)
        if isinstance(filesystem, LocalFileSystem):
            write_atomically(path, lambda file: file.write_bytes(content))
            return
        scheme = scheme_of(name)
        try:
            if scheme not in OBJECT_STORES:
                filesystem.makedirs(path.rpartition('/')[0], exist_ok=True)
            if scheme != 'hdfs':
                filesystem.pipe_file(path, content)
                return
            filesystem.pipe_file(f'{path}.partial', content)
            if filesystem.exists(path):  # HDFS renames to a free name only
                filesystem.rm_file(path)
            filesystem.mv(f'{path}.partial', path)
        except Exception as error:
            raise AMHPError(f'{redact(name)}: could not be written ({_reason(error)})') from error

    def open_image(self, name: str) -> str | io.BytesIO:
        """Give ``read_image`` what it reads: a local path, or the content of a remote file.

        Raises:
            ImageReadError: no installed package opens such names; or a remote file does not exist,
                is too large, or cannot be read.
        """
        try:
            filesystem, path = self.resolve(name)
        except AMHPError as error:
            raise ImageReadError(str(error)) from error
        if isinstance(filesystem, LocalFileSystem):
            return existing_name(path)
        for attempt in range(READ_ATTEMPTS):
            try:
                size = filesystem.size(path) or 0  # None: a server does not tell
                if size > MAX_BYTES:
                    raise ImageReadError(f'{name}: {size:,} bytes, {MAX_BYTES:,} at most')
                return NamedBytesIO(filesystem.cat_file(path), name)
            except ImageReadError:
                raise
            except FileNotFoundError as error:
                raise ImageReadError(f'{name}: no such file; check the path') from error
            except Exception as error:
                if attempt == READ_ATTEMPTS - 1:
                    raise ImageReadError(f'{name}: cannot be read ({_reason(error)})') from error
                time.sleep(attempt + 0.5)
        raise AssertionError('unreachable')

    def find_images(self, name: str) -> Iterator[str]:
        """Find the images of a file, folder or glob one by one, in the order of their paths.

        Local names are treated as in ``datasets.images.find_images``.

        Raises:
            AMHPError: a folder or a glob without images, or one that cannot be listed.
        """
        if scheme_of(name) in ('', 'file'):
            prefix = 'file://' * bool(scheme_of(name))
            path = self.resolve(name)[1] if prefix else name
            yield from (f'{prefix}{image}' for image in expand(Path(path)))
            return
        filesystem, path = self.resolve(name)
        address = redact(name).rstrip('/')
        images: Iterator[str]
        with _reading(name):
            kind = _kind(filesystem, path)
            if kind == 'directory':
                images = (address + below for below in _walk(filesystem, path))
            elif kind is None and GLOB.search(path):
                images = filter(_is_image, _glob(filesystem, path, address))
            else:
                yield address
                return
            first = next(images, None)
            if first is None:
                raise AMHPError(
                    f'{address}: no images here; expected files that end in '
                    f'{", ".join(sorted(IMAGE_SUFFIXES))}'
                )
            yield first
            yield from images

    def find_tables(self, name: str) -> list[str]:
        """Find the files of a glob in the order of their names; any other name stands for itself.

        Raises:
            AMHPError: a glob without files, or one that cannot be listed.
        """
        filesystem, path = self.resolve(name)
        with _reading(name):
            if not GLOB.search(path) or _kind(filesystem, path) == 'file':
                return [redact(name)]
            found = list(_glob(filesystem, path, redact(name) if scheme_of(name) else path))
        if not found:
            raise AMHPError(f'{redact(name)}: no such files')
        return found


class NamedBytesIO(io.BytesIO):
    """The content of a file, with the name of the file for messages."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def _connection_key(name: str) -> str:
    """The names with which an address shares its connection: its scheme, or ``https://host``."""
    scheme = scheme_of(name)
    return scheme if scheme in QUERY_OPTIONS else '/'.join(redact(name).split('/')[:3])


@lru_cache
def _bucket_options(scheme: str, user: str, query: str) -> dict[str, Any]:
    """Translate what an address says about its connection to options of s3fs or gcsfs.

    Args:
        scheme: ``s3`` or ``gs``.
        user: for S3 ``key:secret``, percent-encoded, or ``''``: credentials are found as AWS's
            tools do, and without any the bucket is read as a public one. For ``gs`` ``anonymous``
            or ``''``.
        query: options as pyarrow calls them, see ``QUERY_OPTIONS``; the bucket is never created, so
            ``allow_bucket_creation`` has no effect.

    Raises:
        AMHPError: an unknown option.
    """
    given = dict(parse_qsl(query))
    given.pop('allow_bucket_creation', None)
    if unknown := given.keys() - set(QUERY_OPTIONS[scheme]):
        expected = ', '.join(QUERY_OPTIONS[scheme])
        raise AMHPError(f'unknown option {", ".join(sorted(unknown))}, expected {expected}')
    options: dict[str, Any] = {}
    if host := given.get('endpoint_override'):
        options['endpoint_url'] = f'{given.get("scheme", "https")}://{host}'
    if scheme == 'gs':
        if user == 'anonymous':
            options['token'] = 'anon'
        if project := given.get('project_id'):
            options['project'] = project
        return options
    options['default_block_size'] = S3_BLOCK_BYTES
    if user:
        key, _, secret = user.partition(':')
        options |= {'key': unquote(key), 'secret': unquote(secret)}
    else:
        import botocore.session

        options['anon'] = botocore.session.get_session().get_credentials() is None
    if 'endpoint_url' in options:
        options['config_kwargs'] = {'s3': {'addressing_style': 'path'}}
    if region := given.get('region'):
        options['client_kwargs'] = {'region_name': region}
    return options


def _http_options(user: str) -> dict[str, Any]:
    """Options of fsspec's http for ``name:password``, percent-encoded, or ``''``."""
    if not user:
        return {}
    credentials = base64.b64encode(unquote(user).encode()).decode()
    return {'client_kwargs': {'headers': {'Authorization': f'Basic {credentials}'}}}


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn errors of reading into an ``AMHPError`` that names the file, without secrets."""
    try:
        yield
    except AMHPError:
        raise
    except FileNotFoundError as error:
        raise AMHPError(f'{redact(name)}: no such file') from error
    except Exception as error:  # each package of fsspec has its own
        raise AMHPError(f'{redact(name)}: cannot be read ({_reason(error)})') from error


def _kind(filesystem: fsspec.AbstractFileSystem, path: str) -> str | None:
    """``file``, ``directory`` or another type of fsspec; None where there is nothing."""
    try:
        return filesystem.info(path)['type']
    except FileNotFoundError:
        return None


def _walk(filesystem: fsspec.AbstractFileSystem, folder: str, below: str = '') -> Iterator[str]:
    """Yield ``/x/a.jpg`` for each image below a folder, in the order of their paths."""
    filesystem.invalidate_cache()  # else the listings of all folders stay in memory
    for entry in sorted(filesystem.ls(folder, detail=True), key=_base_name):
        name = f'{below}/{_base_name(entry)}'
        if entry['type'] == 'directory' and not _base_name(entry).startswith('.'):
            yield from _walk(filesystem, entry['name'], name)
        elif entry['type'] == 'file' and _is_image(name):
            yield name


def _base_name(entry: dict[str, Any]) -> str:
    return entry['name'].rstrip('/').rpartition('/')[2]


def _is_image(name: str) -> bool:
    path = Path(name)
    return is_image_name(path)


def _glob(filesystem: fsspec.AbstractFileSystem, pattern: str, address: str) -> Iterator[str]:
    """Yield the addresses that match a pattern, which is the end of the address."""
    prefix = address.removesuffix(pattern)
    return (prefix + path for path in sorted(filesystem.glob(pattern)))


def _reason(error: Exception) -> str:
    """The first line of an error's text, without secrets."""
    lines = str(error).strip().splitlines()
    return _secret_user('').sub('', lines[0])[:300] if lines else type(error).__name__
