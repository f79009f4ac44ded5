"""Comments on disk: an Arrow file that all workers map into memory and share.

Texts are decoded from the mapped bytes each time and not cached.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically

COLUMNS = [('image_id', pa.int64()), ('text', pa.large_string()), ('attributes', pa.uint16())]
FORMAT = 1


def write_store(
    path: str | Path,
    table: pa.Table,
    masks: np.ndarray,
    attributes: Sequence[str],
    keywords: str = '',
) -> Path:
    """Write the file of a ``CommentStore``.

    Comments are sorted by image; the order of the comments on one image is kept.

    Args:
        path: file to write.
        table: ``image_id`` and ``text``, ``N`` rows, as from ``read_comments``; ``source`` in the
            schema's metadata is kept.
        masks: attributes that each comment is about, ``(N,)``; bit i is ``attributes[i]``.
        attributes: names of the attributes.
        keywords: digest of the keywords that the masks come from, as of ``AttributeKeywords``.

    Raises:
        ValueError: not as many masks as comments.
        AMHPError: the file could not be written.
    """
    if len(masks) != len(table):
        raise ValueError(f'{len(masks)} masks for {len(table)} comments')
    source = (table.schema.metadata or {}).get(b'source', b'').decode()
    about = {
        'format': FORMAT,
        'attributes': list(attributes),
        'source': source,
        'keywords': keywords,
    }
    schema = pa.schema(COLUMNS, {'pyiqa_amhp': json.dumps(about)})
    ids = table['image_id'].to_numpy()
    order = np.argsort(ids, kind='stable')
    text = table['text']
    text = text.chunk(0) if text.num_chunks == 1 else text.combine_chunks()  # copies if needed
    columns = [ids[order], text.take(pa.array(order)), np.asarray(masks, np.uint16)[order]]
    batch = pa.record_batch(columns, schema=schema)

    def write(file: Path) -> None:
        with pa.OSFile(str(file), 'wb') as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)

    return write_atomically(path, write)


class CommentStore:
    """Comments sorted by image, and the attributes that each is about.

    Pickled copies map the file again in their process; forked processes share it.

    Args:
        path: file that ``write_store`` wrote.

    Attributes:
        attributes: names of the attributes.
        source: name of the publisher's file.
        keywords: digest of the keywords that the masks come from; '' in files of older versions.
        image_ids: image of each row, rising, ``(M,)`` int64.
        masks: attributes of each row, ``(M,)`` uint16; bit i is ``attributes[i]``.

    Raises:
        AMHPError: no such file, a file that is cut or damaged, or one of another format.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser().absolute()
        try:
            about, batch = _open(self.path)
            self.attributes: tuple[str, ...] = tuple(about['attributes'])
            self.source: str = about['source']
            self.keywords: str = about.get('keywords', '')
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
        """Return the first row of each image, and the row after its last, each ``(N,)`` int64."""
        image_ids = np.asarray(image_ids, np.int64)
        start = np.searchsorted(self.image_ids, image_ids, 'left')
        return start, np.searchsorted(self.image_ids, image_ids, 'right')

    def text(self, row: int) -> str:
        """Return the comment of a row.

        Raises:
            IndexError: no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f'row {row} of {len(self)} comments')
        start, stop = self._offsets[row : row + 2].tolist()
        return str(self._bytes[start:stop], 'utf-8', 'replace')

    def bits(self, attributes: Sequence[str] | None = None) -> int:
        """Return the mask of some attributes by name; None for all.

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
    """Open a file; return its description and its one batch.

    Raises:
        KeyError, TypeError, ValueError: a file of another format.
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
    """Return the offsets of the texts, ``(M + 1,)``, and the bytes of all."""
    _, offsets, data = column.buffers()
    if not len(column):
        return np.zeros(1, np.int64), memoryview(b'')
    return np.frombuffer(offsets, np.int64, len(column) + 1), memoryview(data or b'')
