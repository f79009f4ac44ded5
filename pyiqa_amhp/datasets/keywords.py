"""Find the attributes that a comment is about, by keywords (paper, section 4.1)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pyiqa_amhp.errors import AMHPError

MAX_ATTRIBUTES = 16


class AttributeKeywords:
    """Attributes, and the words and phrases of comments that are about them.

    Args:
        path: YAML file with attributes and their keywords; None for the one of this package. The
            format is described in ``datasets_meta/attribute_keywords.yml``.

    Attributes:
        attributes: names of the attributes; bit i of a mask is ``attributes[i]``.

    Raises:
        AMHPError: no such file, or a file of another format.
    """

    def __init__(self, path: str | Path | None = None):
        path = _default_file() if path is None else Path(path).expanduser()
        keywords = _read_keywords(path)
        self.attributes: tuple[str, ...] = tuple(keywords)
        self._patterns = [_pattern(phrases) for phrases in keywords.values()]

    def masks(self, texts: pa.ChunkedArray | pa.Array | Sequence[str]) -> np.ndarray:
        """Return the attributes of each of ``N`` texts as bits, ``(N,)`` uint16."""
        if not isinstance(texts, pa.ChunkedArray):
            texts = pa.chunked_array([pa.array(texts, pa.large_string())])
        return np.concatenate([np.zeros(0, np.uint16), *map(self._chunk_masks, texts.chunks)])

    def _chunk_masks(self, texts: pa.Array) -> np.ndarray:
        masks = np.zeros(len(texts), np.uint16)
        for bit, pattern in enumerate(self._patterns):
            found = pc.match_substring_regex(texts, pattern, ignore_case=True)
            masks |= found.to_numpy(zero_copy_only=False).astype(np.uint16) << bit
        return masks


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
        for phrase in phrases:
            if not isinstance(phrase, str) or not phrase.strip():
                raise AMHPError(
                    f'{path}: {name}: {phrase!r}, expected a word or phrase (YAML takes some bare '
                    'words for others, such as on and no: put them in quotes)'
                )
    return keywords


def _pattern(phrases: list[str]) -> str:
    """Build a regular expression of RE2 that matches any of the phrases as whole words.

    RE2's ``\\b`` knows only ASCII: it would find "lit" in "élit".
    """
    each = (r'[\s\-]+'.join(map(re.escape, phrase.split())) for phrase in phrases)
    any_phrase = '|'.join(each).replace("'", "['’]")
    return rf'(?:^|[^\pL\pM\pN_])(?:{any_phrase})(?:$|[^\pL\pM\pN_])'
