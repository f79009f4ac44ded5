"""Names in a table must stay within their folder: by how they are written, and where they lead."""

import os
from pathlib import Path

import pandas as pd

OUTSIDE = r'^(?:[/\\~]|[A-Za-z]:)|(?:^|.*[/\\])\.\.(?:[/\\]|$)'


def leads_outside(names: pd.Series) -> pd.Series:
    """Which names ``(N,)`` are absolute, of a drive or home, or climb with ``..``."""
    return names.str.match(OUTSIDE)


def stays_within(root: str, name: str) -> bool:
    """Whether ``name``, which does not lead outside as it is written, follows no link outside.

    One look at the disk for each folder in the name; the links of ``root`` itself do not count.
    """
    path = root
    for part in Path(name).parts:
        path = os.path.join(path, part)
        if os.path.islink(path):
            real, top = os.path.realpath(os.path.join(root, name)), os.path.realpath(root)
            return real.startswith(os.path.join(top, ''))
    return True
