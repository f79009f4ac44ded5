"""What the page takes, and from whom how often. All defaults are our choice."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from pyiqa_amhp.errors import AMHPError

MINUTE = 60.0  # seconds
MB = 2**20


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        file_mb: megabytes (2^20 bytes) of a file.
        pixels: of a photograph, which is in memory several times while it is judged.
        files: photographs at once.
        requests: a minute and client, whatever each is about.
        waiting: requests that may wait for the model, which answers one at a time.
        text: characters of a comment.
        disk_mb: megabytes of all uploads together that are held at a time.

    Raises:
        AMHPError: one below 1.
    """

    file_mb: int = 50
    pixels: int = 64_000_000
    files: int = 100
    requests: int = 30
    waiting: int = 20
    text: int = 2000
    disk_mb: int = 2000

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) < 1:
                name, value = field.name, getattr(self, field.name)
                raise AMHPError(f'limit {name}={value!r}: expected 1 or more')

    def check_text(self, text: str | None, of: str = 'the comment') -> str:
        """The text without blanks around it, '' for none.

        Raises:
            AMHPError: too long.
        """
        text = (text or '').strip()
        if len(text) > self.text:
            raise AMHPError(
                f'{of} has {len(text):,} characters, and {self.text:,} is the limit; the model '
                'reads some 77 pieces of words: shorten it'
            )
        return text


class Rate:
    """At most so many requests a minute of each client.

    Args:
        most: of a client in any minute.
        clock: seconds, for tests.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self.most, self.clock = most, clock
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = {}

    def count(self, client: str) -> None:
        """Count a request.

        Raises:
            AMHPError: too many; says when the next may come. It is not counted.
        """
        with self._lock:
            now = self.clock()
            self._forget(now)
            recent = self._recent.setdefault(client, deque())
            if len(recent) >= self.most:
                wait = math.ceil(recent[0] + MINUTE - now) or 1
                raise AMHPError(
                    f'too many requests: {self.most} a minute are the limit; try again in {wait} s'
                )
            recent.append(now)

    def _forget(self, now: float) -> None:
        """Drop what is older than a minute, and clients without anything younger."""
        for client, recent in list(self._recent.items()):
            while recent and now - recent[0] >= MINUTE:
                recent.popleft()
            if not recent:
                del self._recent[client]
