"""A cache of features on disk: rows of numbers by name, in one SQLite file."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pyiqa.utils import get_root_logger

TIMEOUT = 30  # seconds to wait for another process to finish its write
DIGEST_SIZE = 16  # bytes
TABLE = 'CREATE TABLE IF NOT EXISTS features (name BLOB PRIMARY KEY, row BLOB NOT NULL)'

T = TypeVar('T')


class Key(NamedTuple):
    """Key of a row: a name, and a stamp that changes when the named thing changes.

    There is one row for each name: a row with a new stamp replaces the old one.
    """

    name: bytes
    stamp: bytes = b''


class FeatureCache:
    """Rows of float32 that stay between runs, and that several processes can read and write.

    Each row has a checksum of its name, its stamp and its numbers. Rows with a bad checksum count
    as cache misses, so that a key never gets numbers that were not written under it.

    A damaged file is deleted with a warning, and a new one is started. If the disk is full or the
    folder cannot be used, there is one warning, and features are no longer cached.

    Args:
        path: the path of the file; it and its folder are created by the first write.
        width: the number of numbers in a row.
    """

    def __init__(self, path: Path, width: int):
        self.path, self.width = Path(path), width
        self._disabled: set[str] = set()

    def read(self, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
        """Read the rows ``(width,)`` of these keys; keys without one are left out."""

        def select(db: sqlite3.Connection) -> dict[Key, np.ndarray]:
            query = 'SELECT row FROM features WHERE name = ?'
            results = {key: db.execute(query, (_digest(key.name),)).fetchone() for key in keys}
            return {
                key: np.frombuffer(result[0], '<f4', offset=DIGEST_SIZE)
                for key, result in results.items()
                if self._is_valid(key, result)
            }

        return self._run('read', select) or {}

    def write(self, rows: Mapping[Key, np.ndarray]) -> None:
        """Write rows ``(width,)``, all of them or none."""
        packed = [(_digest(key.name), _pack(key, row)) for key, row in rows.items()]
        if packed:
            insert = 'INSERT OR REPLACE INTO features VALUES (?, ?)'
            self._run('written', lambda db: db.executemany(insert, packed))

    def _run(self, verb: str, query: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a query on the database; return None if that is not possible.

        Args:
            verb: what the query does with features, ``read`` or ``written``, for messages.
            query: the query.
        """
        if verb in self._disabled:
            return None
        try:
            if verb == 'read' and not self.path.exists():
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for each query, so that worker processes never inherit a connection.
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as db, db:
                db.execute(TABLE)
                return query(db)
        except (OSError, sqlite3.OperationalError) as error:  # full, locked, not allowed
            self._disabled.add(verb)
            get_root_logger().warning(
                f'{self.path}: features cannot be {verb} ({error}), so they are computed each '
                'time; make room there or give another folder (train: feature_cache: DIR)'
            )
        except sqlite3.DatabaseError as error:
            self._delete_damaged(error)
        return None

    def _delete_damaged(self, error: sqlite3.DatabaseError) -> None:
        get_root_logger().warning(
            f'{self.path}: a damaged file of features ({error}) is deleted; a new one is started'
        )
        try:
            self.path.unlink(missing_ok=True)
        except OSError as unlink_error:
            self._disabled |= {'read', 'written'}
            get_root_logger().warning(f'{self.path}: it cannot be deleted ({unlink_error})')

    def _is_valid(self, key: Key, result: tuple | None) -> bool:
        """Whether the result of a query has the width and the checksum of a row with this key."""
        packed = result[0] if result else None
        return (
            isinstance(packed, bytes)
            and len(packed) == DIGEST_SIZE + 4 * self.width
            and packed[:DIGEST_SIZE] == _digest(key.name + key.stamp + packed[DIGEST_SIZE:])
        )


def _pack(key: Key, row: np.ndarray) -> bytes:
    """Return a row as bytes, after its checksum."""
    numbers = np.asarray(row, '<f4').tobytes()
    return _digest(key.name + key.stamp + numbers) + numbers


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_SIZE).digest()
