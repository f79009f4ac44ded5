"""Groups of photographs that show the same: bursts and near-duplicates.

Photographs are compared by a perceptual hash of the package imagehash, which needs no model, and by
the time at which they were taken. All limits are our choice; ``tests/test_pick_groups.py`` holds
them to edited photographs and to different ones.
"""

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pyiqa_amhp.datasets.splitting import close_pairs, groups_of
from pyiqa_amhp.utils.environment import import_extra

ALIKE = 10  # bits of 64 in which near-duplicates differ at most
IN_BURST = 20  # the same for photographs of one burst, whose subject moves
BURST_SECONDS = 3.0  # between two photographs of a burst at most


@dataclass(frozen=True)
class Look:
    """What a photograph looks like, and when it was taken.

    Attributes:
        bits: its perceptual hash, 64 numbers of 0 or 1.
        taken: the seconds of the time at which it was taken; None if the file does not say.
    """

    bits: np.ndarray
    taken: float | None


def look_at(image: Image.Image, path: str | Path) -> Look:
    """Compute the hash of an image and read the time of its file.

    Args:
        image: the image as ``read_image`` gives it.
        path: its file.

    Raises:
        AMHPError: the package imagehash is missing.
    """
    phash = import_extra('imagehash', 'pick').phash(image)
    return Look(phash.hash.flatten().astype(np.int8), time_taken(path))


def time_taken(path: str | Path) -> float | None:
    """Read the time at which a photograph was taken, in seconds; None if its file does not say."""
    try:
        with Image.open(path) as image:
            exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
        text = str(exif[ExifTags.Base.DateTimeOriginal]).strip('\0 ')
        time = datetime.datetime.strptime(text, '%Y:%m:%d %H:%M:%S')
        part = str(exif.get(ExifTags.Base.SubsecTimeOriginal, '')).strip('\0 ')
    except Exception:  # no such data, or damaged data: Pillow raises many kinds
        return None
    fraction = float(f'0.{part}') if part.isascii() and part.isdigit() else 0.0
    return (time - datetime.datetime(1970, 1, 1)).total_seconds() + fraction


def group(looks: Sequence[Look]) -> np.ndarray:
    """Group photographs that are alike, also by way of others.

    Args:
        looks: what N photographs look like.

    Returns:
        The number of the first photograph of each one's group, ``(N,)``.
    """
    count = len(looks)
    if not count:
        return np.arange(0)
    signs = np.array([look.bits for look in looks], np.float32) * 2 - 1  # (N, 64)
    # Of two such rows with d different bits the cosine is 1 - 2 d / 64.
    pairs = close_pairs(signs, 1 - 2 * ALIKE / signs.shape[1])
    timed = [i for i in range(count) if looks[i].taken is not None]
    timed.sort(key=lambda i: looks[i].taken or 0.0)
    bursts = [
        (i, j)
        for i, j in itertools.pairwise(timed)
        if (looks[j].taken or 0.0) - (looks[i].taken or 0.0) <= BURST_SECONDS
        and (looks[i].bits != looks[j].bits).sum() <= IN_BURST
    ]
    return groups_of(np.concatenate([pairs, np.array(bursts, int).reshape(-1, 2)]), count)
