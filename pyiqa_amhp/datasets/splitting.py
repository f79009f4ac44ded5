"""Split rated images into train, val and test, and keep images that belong together on one side.

All rules here are our choice. Near-duplicates (a burst, a crop, an edit of the same photograph) in
train and in test would make the test too easy. Random splits of photographs of the same subjects
do so too, which only a column of the user's can tell (``--group``).
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pyiqa_amhp.datasets.raw import SPLIT_NAMES
from pyiqa_amhp.errors import AMHPError

SHARES = {'test': 0.2, 'val': 0.15}  # of the images; the others are for training
LEAST = {'train': 10, 'val': 4, 'test': 4}  # images of each part, without which nothing is measured
MAX_GROUP = 0.2  # of the images; a larger group of near-duplicates is a sign of alike features
BLOCK = 1024  # rows of features that are compared at once


def near_duplicates(features: np.ndarray, threshold: float) -> np.ndarray:
    """Group images whose features have a cosine of at least ``threshold``, also by way of others.

    Args:
        features: image features ``(N, w)``.
        threshold: the least cosine of near-duplicates.

    Returns:
        The number of the first image of each image's group, ``(N,)``.
    """
    return groups_of(close_pairs(features, threshold), len(features))


def close_pairs(features: np.ndarray, threshold: float) -> np.ndarray:
    """List the pairs of images whose features have a cosine of at least ``threshold``.

    Returns:
        The numbers of the two images of each of M pairs, ``(M, 2)``.
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(norms, 1e-12)).astype(np.float32)
    pairs = [np.empty((0, 2), int)]
    for start in range(0, len(unit), BLOCK):
        close = unit[start : start + BLOCK] @ unit[start:].T >= threshold
        pairs.append(np.argwhere(np.triu(close, 1)) + start)
    return np.concatenate(pairs)


def groups_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """Group the images of pairs, also by way of others.

    Args:
        pairs: the numbers of images that belong together, ``(M, 2)``.
        count: the number of all images.

    Returns:
        The number of the first image of each image's group, ``(count,)``.
    """
    rows, columns = pairs.T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    groups = connected_components(graph, directed=False)[1]
    return np.unique(groups, return_index=True)[1][groups]


def group_near_duplicates(features: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Group near-duplicates, by a higher threshold where one group would be too large.

    Encoders differ in how alike their features are, and photographs too: those of one place, say.
    The distance of the threshold to 1 is halved until no group has more than ``MAX_GROUP`` of the
    images, five times at most; otherwise no images are grouped.

    Args:
        features: image features ``(N, w)``.
        threshold: the least cosine of near-duplicates to begin with.

    Returns:
        The number of each image's group, ``(N,)``, and the threshold.
    """
    for _ in range(6):
        groups = near_duplicates(features, threshold)
        if np.bincount(groups).max() <= max(2, MAX_GROUP * len(groups)):
            return groups, threshold
        threshold = (1 + threshold) / 2
    return np.arange(len(features)), 1.0


def make_split(
    groups: Sequence | np.ndarray, seed: int, given: np.ndarray | None = None
) -> np.ndarray:
    """Choose the part of each image at random; a group is in one part.

    Args:
        groups: the group of each image, ``(N,)``; any values.
        seed: seed of the choice.
        given: parts of a split column, ``(N,)`` of train, val, test or ''. Parts that it lacks are
            taken out of train.

    Returns:
        ``(N,)`` of train, val, test, or '' as in ``given``.

    Raises:
        AMHPError: a part would have too few images (``LEAST``).
    """
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    split = np.full(len(codes), 'train', dtype='<U5') if given is None else given.copy()
    free = split == 'train'
    order = np.random.default_rng(seed).permutation(codes.max() + 1 if len(codes) else 0)
    for part, share in SHARES.items():
        if (split == part).any():
            continue
        wanted, taken = round(share * free.sum()), 0
        for group in order:
            members = (codes == group) & (split == 'train')
            # The group that comes nearer to the share is taken.
            if members.any() and abs(taken + members.sum() - wanted) < abs(taken - wanted):
                split[members] = part
                taken += int(members.sum())
    check_parts(split)
    return split


def check_parts(split: np.ndarray) -> None:
    """Check that each part of a split has enough images.

    Raises:
        AMHPError: names the part, and how many images it has.
    """
    counts = {name: int((split == name).sum()) for name in SPLIT_NAMES.values()}
    for name, least in LEAST.items():
        if counts[name] < least:
            found = ', '.join(f'{part}: {count}' for part, count in counts.items())
            raise AMHPError(
                f'{counts[name]} images for {name} ({found}), expected {least} or more; rate more '
                'photographs, or give groups of other sizes'
            )
