"""The demo's data set: a folder of images, and a CSV with their votes and comments."""

from pathlib import Path

import pandas as pd

from pyiqa_amhp.demo.comments import comment_kinds, write_comments
from pyiqa_amhp.demo.photos import EDITS, make_photos
from pyiqa_amhp.demo.raters import (
    VOTES,
    attribute_levels,
    attribute_qualities,
    simulate_votes,
    vote_statistics,
)
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically

CSV_NAME = 'meta_info_demo.csv'
IMAGES_PER_SOURCE = {'train': 140, 'val': 60, 'test': 43}


def make_demo_data(out: Path, seed: int = 0, scale: float = 1.0) -> pd.DataFrame:
    """Write ``out/images/*.jpg`` and ``out/meta_info_demo.csv``.

    Args:
        out: folder of the data; it is made if needed, and other files in it are kept.
        seed: seed of everything random. The same seed gives the same bytes (with the same
            versions of the libraries).
        scale: number of images relative to the full 1,401.

    Returns:
        The table in the CSV: ``img_name, MOS, c1..c10, std, text, comment_kind, source``,
        ``attr_<name>`` (levels 1..5), the edit strengths, ``split`` (train, val or test). MOS is
        in 1..10; ``text`` is '' for an image without a comment (an empty field in the CSV).

    Raises:
        AMHPError: the scale is not positive, or scikit-image or matplotlib is missing.
    """
    if not scale > 0:
        raise AMHPError(f'scale must be positive, got {scale}')
    out = Path(out)
    # The CSV is written last: if it exists, the images beside it are complete.
    (out / CSV_NAME).unlink(missing_ok=True)
    counts = {split: max(1, round(n * scale)) for split, n in IMAGES_PER_SOURCE.items()}
    photos = make_photos(out / 'images', seed, counts)
    qualities = attribute_qualities(photos, seed)
    votes = simulate_votes(qualities, seed)
    df = pd.concat([photos, attribute_levels(qualities), votes, vote_statistics(votes)], axis=1)
    df['comment_kind'] = comment_kinds(df.MOS, seed)
    df['text'] = write_comments(df, seed)
    attributes = [name for name in df.columns if name.startswith('attr_')]
    columns = ['img_name', 'MOS', *VOTES, 'std', 'text', 'comment_kind', 'source']
    df = df[[*columns, *attributes, *EDITS, 'split']]
    write_atomically(out / CSV_NAME, lambda file: df.to_csv(file, index=False))
    return df
