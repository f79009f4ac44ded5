"""A look at the first images of a table: whether they are where the options say.

Without it a wrong folder, or names without their suffix, would be a warning for each image. The
numbers are our choice.
"""

import os
from pathlib import Path

from pyiqa_amhp.datasets.images import IMAGE_SUFFIXES
from pyiqa_amhp.datasets.rated_images import RatedImages
from pyiqa_amhp.errors import AMHPError

FIRST = 20  # images that are looked for
MAX_MISSING = 1 / 2  # share of them that may be missing


def check_images_exist(images: RatedImages, skip_missing: bool) -> None:
    """Look for the first images of a table.

    Args:
        images: the table.
        skip_missing: whether some images may be missing (``skip_bad_images``); otherwise the first
            one must be there.

    Raises:
        AMHPError: most of the first images are missing; it names the path of the first of them, the
            options to check, and a file that the name may stand for.
    """
    paths = [images.path(i) for i in range(min(FIRST, len(images.names)))]
    missing = [path for path in paths if not os.path.exists(path)]
    too_many = len(missing) > MAX_MISSING * len(paths)
    if not (too_many or (paths[0] in missing and not skip_missing)):
        return
    folder = '' if os.path.isdir(images.root) else ' (no such folder)'
    raise AMHPError(
        f'{missing[0]}: {len(missing)} of the first {len(paths)} images are not there; check '
        f'dataroot_target={images.root!r}{folder} and the column img_name of '
        f'{images.file}{_hint(Path(missing[0]))}'
    )


def _hint(path: Path) -> str:
    """Name a file beside a missing one that differs in its suffix or its case alone."""
    try:
        files = sorted(os.listdir(path.parent))
    except OSError:
        return ''
    for other in files:
        stem, suffix = os.path.splitext(other)
        if suffix.lower() in IMAGE_SUFFIXES and stem in (path.name, path.stem):
            return f'; there is {other!r}: names need the suffix of their file'
        if other.lower() == path.name.lower():
            return f'; there is {other!r}: upper and lower case differ'
    return ''
