"""Choose the text of an image from its comments; in training another one each time."""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import ArrayLike

from pyiqa_amhp.datasets.comment_store import CommentStore
from pyiqa_amhp.datasets.keywords import MAX_TOKENS, count_clip_tokens
from pyiqa_amhp.errors import AMHPError

MODES = ('one', 'join')


class CommentSampler:
    """Texts of the images of a data set, chosen from their comments (paper, section 4.1).

    ``sampler[i]`` is a comment about attributes, or several; for an image that has none, one of
    its other comments, always the same; for an image without comments, ``''``. A comment is about
    the attributes that it names within CLIP's 77 tokens (see ``read_masks``).

    Args:
        store: comments of all images.
        image_ids: ids of the images, in the order of the data set, ``(N,)``.
        attributes: names of the attributes that comments may be about; None for all.
        mode: ``one`` takes one attribute comment, ``join`` as many as fit, joined by blanks.
        seed: seed of the choices that stay the same.
        training: whether to choose a new comment, or a new order, each time, by torch's random
            numbers (workers and epochs differ). Otherwise the choice depends only on ``seed``,
            the image id and the comments of the image, and the order is that of the file.
        count_tokens: counts the tokens of a text without start and end tokens, of which 75 fit;
            None for CLIP's tokenizer. A single comment is never cut.

    Raises:
        AMHPError: an unknown mode, or an attribute that the store does not have.
    """

    def __init__(
        self,
        store: CommentStore,
        image_ids: ArrayLike,
        attributes: Sequence[str] | None = None,
        mode: str = 'one',
        seed: int = 0,
        training: bool = False,
        count_tokens: Callable[[str], int] | None = None,
    ):
        if mode not in MODES:
            raise AMHPError(f'comment mode {mode!r}: expected {" or ".join(MODES)}')
        self.store, self.mode, self.seed, self.training = store, mode, seed, training
        self._bits = np.uint16(store.bits(attributes))
        self._image_ids = np.asarray(image_ids, np.int64)
        self._start, self._stop = store.rows(self._image_ids)
        self._count_tokens = count_tokens or count_clip_tokens
        if mode == 'join':
            self._count_tokens('')  # loads CLIP's vocabulary before workers are forked

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> str:
        start, stop = self._start[index], self._stop[index]
        if start == stop:
            return ''
        rows = start + np.flatnonzero(self.store.masks[start:stop] & self._bits)
        if not len(rows):
            return self.store.text(start + self._fixed_choice(index, stop - start))
        if self.mode == 'one':
            return self.store.text(rows[self._choice(index, len(rows))])
        order = torch.randperm(len(rows)).numpy() if self.training else slice(None)
        return self._join(rows[order])

    def _choice(self, index: int, n: int) -> int:
        """Choose one of ``range(n)``."""
        return int(torch.randint(n, ())) if self.training else self._fixed_choice(index, n)

    def _fixed_choice(self, index: int, n: int) -> int:
        """Choose one of ``range(n)``, the same in every data set and on every machine."""
        key = f'{self.seed} {self._image_ids[index]}'.encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest(), 'big') % int(n)

    def _join(self, rows: np.ndarray) -> str:
        """Join comments until the next one does not fit."""
        joined = self.store.text(rows[0])
        for row in rows[1:]:
            longer = f'{joined} {self.store.text(row)}'
            if self._count_tokens(longer) > MAX_TOKENS:
                break
            joined = longer
        return joined
