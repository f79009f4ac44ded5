"""AVA-Comments as published, and which comments are about attributes (the paper's section 4.1).

Two forms are read, told apart by what is in the file:

- ``AVA_Comments_Full.txt`` (Zhou et al. 2016): an image a line, ``number#image id#comment#...``.
- ``CLEAN_AVA_FULL_COMMENTS.json`` (AVA-Captions, Ghosal et al. 2019), which was made from the
  former by splitting its lines at every ``#``.

A ``#`` separates comments, with two exceptions, put together again in both forms: within a
character reference (``&#39;``), and as a number sign, which has a blank before it and after it a
number of at most three digits and a word ("my #1 pick"). After any other ``#`` within a comment
("We're #1!", a link to a part of a page) a new comment begins.
"""

import codecs
import html
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyiqa_amhp.datasets.raw import Problem
from pyiqa_amhp.errors import AMHPError

Progress = Callable[[Iterable, int, str], Iterable]
SCHEMA = pa.schema([('image_id', pa.int64()), ('text', pa.large_string())])
EXPECTED = (
    'expected AVA_Comments_Full.txt (lines of "number#image id#comment#comment...") or '
    'CLEAN_AVA_FULL_COMMENTS.json ({"images": [{"filename": "123.jpg", "sentences": [...]}]})'
)
_HEAD = 1 << 20  # bytes that tell the form
_BLOCK = 1 << 20  # bytes read at once
_ROWS = 1 << 17  # comments that wait as Python strings


def read_comments(
    path: str | Path, progress: Progress = lambda items, total, what: items
) -> tuple[pa.Table, list[Problem]]:
    """The comments of a published file, in its order.

    Comments are cleaned (see :func:`clean_comment`); those without a word are left out, and of
    equal ones on one image all but the first. Running numbers, image ids, and fields of numbers
    only never become text.

    Args:
        progress: wraps the file's blocks while they are read: ``progress(blocks, how many,
            what)``, as ``tqdm`` does.

    Returns:
        ``image_id`` int64 and ``text`` large_string, with the file's name as ``source`` in the
        schema's metadata; and what was passed over.

    Raises:
        AMHPError: no such file, one of another form, or JSON that is cut or damaged.
    """
    path = Path(path).expanduser()
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    is_json = head.lstrip().startswith(b'{')
    if not is_json and not any(map(_header, head.split(b'\n'))):
        raise AMHPError(f'{path}: {EXPECTED}')
    problems = _Problems(path)
    gathered = _Gathered(problems)
    blocks = progress(_blocks(path), math.ceil(path.stat().st_size / _BLOCK), 'Reading comments')
    if is_json:
        _read_json(path, blocks, gathered, problems)
    else:
        _read_lines(blocks, gathered, problems)
    table = gathered.table()
    return table.replace_schema_metadata({'source': path.name}), problems.seen()


def clean_comment(text: str) -> str:
    """A comment as it was meant to be read, on one line.

    Character references are decoded, also those encoded twice. HTML tags and BBCode are removed
    and the text within them kept, but for numbers of images and users; so are links, which hold
    image ids. Characters of Windows-1252 that came as control characters or as bad bytes are
    decoded, other control characters dropped; blanks are collapsed.
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
    r'#(?!(?:(?<=&#)|(?<=&amp;#))(?:\d{1,7}|[xX][\da-fA-F]{1,6});)'  # not in a reference
    r'(?!(?<=\s#)\d{1,3}\b[^#]*[^\W\d_])'  # not a number sign
)


def _windows_1252(byte: int) -> str | None:
    return bytes([byte]).decode('cp1252', errors='ignore') or None


# Bad bytes come as the surrogates of Python's "surrogateescape"; other surrogates are no text.
_CONTROLS = {
    **dict.fromkeys((*range(0x20), 0x7F, *range(0xD800, 0xE000))),
    **{ord(blank): ' ' for blank in '\t\n\v\f\r'},
    **{code: _windows_1252(code) for code in range(0x80, 0xA0)},
    **{0xDC00 + byte: _windows_1252(byte) for byte in range(0x80, 0x100)},
}


def _is_text(comment: str) -> bool:
    """With a letter or a picture (an emoji); a single ASCII letter is a broken piece."""
    if comment.isascii():
        return len(comment) > 1 and _WORD.search(comment) is not None
    return any(c.isalpha() or unicodedata.category(c) == 'So' for c in comment)


class _Problems:
    """Problems of one file by what they are."""

    LINE = 'not "number#image id#comments"; the line was passed over'
    BYTES = 'bytes that are not UTF-8; read as Windows-1252'
    END = 'no line end after the last line; was the file cut? If so, download it again'
    WORDLESS = 'a comment without a word (numbers or signs only); left out'
    AGAIN = 'an image for the second time; its comments were put together'
    IMAGE = 'no image number in "filename"; the image was passed over'
    SENTENCE = 'a sentence with neither "raw" nor "clean"; left out'

    def __init__(self, path: Path):
        self._path = path
        self._by_kind: dict[str, Problem] = {}

    def add(self, what: str, place: str) -> None:
        self._by_kind.setdefault(what, Problem(what)).add(f'{self._path}, {place}')

    def seen(self) -> list[Problem]:
        return list(self._by_kind.values())


class _Gathered:
    """Comments image by image, turned into Arrow's compact form every now and then."""

    def __init__(self, problems: _Problems):
        self._problems = problems
        self._ids: list[int] = []
        self._counts: list[int] = []
        self._texts: list[str] = []
        self._chunks: list[pa.RecordBatch] = []
        self._images: set[int] = set()
        self._repeated: set[int] = set()

    def add(self, image_id: int, raw: list[str], place: str) -> None:
        """The comments of one image, as they are in the file."""
        texts = dict.fromkeys(map(clean_comment, raw))
        texts.pop('', None)
        comments = [text for text in texts if _is_text(text)]
        for _ in range(len(texts) - len(comments)):
            self._problems.add(_Problems.WORDLESS, place)
        if image_id in self._images:
            self._repeated.add(image_id)
            self._problems.add(_Problems.AGAIN, f'{place}: image {image_id}')
        self._images.add(image_id)
        self._ids.append(image_id)
        self._counts.append(len(comments))
        self._texts += comments
        if len(self._texts) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        ids = np.repeat(np.array(self._ids, np.int64), self._counts)
        self._chunks.append(pa.record_batch([ids, self._texts], schema=SCHEMA))
        self._ids, self._counts, self._texts = [], [], []

    def table(self) -> pa.Table:
        """Everything, in one piece: what others make of it then costs one copy, not two."""
        self._flush()
        table = pa.Table.from_batches(self._chunks, SCHEMA).combine_chunks()
        self._chunks.clear()
        if not self._repeated:
            return table
        ids = table['image_id'].to_numpy()
        again = np.flatnonzero(np.isin(ids, list(self._repeated)))
        keep = np.ones(len(table), bool)
        keep[again] = ~table.take(again).to_pandas().duplicated().to_numpy()
        return table.filter(pa.array(keep))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            yield block


def _header(line: bytes) -> tuple[int, bytes] | None:
    """Image id and the rest of a line of the text form; None if it is not one."""
    number, _, rest = line.partition(b'#')
    image_id, _, rest = rest.partition(b'#')
    image_id = image_id.strip()
    if not (number.strip().isdigit() and image_id.isdigit() and len(image_id) <= 18):
        return None
    return int(image_id), rest


def _read_lines(blocks: Iterable[bytes], gathered: _Gathered, problems: _Problems) -> None:
    number, rest = 0, b''
    for block in blocks:
        *lines, rest = (rest + block).split(b'\n')
        for line in lines:
            number += 1
            _read_line(line, number, gathered, problems)
    if rest.strip():
        problems.add(_Problems.END, f'line {number + 1}')
        _read_line(rest, number + 1, gathered, problems)


def _read_line(line: bytes, number: int, gathered: _Gathered, problems: _Problems) -> None:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return
    place = f'line {number}'
    header = _header(line)
    if header is None:
        problems.add(_Problems.LINE, place)
        return
    image_id, comments = header
    try:
        text = comments.decode()
    except UnicodeDecodeError:
        problems.add(_Problems.BYTES, place)
        text = comments.decode(errors='surrogateescape')
    gathered.add(image_id, _SEPARATOR.split(text), place)


def _read_json(
    path: Path, blocks: Iterable[bytes], gathered: _Gathered, problems: _Problems
) -> None:
    """Image by image, so that the whole is never in memory."""
    import ijson

    images: list[Any] = ijson.sendable_list()
    parser = ijson.items_coro(images, 'images.item')
    number, nesting = 0, JsonDepth()
    try:
        for block in _utf8(blocks, problems):
            nesting.feed(block)
            parser.send(block)
            for image in images:
                number += 1
                _read_image(image, f'image {number}', gathered, problems)
            images.clear()
        parser.close()
    except (ijson.JSONError, ValueError) as error:  # the pure Python parser raises both
        reason = ' '.join(str(error).split())[:200]
        raise AMHPError(
            f'{path}: cut or damaged after image {number} ({reason}); download it again'
        ) from error
    if not number:
        raise AMHPError(f'{path}: JSON without "images"; {EXPECTED}')


def _utf8(blocks: Iterable[bytes], problems: _Problems) -> Iterator[bytes]:
    """What the strict JSON parser can take: valid UTF-8 without control characters."""
    blank_controls = bytes(code if code >= 0x20 else 0x20 for code in range(0x100))
    decoder = codecs.getincrementaldecoder('utf-8-sig')('surrogateescape')
    for number, block in enumerate(blocks, 1):
        text = decoder.decode(block.translate(blank_controls))
        if not text:  # to the parser, the end of the file
            continue
        try:
            yield text.encode()
        except UnicodeEncodeError:
            problems.add(_Problems.BYTES, f'megabyte {number}')
            yield text.translate(_CONTROLS).encode()


def _read_image(image: Any, place: str, gathered: _Gathered, problems: _Problems) -> None:
    filename = image.get('filename') if isinstance(image, dict) else None
    found = re.fullmatch(r'(?:.*/)?(\d{1,18})\.\w+', str(filename), re.ASCII)
    if found is None:
        problems.add(_Problems.IMAGE, place)
        return
    sentences = image.get('sentences')
    raw = []
    for sentence in sentences if isinstance(sentences, list) else []:
        fields = sentence if isinstance(sentence, dict) else {}
        texts = [fields[key] for key in ('raw', 'clean') if isinstance(fields.get(key), str)]
        if not texts:
            problems.add(_Problems.SENTENCE, f'{place} ({filename})')
        raw.append(next(filter(str.strip, texts), ''))
    if not any('#' in text for text in raw):
        raw = _SEPARATOR.split('#'.join(raw))
    gathered.add(int(found[1]), raw, place)


DEEPEST = 100  # brackets within brackets; AVA-Captions has five (our choice)
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))


class JsonDepth:
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
