"""Simulated raters: edit strengths give attribute qualities, and these give votes 1..10.

The simulation is our own. Raters weigh the attributes differently, are strict or lenient, vote
with some noise, and have a taste for the subject that the pixels do not show.
"""

import numpy as np
import pandas as pd

from pyiqa_amhp.errors import AMHPError

# The attributes, and the weight of each in the vote of an average rater. `content` is the appeal
# of the subject and the moment: the raters know it, but no edit shows it.
WEIGHTS = {
    'light': 0.17,
    'color': 0.12,
    'focus': 0.16,
    'steadiness': 0.10,
    'composition': 0.13,
    'detail': 0.08,
    'content': 0.24,
}
ATTRIBUTES = tuple(WEIGHTS)
VOTES = tuple(f'c{vote}' for vote in range(1, 11))
N_RATERS = 80


def attribute_qualities(photos: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Compute the quality of each attribute of each image, from 0 (worst) to 1.

    Args:
        photos: table with the columns ``source`` and photos.EDITS.
        seed: seed of the appeal of each subject and each moment.

    Returns:
        A table with one column for each of ATTRIBUTES, and ``source``.
    """
    rng = np.random.default_rng((seed, 1))
    # People like a slightly raised contrast and saturation best.
    exposure = photos.exposure.abs() / 2.0
    contrast = (photos.contrast - 0.15).abs() / 0.9
    saturation = (photos.saturation - 0.15).abs() / 1.1
    names = sorted(photos.source.unique())
    appeal = dict(zip(names, rng.normal(0, 0.16, len(names)), strict=True))
    moment = rng.normal(0, 0.24, len(photos))
    qualities = pd.DataFrame(
        {
            'light': 1 - np.hypot(exposure, contrast),
            'color': 1 - np.hypot(photos.cast / 0.8, saturation),
            'focus': 1 - photos.blur / 1.6,
            'steadiness': 1 - photos.motion / 7,
            'composition': 1 - np.hypot((photos.offset - 0.06).clip(0) / 0.3, photos.tilt / 13),
            'detail': 1 - photos.noise / 0.1,
            'content': 0.55 + photos.source.map(appeal) + moment,
        },
        index=photos.index,
    )
    return qualities.clip(0, 1).assign(source=photos.source)


def attribute_levels(qualities: pd.DataFrame) -> pd.DataFrame:
    """Convert qualities to levels: columns ``attr_<name>``, whole numbers 1 (bad) to 5."""
    levels = np.floor(qualities[list(ATTRIBUTES)] * 5).clip(0, 4).astype(int) + 1
    return levels.add_prefix('attr_')


def simulate_votes(attributes: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Simulate the votes of N_RATERS raters on every image; each skips about one image in five.

    Args:
        attributes: table with one column for each of ATTRIBUTES, in [0, 1], and ``source``.
        seed: seed of the raters and of their votes.

    Returns:
        A table with the number of votes for 1..10 in the columns VOTES.

    Raises:
        AMHPError: a column is missing.
    """
    if missing := {*ATTRIBUTES, 'source'} - set(attributes.columns):
        raise AMHPError(f'simulate_votes needs the columns {sorted(missing)} as well')
    rng = np.random.default_rng((seed, 2))
    quality = attributes[list(ATTRIBUTES)].to_numpy(float)  # (N, A)
    weights = np.array(list(WEIGHTS.values()))[:, None] * rng.gamma(
        6, 1 / 6, (len(WEIGHTS), N_RATERS)
    )
    weights /= weights.sum(axis=0)  # (A, raters)
    worst = quality[:, :-1].min(axis=1, keepdims=True)  # one bad fault spoils an image
    pickiness = rng.uniform(0.05, 0.25, N_RATERS)
    pleasure = (1 - pickiness) * (quality @ weights) + pickiness * worst  # (N, raters) in [0, 1]

    names, subject = np.unique(attributes.source.to_numpy(str), return_inverse=True)
    taste = rng.normal(0, 0.5, (len(names), N_RATERS))
    taste -= taste.mean(axis=1, keepdims=True)  # the mean taste is in `content` already
    leniency = rng.normal(0, 0.5, N_RATERS)
    noise_level = rng.uniform(0.5, 1.1, N_RATERS)
    noise = rng.normal(size=pleasure.shape) * noise_level
    votes = -0.3 + 10.3 * pleasure + taste[subject] + leniency + noise
    votes = np.clip(np.rint(votes), 1, 10).astype(int)

    voted = rng.random(votes.shape) < 0.8
    counts = [((votes == vote) & voted).sum(axis=1) for vote in range(1, 11)]
    return pd.DataFrame(np.stack(counts, axis=1), columns=list(VOTES), index=attributes.index)


def vote_statistics(votes: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean (``MOS``, 1..10) and the standard deviation (``std``) of the votes."""
    counts = votes[list(VOTES)].to_numpy(float)
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(1, 11)
    mos = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mos**2, 0))
    return pd.DataFrame({'MOS': mos.round(4), 'std': std.round(4)}, index=votes.index)
