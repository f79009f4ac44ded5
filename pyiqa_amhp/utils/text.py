"""Texts of images, and names of files that UTF-8 or a terminal cannot write as they are."""

import html
import os
import re
import unicodedata

# An ASCII letter or digit before any character reference or terminal command: it is a token.
_TOKEN_FIRST = re.compile(r'[^&\x1b]*?[A-Za-z0-9]')
_ESCAPED_BYTE = re.compile(r'\\u(dc[89a-f][\da-f])')
_UNPRINTABLE = re.compile(r'[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]')


def given_text(text: object) -> str:
    """Return a text without white space at its ends; ``''`` if there is nothing to read in it.

    All of the package asks here whether an image has a text. There is none where CLIP's tokenizer
    leaves no token: character references of blanks (``&nbsp;``, also encoded twice), control
    characters and white space of every kind. Characters that are invisible, such as a zero-width
    space, do not count either, though they are tokens (our choice).

    Args:
        text: a string; None and NaN, with which tables mark a missing value, are no text. The
            words "NA", "None", "null" and "nan" are words (our choice). Other values are read as
            their strings.
    """
    if text is None or text != text:
        return ''
    text = str(text).strip()
    return text if _TOKEN_FIRST.match(text) or _has_visible(text) else ''


def _has_visible(text: str) -> bool:
    """Whether a visible character is left of a text by the cleaning of open_clip's tokenizers."""
    if not text:
        return False
    import ftfy  # open_clip needs it

    cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
    return any(not c.isspace() and unicodedata.category(c) not in ('Cc', 'Cf') for c in cleaned)


def writable(name: object) -> str:
    r"""Return a text that UTF-8 can write: the name of a file in tables and on pages.

    A byte of a name that is not UTF-8, which Python keeps as a surrogate, becomes an escape: the
    byte FF is written as ``\udcff`` (Python's ``backslashreplace``). ``existing_name`` reads it.
    """
    return str(name).encode('utf-8', 'backslashreplace').decode()


def existing_name(name: str, folder: str = '') -> str:
    """Return the name of a file from its name in a table, see ``writable``.

    A name without escapes, or one that a file has just as it is written, is returned as it is.

    Args:
        name: a path.
        folder: the folder of relative names; ``''``: the current one.
    """
    if '\\udc' not in name or os.path.lexists(os.path.join(folder, name)):
        return name
    return _ESCAPED_BYTE.sub(lambda found: chr(int(found[1], 16)), name)


def printable(text: str) -> str:
    """Replace control characters but line ends, and what UTF-8 cannot write, by escapes.

    The name of a file may hold commands to a terminal (``\\x1b``).
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
