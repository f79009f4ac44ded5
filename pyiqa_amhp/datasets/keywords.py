"""Find the attributes that a comment is about, by keywords (paper, section 4.1)."""

import functools
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pyiqa_amhp.errors import AMHPError

MAX_ATTRIBUTES = 16
MAX_TOKENS = 75  # CLIP's 77 without start and end
_WORD = re.compile(r'\S+')
_ROWS_AT_ONCE = 1 << 16  # comments that are Python strings at the same time


class AttributeKeywords:
    """Attributes, and the words and phrases of comments that are about them.

    Args:
        path: YAML file with attributes and their keywords; None for the one of this package. The
            format is described in ``datasets_meta/attribute_keywords.yml``.

    Attributes:
        attributes: names of the attributes; bit i of a mask is ``attributes[i]``.
        digest: 16 hexadecimal digits that differ between lists of other attributes or words; the
            layout and the comments of the file do not matter.

    Raises:
        AMHPError: no such file, or a file of another format.
    """

    def __init__(self, path: str | Path | None = None):
        path = _default_file() if path is None else Path(path).expanduser()
        keywords = _read_keywords(path)
        self.attributes: tuple[str, ...] = tuple(keywords)
        self._patterns = [
            (
                _pattern([phrase for phrase in phrases if not phrase.startswith('-')]),
                _pattern([phrase[1:] for phrase in phrases if phrase.startswith('-')]),
            )
            for phrases in keywords.values()
        ]
        text = repr([(name, sorted(phrases)) for name, phrases in keywords.items()])
        self.digest = blake2b(text.encode(), digest_size=8).hexdigest()

    def masks(self, texts: pa.ChunkedArray | pa.Array | Sequence[str]) -> np.ndarray:
        """Return the attributes of each of ``N`` texts as bits, ``(N,)`` uint16."""
        if not isinstance(texts, pa.ChunkedArray):
            texts = pa.chunked_array([pa.array(texts, pa.large_string())])
        return np.concatenate([np.zeros(0, np.uint16), *map(self._chunk_masks, texts.chunks)])

    def _chunk_masks(self, texts: pa.Array) -> np.ndarray:
        masks = np.zeros(len(texts), np.uint16)
        for bit, (words, exceptions) in enumerate(self._patterns):
            rows = _matches(texts, words)
            if exceptions and len(rows):
                rest = pc.replace_substring_regex(texts.take(rows), f'(?i){exceptions}', ' ; ')
                rows = rows[_matches(rest, words)]
            masks[rows] |= np.uint16(1 << bit)
        return masks


def read_masks(keywords: AttributeKeywords, texts: pa.ChunkedArray) -> np.ndarray:
    """Return the attributes that CLIP reads in each of ``N`` comments, as bits, ``(N,)`` uint16.

    CLIP reads 77 tokens. A comment with all its attribute words after them is about no attribute
    to the model, and another comment of the image is chosen (our choice; the paper is silent; a
    comment is never cut to make room for them).
    """
    masks = keywords.masks(texts)
    maybe_cut = pc.greater(pc.binary_length(texts), MAX_TOKENS)  # a token has a byte at least
    rows = np.flatnonzero(maybe_cut.to_numpy() & (masks > 0))
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[first : first + _ROWS_AT_ONCE]
        masks[block] = keywords.masks([read_part(text) for text in texts.take(block).to_pylist()])
    return masks


def read_part(text: str) -> str:
    """Return the words of a text that fit CLIP's 77 tokens whole."""
    if sum(map(_count_word_tokens, text.split())) <= MAX_TOKENS:
        return text
    tokens = 0
    for word in _WORD.finditer(text):
        tokens += _count_word_tokens(word[0])
        if tokens > MAX_TOKENS:
            break
    return text[: word.start()].rstrip()


@functools.lru_cache(1 << 16)
def _count_word_tokens(word: str) -> int:
    return count_clip_tokens(word)  # CLIP splits at blanks first, so that words add up


def count_clip_tokens(text: str) -> int:
    """Count CLIP's tokens of a text, without start and end tokens."""
    return len(_clip_tokenizer().encode(text))


@functools.cache
def _clip_tokenizer():
    import open_clip

    return open_clip.SimpleTokenizer()


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """Return the rows of the texts in which a pattern is found."""
    found = pc.match_substring_regex(texts, pattern, ignore_case=True)
    return np.flatnonzero(found.to_numpy(zero_copy_only=False))


def _default_file() -> Path:
    """Return the file of this package: beside this module in a wheel, else in ``datasets_meta``."""
    packaged = Path(__file__).with_name('attribute_keywords.yml')
    checkout = Path(__file__).parents[2] / 'datasets_meta' / packaged.name
    return packaged if packaged.exists() else checkout


def _read_keywords(path: Path) -> dict[str, list[str]]:
    """Read the keywords of each attribute, and check that all are text."""
    try:
        keywords = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a bad date
        raise AMHPError(f'{path}: not YAML ({error})') from error
    if not isinstance(keywords, dict) or not keywords:
        raise AMHPError(
            f'{path}: expected attributes with lists of words, such as "light: [lit, backlit]"'
        )
    if len(keywords) > MAX_ATTRIBUTES:
        raise AMHPError(f'{path}: {len(keywords)} attributes, expected at most {MAX_ATTRIBUTES}')
    for name, phrases in keywords.items():
        if not isinstance(name, str):
            raise AMHPError(f'{path}: attribute {name!r}: expected a name (put it in quotes)')
        if not isinstance(phrases, list) or not phrases:
            raise AMHPError(f'{path}: {name}: {phrases!r}, expected a list of words')
        if all(str(phrase).startswith('-') for phrase in phrases):
            raise AMHPError(f'{path}: {name}: every phrase has a minus sign, expected words too')
        for phrase in phrases:
            if not isinstance(phrase, str) or not phrase.strip(' -.'):
                raise AMHPError(
                    f'{path}: {name}: {phrase!r}, expected a word or phrase (YAML takes some bare '
                    'words for others, such as on and no: put them in quotes)'
                )
    return keywords


def _pattern(phrases: list[str]) -> str:
    """Build a regular expression of RE2 that matches any phrase as whole words; '' for no phrase.

    RE2's ``\\b`` knows only ASCII: it would find "lit" in "élit".
    """
    if not phrases:
        return ''
    gap = r'[\s\-]+'
    any_words = rf'{gap}(?:[^\s\-]+{gap}){{0,3}}'  # for "..."
    each = (
        any_words.join(gap.join(map(re.escape, part.split())) for part in phrase.split(' ... '))
        for phrase in phrases
    )
    any_phrase = '|'.join(each).replace("'", "['’]")
    return rf'(?:^|[^\pL\pM\pN_])(?:{any_phrase})(?:$|[^\pL\pM\pN_])'
