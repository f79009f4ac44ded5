"""Limits of the page on uploads and requests. All defaults are our choice."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.text import given_text, writable

MINUTE = 60.0  # seconds
MB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    Attributes:
        file_mb: size of a file in megabytes (2^20 bytes).
        pixels: pixels of a photograph. Scoring holds several copies of it in memory.
        files: photographs in one request.
        requests: requests of a client in a minute.
        waiting: requests that wait for the model, which handles one at a time.
        text: characters of a comment.
        disk_mb: size of all stored uploads together in megabytes.

    Raises:
        AMHPError: a limit is below 1.
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
            value = getattr(self, field.name)
            if value < 1:
                raise AMHPError(f'limit {field.name}={value!r}: expected 1 or more')

    def check_text(self, text: str | None, name: str = 'the comment') -> str:
        """Strip a text, and check its length.

        Args:
            text: a text; None counts as ``''``.
            name: what messages call the text.

        Raises:
            AMHPError: the text is too long.
        """
        text = writable(given_text(text))
        if len(text) > self.text:
            raise AMHPError(
                f'{name} has {len(text):,} characters, and {self.text:,} is the limit: shorten it '
                '(the model reads only 77 tokens)'
            )
        return text


class Rate:
    """Limit of the requests of each client in any minute.

    Args:
        limit: requests of a client in a minute.
        clock: returns the time in seconds.

    Attributes:
        recent: times of the requests in the last minute, by client.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic):
        self.limit, self.clock = limit, clock
        self.recent: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, client: str) -> None:
        """Count a request of a client.

        Raises:
            AMHPError: too many requests; the message says when to try again. A refused request
                is not counted.
        """
        with self._lock:
            now = self.clock()
            self._forget(now)
            times = self.recent.setdefault(client, deque())
            if len(times) >= self.limit:
                wait = math.ceil(times[0] + MINUTE - now) or 1
                raise AMHPError(
                    f'too many requests: {self.limit} a minute are the limit; try again in {wait} s'
                )
            times.append(now)

    def _forget(self, now: float) -> None:
        """Drop requests that are older than a minute, and clients without younger ones."""
        for client, times in list(self.recent.items()):
            while times and now - times[0] >= MINUTE:
                times.popleft()
            if not times:
                del self.recent[client]
