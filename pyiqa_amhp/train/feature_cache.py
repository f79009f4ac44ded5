"""Features on disk: rows of numbers by name, in one SQLite file."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyiqa.utils import get_root_logger

WAIT = 30  # seconds for another process to finish its write
DIGEST = 16  # bytes
TABLE = 'CREATE TABLE IF NOT EXISTS features (name BLOB PRIMARY KEY, row BLOB NOT NULL)'


class Key(NamedTuple):
    """What a row is of: its name, and a stamp that another state of the same thing would not have.

    A name has one row: a new stamp takes the old one's place.
    """

    name: bytes
    stamp: bytes = b''


class FeatureCache:
    """Rows of float32, kept between runs and shared by processes.

    Each row carries a checksum of its name, its stamp and its numbers. One that does not fit, for
    whatever reason, is as good as none: no number comes out that did not go in under this key.

    A file that is damaged is begun anew, with a warning. Where the disk is full, or the folder
    may not be written to or read, that is said once and done without.

    Args:
        path: of the file; it and its folder are made when there is something to write.
        width: numbers in a row.
    """

    def __init__(self, path: Path, width: int):
        self.path, self.width = Path(path), width
        self._given_up: set[str] = set()

    def read(self, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
        """The rows ``(width,)`` that are there, of those asked for."""

        def select(db: sqlite3.Connection) -> dict[Key, np.ndarray]:
            query = 'SELECT row FROM features WHERE name = ?'
            found = {key: db.execute(query, (_short(key.name),)).fetchone() for key in keys}
            return {key: self._unpack(row[0]) for key, row in found.items() if self._fits(key, row)}

        return self._attempt('read', select) or {}

    def write(self, rows: Mapping[Key, np.ndarray]) -> None:
        """Keep rows ``(width,)``, all of them or none."""
        packed = [(_short(key.name), self._pack(key, row)) for key, row in rows.items()]
        if packed:
            insert = 'INSERT OR REPLACE INTO features VALUES (?, ?)'
            self._attempt('written', lambda db: db.executemany(insert, packed))

    def _attempt(self, what: str, work: Callable):
        """Do ``work`` on the database; None where it cannot be done."""
        if what in self._given_up:
            return None
        try:
            if what == 'read' and not self.path.exists():
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for each batch, so that worker processes never inherit a connection.
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as db, db:
                db.execute(TABLE)
                return work(db)
        except (OSError, sqlite3.OperationalError) as error:  # full, locked, not allowed
            self._given_up.add(what)
            get_root_logger().warning(
                f'{self.path}: features cannot be {what} ({error}), so they are computed each '
                'time; make room there or give another folder (train: feature_cache: DIR)'
            )
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)
        return None

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        get_root_logger().warning(
            f'{self.path}: a damaged file of features ({error}) is deleted and begun anew'
        )
        try:
            self.path.unlink(missing_ok=True)
        except OSError as unlink_error:
            self._given_up |= {'read', 'written'}
            get_root_logger().warning(f'{self.path}: it cannot be deleted ({unlink_error})')

    def _pack(self, key: Key, row: np.ndarray) -> bytes:
        numbers = np.asarray(row, '<f4').tobytes()
        return _checksum(key, numbers) + numbers

    def _fits(self, key: Key, row: tuple | None) -> bool:
        packed = row[0] if row else None
        return (
            isinstance(packed, bytes)
            and len(packed) == DIGEST + 4 * self.width
            and packed[:DIGEST] == _checksum(key, packed[DIGEST:])
        )

    def _unpack(self, packed: bytes) -> np.ndarray:
        return np.frombuffer(packed, '<f4', offset=DIGEST)


def _short(name: bytes) -> bytes:
    return blake2b(name, digest_size=DIGEST).digest()


def _checksum(key: Key, numbers: bytes) -> bytes:
    return blake2b(key.name + key.stamp + numbers, digest_size=DIGEST).digest()
