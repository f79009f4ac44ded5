"""Read AVA-Comments as published, and clean the comments.

Two formats are read, recognised by the content of the file:

- ``AVA_Comments_Full.txt`` (Zhou et al. 2016): one image a line, ``number#image id#comment#...``.
- ``CLEAN_AVA_FULL_COMMENTS.json`` (AVA-Captions, Ghosal et al. 2019), which was made from the
  first by splitting its lines at every ``#``.

A ``#`` separates comments, with two exceptions, in both formats: within a character reference
(``&#39;``), and as a number sign, which follows a blank and is followed by a number of at most
three digits and a word ("my #1 pick"). After any other ``#`` within a comment ("We're #1!", a
link to a part of a page) a new comment begins.
"""

import codecs
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyiqa_amhp.datasets.raw import Problem, Progress, add_problem
from pyiqa_amhp.errors import AMHPError

SCHEMA = pa.schema([('image_id', pa.int64()), ('text', pa.large_string())])
EXPECTED = (
    'expected AVA_Comments_Full.txt (lines of "number#image id#comment#comment...") or '
    'CLEAN_AVA_FULL_COMMENTS.json ({"images": [{"filename": "123.jpg", "sentences": [...]}]})'
)
_HEAD_BYTES = 1 << 20  # that show the format
_BLOCK_BYTES = 1 << 20  # that are read at once
_BATCH_ROWS = 1 << 17  # comments that are kept as Python strings, before they go to Arrow

BAD_LINE = 'not "number#image id#comments"; the line was ignored'
BAD_BYTES = 'bytes that are not UTF-8; read as Windows-1252'
NO_LINE_END = 'no line end after the last line; was the file cut? If so, download it again'
NO_WORD = 'a comment without a word (numbers or signs only); left out'
REPEATED_IMAGE = 'an image that is listed twice; its comments were merged'
NO_IMAGE_ID = 'no image number in "filename"; the image was ignored'
NO_SENTENCE = 'a sentence with neither "raw" nor "clean"; left out'


def read_comments(
    path: str | Path, progress: Progress = lambda items, total, what: items
) -> tuple[pa.Table, list[Problem]]:
    """Read the comments of a published file, in its order.

    Comments are cleaned (see :func:`clean_comment`). Comments without a word are left out; of
    equal comments on one image the first is kept. Running numbers, image ids, and fields that
    hold only numbers never become text.

    Args:
        path: the file.
        progress: called with the blocks of the file, their number and a description; passes the
            blocks on, as ``tqdm`` does.

    Returns:
        A table with ``image_id`` int64 and ``text`` large_string, and the name of the file as
        ``source`` in the schema's metadata; and the faults that were worked around.

    Raises:
        AMHPError: no such file, a file of another format, or JSON that is cut or damaged.
    """
    path = Path(path).expanduser()
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    is_json = head.lstrip().startswith(b'{')
    if not is_json and not any(map(_split_header, head.split(b'\n'))):
        raise AMHPError(f'{path}: {EXPECTED}')
    collector = _CommentCollector(path)
    count = math.ceil(path.stat().st_size / _BLOCK_BYTES)
    blocks = progress(_read_blocks(path), count, 'Reading comments')
    if is_json:
        _read_json(blocks, collector)
    else:
        _read_lines(blocks, collector)
    table = collector.to_table().replace_schema_metadata({'source': path.name})
    return table, collector.problems


def clean_comment(text: str) -> str:
    """Clean a comment, and put it on one line.

    Character references are decoded, also those that were encoded twice. HTML tags and BBCode are
    removed and their text is kept, except for numbers of images and users. Links are removed,
    since they hold image ids. Characters of Windows-1252 that were stored as control characters
    or as bad bytes are decoded; other control characters are removed. Runs of blanks become one.
    """
    if '&' in text:
        for _ in range(2):
            text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    if not text.isprintable():
        text = text.translate(_CONTROLS)
    if '[' in text:
        text = _BBCODE.sub(' ', _BBCODE_NUMBER.sub(' ', text))
    if '<' in text:
        text = _TAG.sub(' ', text)
    if '/' in text or 'www.' in text:
        text = _LINK.sub(' ', text)
    return ' '.join(text.split())


_REFERENCE = re.compile(r'&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[a-zA-Z]\w{1,30});')
_NAMES = (
    'a|abbr|b|big|blockquote|br|center|cite|code|del|div|em|embed|font|h[1-6]|hr|i|iframe|img|ins|'
    'li|object|ol|p|param|pre|q|quote|s|script|small|span|strike|strong|sub|sup|table|tbody|td|tr|'
    'tt|u|ul'
)
_TAG = re.compile(rf'</?(?:{_NAMES})(?:\s[^<>=]*=[^<>]*)?\s*/?>', re.IGNORECASE)
_BBCODE = re.compile(r'\[/?(?:b|i|u|s|url|img|quote|color|size|center|code)(?:=[^][]*)?\]', re.I)
_BBCODE_NUMBER = re.compile(r'\[(thumb|image|img|user)\]\s*\d+\s*\[/\1\]', re.IGNORECASE)
_LINK = re.compile(
    r'(?:\b(?:https?|ftp)://|\bwww\.|\b(?:[\w-]+\.)+(?:com|net|org|edu|gov|info|uk|us|ca|de)/)'
    r'(?:[^\s<>"]*[^\s<>"\'.,;:!?)\]])?',
    re.IGNORECASE,
)
_WORD = re.compile(r'[^\W\d_]')
_SEPARATOR = re.compile(
    r'#(?!(?:(?<=&#)|(?<=&amp;#))(?:\d{1,7}|[xX][\da-fA-F]{1,6});)'  # not in such a reference
    r'(?!(?<=\s#)\d{1,3}\b[^#]*[^\W\d_])'  # not a number sign
)


def _windows_1252(byte: int) -> str | None:
    return bytes([byte]).decode('cp1252', errors='ignore') or None


# Bad bytes are the surrogates of Python's "surrogateescape"; other surrogates are removed.
_CONTROLS = {
    **dict.fromkeys((*range(0x20), 0x7F, *range(0xD800, 0xE000))),
    **{ord(blank): ' ' for blank in '\t\n\v\f\r'},
    **{code: _windows_1252(code) for code in range(0x80, 0xA0)},
    **{0xDC00 + byte: _windows_1252(byte) for byte in range(0x80, 0x100)},
}


def _has_word(comment: str) -> bool:
    """Whether there is a letter or an emoji; a single ASCII letter is a broken piece."""
    if comment.isascii():
        return len(comment) > 1 and _WORD.search(comment) is not None
    return any(c.isalpha() or unicodedata.category(c) == 'So' for c in comment)


class _CommentCollector:
    """Collects comments image by image, and moves them to Arrow in batches.

    Attributes:
        path: file that the comments come from.
        problems: faults that were worked around, by kind.
    """

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[Problem] = []
        self._ids: list[int] = []
        self._counts: list[int] = []
        self._texts: list[str] = []
        self._batches: list[pa.RecordBatch] = []
        self._images: set[int] = set()
        self._repeated: set[int] = set()

    def report(self, what: str, place: str) -> None:
        """Count a fault at a place in the file."""
        add_problem(self.problems, what, [f'{self.path}, {place}'])

    def add(self, image_id: int, raw: list[str], place: str) -> None:
        """Clean and add the comments of one image."""
        texts = dict.fromkeys(map(clean_comment, raw))
        texts.pop('', None)
        comments = [text for text in texts if _has_word(text)]
        for _ in range(len(texts) - len(comments)):
            self.report(NO_WORD, place)
        if image_id in self._images:
            self._repeated.add(image_id)
            self.report(REPEATED_IMAGE, f'{place}: image {image_id}')
        self._images.add(image_id)
        self._ids.append(image_id)
        self._counts.append(len(comments))
        self._texts += comments
        if len(self._texts) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        ids = np.repeat(np.array(self._ids, np.int64), self._counts)
        self._batches.append(pa.record_batch([ids, self._texts], schema=SCHEMA))
        self._ids, self._counts, self._texts = [], [], []

    def to_table(self) -> pa.Table:
        """Return all comments in one chunk: copies that others make of it then cost less memory."""
        self._flush()
        table = pa.Table.from_batches(self._batches, SCHEMA).combine_chunks()
        self._batches.clear()
        if not self._repeated:
            return table
        ids = table['image_id'].to_numpy()
        rows = np.flatnonzero(np.isin(ids, list(self._repeated)))
        keep = np.ones(len(table), bool)
        keep[rows] = ~table.take(rows).to_pandas().duplicated().to_numpy()
        return table.filter(pa.array(keep))


def _read_blocks(path: Path) -> Iterator[bytes]:
    with path.open('rb') as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _split_header(line: bytes) -> tuple[int, bytes] | None:
    """Split a line of the text format into image id and comments; None for another line."""
    number, _, rest = line.partition(b'#')
    image_id, _, comments = rest.partition(b'#')
    image_id = image_id.strip()
    if not (number.strip().isdigit() and image_id.isdigit() and len(image_id) <= 18):
        return None
    return int(image_id), comments


def _read_lines(blocks: Iterable[bytes], collector: _CommentCollector) -> None:
    """Read the text format."""
    number, rest = 0, b''
    for block in blocks:
        *lines, rest = (rest + block).split(b'\n')
        for line in lines:
            number += 1
            _read_line(line, number, collector)
    if rest.strip():
        collector.report(NO_LINE_END, f'line {number + 1}')
        _read_line(rest, number + 1, collector)


def _read_line(line: bytes, number: int, collector: _CommentCollector) -> None:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return
    place = f'line {number}'
    header = _split_header(line)
    if header is None:
        collector.report(BAD_LINE, place)
        return
    image_id, comments = header
    try:
        text = comments.decode()
    except UnicodeDecodeError:
        collector.report(BAD_BYTES, place)
        text = comments.decode(errors='surrogateescape')
    collector.add(image_id, _SEPARATOR.split(text), place)


def _read_json(blocks: Iterable[bytes], collector: _CommentCollector) -> None:
    """Read the JSON format image by image, so that the whole file is never in memory."""
    import ijson

    images: list[Any] = ijson.sendable_list()
    parser = ijson.items_coro(images, 'images.item')
    number, depth = 0, JsonDepth()
    try:
        for block in _valid_utf8(blocks, collector):
            depth.feed(block)
            parser.send(block)
            for image in images:
                number += 1
                _read_image(image, f'image {number}', collector)
            images.clear()
        parser.close()
    except (ijson.JSONError, ValueError) as error:  # ijson's pure Python parser raises both
        reason = ' '.join(str(error).split())[:200]
        raise AMHPError(
            f'{collector.path}: cut or damaged after image {number} ({reason}); download it again'
        ) from error
    if not number:
        raise AMHPError(f'{collector.path}: JSON without "images"; {EXPECTED}')


def _valid_utf8(blocks: Iterable[bytes], collector: _CommentCollector) -> Iterator[bytes]:
    """Make blocks acceptable to ijson: valid UTF-8 without control characters."""
    blank_controls = bytes(code if code >= 0x20 else 0x20 for code in range(0x100))
    decoder = codecs.getincrementaldecoder('utf-8-sig')('surrogateescape')
    for number, block in enumerate(blocks, 1):
        text = decoder.decode(block.translate(blank_controls))
        if not text:  # ijson would take an empty block for the end of the file
            continue
        try:
            yield text.encode()
        except UnicodeEncodeError:
            collector.report(BAD_BYTES, f'megabyte {number}')
            yield text.translate(_CONTROLS).encode()


def _read_image(image: Any, place: str, collector: _CommentCollector) -> None:
    """Add the comments of one image of the JSON format."""
    filename = image.get('filename') if isinstance(image, dict) else None
    match = re.fullmatch(r'(?:.*/)?(\d{1,18})\.\w+', str(filename), re.ASCII)
    if match is None:
        collector.report(NO_IMAGE_ID, place)
        return
    sentences = image.get('sentences')
    raw = []
    for sentence in sentences if isinstance(sentences, list) else []:
        fields = sentence if isinstance(sentence, dict) else {}
        texts = [fields[key] for key in ('raw', 'clean') if isinstance(fields.get(key), str)]
        if not texts:
            collector.report(NO_SENTENCE, f'{place} ({filename})')
        raw.append(next(filter(str.strip, texts), ''))
    if not any('#' in text for text in raw):
        raw = _SEPARATOR.split('#'.join(raw))
    collector.add(int(match[1]), raw, place)


MAX_JSON_DEPTH = 100  # brackets within brackets; AVA-Captions has five (our choice)
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))


class JsonDepth:
    """Limits how deep JSON nests, block by block, before a parser sees it.

    Args:
        limit: the most brackets within brackets; those in strings do not count.
    """

    def __init__(self, limit: int = MAX_JSON_DEPTH):
        self._limit = limit
        self._depth, self._in_string, self._rest = 0, False, b''

    def feed(self, block: bytes) -> None:
        """Check the next bytes of the JSON.

        Raises:
            ValueError: brackets that are nested deeper than the limit.
        """
        plain = (self._rest + block).replace(b'\\\\', b'').replace(b'\\"', b'')
        self._rest = b'\\' if plain.endswith(b'\\') else b''  # it escapes the next byte
        parts = plain.split(b'"')
        outside = b''.join(parts[self._in_string :: 2]).translate(None, _NO_BRACKETS)
        self._in_string ^= len(parts) % 2 == 0
        if outside:
            opens = np.isin(np.frombuffer(outside, np.uint8), list(b'[{'))
            depths = self._depth + np.cumsum(np.where(opens, 1, -1))
            self._depth = int(depths[-1])
            if depths.max() > self._limit:
                raise ValueError(f'brackets nested more than {self._limit} deep')
