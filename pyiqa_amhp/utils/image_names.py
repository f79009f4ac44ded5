"""One identity of an image's name, however it is written.

Names come from tables, folders and other systems, and the same file is written in several ways:
``a.png`` and ``./a.png``, ``a//b.png``, ``a\\b.png`` (Windows), and letters with accents as one or
as two characters (Unicode NFC and NFD; macOS writes NFD). All of this is our choice.
"""

import os
import re
import unicodedata
from pathlib import Path

from pyiqa_amhp.utils.text import existing_name, writable

_BACKSLASH = re.compile(r'\\(?!udc[89a-f][\da-f])')  # of Windows, but not those of `writable`


def image_key(name: str, ignore_case: bool = False) -> str:
    """Return the one spelling of a name: equal for two names of the same file.

    ``\\`` counts as ``/``; parts that are empty or ``.`` are dropped; Unicode is in NFC; bytes that
    are not UTF-8 are escaped as in ``writable``. Parts ``..`` stay, since the folder before them
    may be a link.

    Args:
        name: a path, relative or absolute, or the address of an object.
        ignore_case: whether upper and lower case are the same; see ``ignores_case``.
    """
    if ignore_case:  # canonical caseless match of the Unicode standard (D145)
        name = unicodedata.normalize('NFD', unicodedata.normalize('NFD', name).casefold())
    name = _BACKSLASH.sub('/', unicodedata.normalize('NFC', writable(name)))
    parts = [part for part in name.split('/') if part not in ('', '.')]
    return '/' * name.startswith('/') + '/'.join(parts)


def ignores_case(folder: str | Path) -> bool:
    """Whether the file system of a folder takes ``A.png`` and ``a.png`` for one file.

    It is asked by the folder's own name; a folder that does not exist distinguishes them.
    """
    path = os.path.realpath(os.path.expanduser(folder))
    while path.swapcase() == path and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    head, tail = os.path.split(path)
    try:
        return os.path.samefile(path, os.path.join(head, tail.swapcase()))
    except OSError:
        return False


def find_name(root: str, name: str) -> str:
    """Return a name as the file system writes it, if a file has another spelling of it.

    Args:
        root: path of a folder.
        name: path below it.

    Returns:
        ``name`` itself if there is such a file, or none with another spelling.
    """
    if os.path.lexists(os.path.join(root, name)):
        return name
    key = image_key(name)
    found = '/' * key.startswith('/')
    for part in key.strip('/').split('/'):
        own = existing_name(part, os.path.join(root, found))
        forms = (part, unicodedata.normalize('NFD', part), own)
        spellings = [os.path.join(found, form) for form in forms]
        there = (s for s in spellings if os.path.lexists(os.path.join(root, s)))
        if (spelling := next(there, None)) is None:
            return name
        found = spelling
    return found
