"""Comments on disk: an Arrow file that all workers map into memory and share.

Nothing is read before it is asked for, and nothing is kept: a text is decoded from the mapped
bytes each time.
"""

import functools
import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically

COLUMNS = [('image_id', pa.int64()), ('text', pa.large_string()), ('attributes', pa.uint16())]
FORMAT = 1


def write_store(
    path: str | Path, table: pa.Table, masks: np.ndarray, attributes: Sequence[str]
) -> Path:
    """Write comments, sorted by image (those of one image in their order), for ``CommentStore``.

    Args:
        table: N rows of ``image_id`` and ``text``, as ``read_comments`` gives them; ``source`` in
            its schema's metadata is kept.
        masks: ``(N,)``, bit i of each for ``attributes[i]``.
        attributes: names.

    Raises:
        ValueError: masks of another length.
    """
    if len(masks) != len(table):
        raise ValueError(f'{len(masks)} masks for {len(table)} comments')
    source = (table.schema.metadata or {}).get(b'source', b'').decode()
    about = {'format': FORMAT, 'attributes': list(attributes), 'source': source}
    schema = pa.schema(COLUMNS, {'pyiqa_amhp': json.dumps(about)})
    ids = table['image_id'].to_numpy()
    order = np.argsort(ids, kind='stable')
    text = table['text']
    text = text.chunk(0) if text.num_chunks == 1 else text.combine_chunks()  # a copy, if needed
    columns = [ids[order], text.take(pa.array(order)), np.asarray(masks, np.uint16)[order]]
    batch = pa.record_batch(columns, schema=schema)

    def write(file: Path) -> None:
        with pa.OSFile(str(file), 'wb') as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)

    return write_atomically(path, write)


class CommentStore:
    """Comments sorted by image, and which attributes each is about.

    Copies in other processes map the file again, forked ones share it.

    Args:
        path: a file of ``write_store``.

    Attributes:
        attributes: names; bit i of a mask belongs to the i-th.
        source: the name of the publisher's file.
        image_ids: ``(M,)`` int64, the image of each row, rising.
        masks: ``(M,)`` uint16.

    Raises:
        AMHPError: no such file, a cut or damaged one, or one that ``write_store`` did not write.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser().absolute()
        try:
            about, batch = _open(self.path)
            self.attributes: tuple[str, ...] = tuple(about['attributes'])
            self.source: str = about['source']
            self.image_ids = _numbers(batch.column('image_id'), np.int64)
            self.masks = _numbers(batch.column('attributes'), np.uint16)
            self._offsets, self._bytes = _text_buffers(batch.column('text'))
        except FileNotFoundError:
            raise AMHPError(f'{self.path}: no such file; `amhp prepare ava` writes it') from None
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition('\n')[0]
            raise self._unusable(f'cut, damaged, or not an Arrow file ({reason})') from error
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable('an Arrow file, but not one of comments') from error
        rising = (self.image_ids[1:] >= self.image_ids[:-1]).all()
        in_order = (self._offsets[1:] >= self._offsets[:-1]).all()
        if not (
            rising and in_order and 0 <= self._offsets[0] <= self._offsets[-1] <= len(self._bytes)
        ):
            raise self._unusable('damaged')

    def _unusable(self, reason: str) -> AMHPError:
        return AMHPError(f'{self.path}: {reason}; write it again with `amhp prepare ava --force`')

    def __reduce__(self):
        return CommentStore, (self.path,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, image_ids: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """First row of each image's comments, and the row after the last: each ``(N,)`` int64."""
        image_ids = np.asarray(image_ids, np.int64)
        start = np.searchsorted(self.image_ids, image_ids, 'left')
        return start, np.searchsorted(self.image_ids, image_ids, 'right')

    def text(self, row: int) -> str:
        """The comment of a row."""
        if not 0 <= row < len(self):
            raise IndexError(f'row {row} of {len(self)} comments')
        start, stop = self._offsets[row : row + 2].tolist()
        return str(self._bytes[start:stop], 'utf-8', 'replace')

    def mask(self, row: int) -> int:
        """The attributes that the comment of a row is about, bit i for the i-th."""
        return int(self.masks[row])

    def bits(self, attributes: Sequence[str] | None = None) -> int:
        """The mask of some attributes by name; of all for None.

        Raises:
            AMHPError: a name that the store does not have.
        """
        names = self.attributes if attributes is None else attributes
        for name in names:
            if name not in self.attributes:
                known = ', '.join(self.attributes)
                raise AMHPError(f'{self.path}: no attribute {name!r}; it knows {known}')
        return sum(1 << self.attributes.index(name) for name in dict.fromkeys(names))


def _open(path: Path) -> tuple[dict, pa.RecordBatch]:
    """What the file says of itself, and its one batch.

    Raises:
        KeyError, TypeError, ValueError: a file of something else.
    """
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    about = json.loads((reader.schema.metadata or {})[b'pyiqa_amhp'])
    if about['format'] != FORMAT or not reader.schema.equals(pa.schema(COLUMNS)):
        raise ValueError('another format')
    (batch,) = (reader.get_batch(i) for i in range(reader.num_record_batches))
    return about, batch


def _numbers(column: pa.Array, dtype: type) -> np.ndarray:
    return np.frombuffer(column.buffers()[1] or b'', dtype, len(column))


def _text_buffers(column: pa.Array) -> tuple[np.ndarray, memoryview]:
    """Where each text begins and ends, ``(M + 1,)``, and the bytes of all."""
    _, offsets, data = column.buffers()
    if not len(column):
        return np.zeros(1, np.int64), memoryview(b'')
    return np.frombuffer(offsets, np.int64, len(column) + 1), memoryview(data or b'')


MOST_TOKENS = 75  # CLIP's 77 without start and end
MODES = ('one', 'join')


class CommentTexts:
    """One text for each image, chosen from its comments as the paper does (section 4.1).

    Comments about attributes, where an image has any; else one of its other comments, always the
    same; else ``''``.

    Args:
        store: the comments.
        image_ids: ``(N,)``, the images in the order of a data set.
        attributes: names of those that count; None for all.
        mode: ``one`` takes one attribute comment, ``join`` as many as fit, joined by blanks.
        seed: of what is chosen once and for all.
        training: choose anew each time, by torch's generator (workers and epochs differ): another
            comment, or another order. Otherwise the choice depends on nothing but ``seed``, the
            image id and the image's own comments, and the order is that of the file.
        count_tokens: the tokens of a text without start and end, of which 75 fit; None for those
            of CLIP. A single comment is never cut here.

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
            self._count_tokens('')  # loads CLIP's words before workers are forked

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
        return int(torch.randint(n, ())) if self.training else self._fixed_choice(index, n)

    def _fixed_choice(self, index: int, n: int) -> int:
        """One of ``range(n)``, the same wherever the image stands and on every machine."""
        key = f'{self.seed} {self._image_ids[index]}'.encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest(), 'big') % int(n)

    def _join(self, rows: np.ndarray) -> str:
        """The first comment, and those after it up to the first that does not fit."""
        joined = self.store.text(rows[0])
        for row in rows[1:]:
            longer = f'{joined} {self.store.text(row)}'
            if self._count_tokens(longer) > MOST_TOKENS:
                break
            joined = longer
        return joined


def count_clip_tokens(text: str) -> int:
    """CLIP's tokens of a text, without start and end."""
    return len(_clip_tokenizer().encode(text))


@functools.cache
def _clip_tokenizer():
    import open_clip

    return open_clip.SimpleTokenizer()
