"""How deep JSON nests, seen before a parser sees it: one that is deep takes all memory there is."""

import numpy as np

DEEPEST = 100  # brackets within brackets; AVA-Captions has five (our choice)
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))


class Nesting:
    """Follows brackets outside of strings, block by block.

    Args:
        most: how deep it may go.
    """

    def __init__(self, most: int = DEEPEST):
        self._most = most
        self._depth, self._in_string, self._rest = 0, False, b''

    def feed(self, block: bytes) -> None:
        """Pass over the next bytes of the JSON.

        Raises:
            ValueError: deeper than ``most``.
        """
        plain = (self._rest + block).replace(b'\\\\', b'').replace(b'\\"', b'')
        self._rest = b'\\' if plain.endswith(b'\\') else b''  # what it escapes is yet to come
        parts = plain.split(b'"')
        outside = b''.join(parts[self._in_string :: 2]).translate(None, _NO_BRACKETS)
        self._in_string ^= len(parts) % 2 == 0
        if outside:
            opens = np.isin(np.frombuffer(outside, np.uint8), list(b'[{'))
            depths = self._depth + np.cumsum(np.where(opens, 1, -1))
            self._depth = int(depths[-1])
            if depths.max() > self._most:
                raise ValueError(f'brackets nested more than {self._most} deep')
