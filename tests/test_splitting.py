"""Splits that keep groups and near-duplicates on one side."""

import numpy as np
import pytest

from pyiqa_amhp.datasets.splitting import group_near_duplicates, make_split, near_duplicates
from pyiqa_amhp.errors import AMHPError


def test_a_chain_of_near_duplicates_is_one_group():
    angles = np.radians([0, 20, 40, 120, 200])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups = near_duplicates(features, np.cos(np.radians(21)))
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups[[0, 3, 4]])) == 3


def test_images_in_different_blocks_are_compared(monkeypatch):
    monkeypatch.setattr('pyiqa_amhp.datasets.splitting.BLOCK', 3)
    features = np.eye(10)[[0, 1, 2, 3, 4, 5, 6, 0, 8, 9]]
    groups = near_duplicates(features, 0.9)
    assert groups[0] == groups[7] and len(set(groups)) == 9


@pytest.mark.parametrize('seed', range(5))
def test_groups_stay_together_and_shares_are_near(seed):
    groups = np.random.default_rng(seed).integers(0, 40, 200)
    split = make_split(groups, seed)
    assert all(len(set(split[groups == group])) == 1 for group in groups)
    assert abs((split == 'test').sum() - 40) <= 8 and abs((split == 'val').sum() - 30) <= 8


def test_the_seed_decides():
    groups = np.arange(100)
    assert (make_split(groups, 1) == make_split(groups, 1)).all()
    assert (make_split(groups, 1) != make_split(groups, 2)).any()


def test_given_parts_stay_as_they_are():
    given = np.array(['train'] * 60 + ['test'] * 20 + [''] * 5)
    split = make_split(np.arange(85), 0, given)
    assert (split[60:] == given[60:]).all() and (split == 'val').sum() == 9


def test_too_few_images_in_a_part_are_an_error():
    with pytest.raises(AMHPError, match=r'0 images for val .*expected 4 or more'):
        make_split(np.zeros(30, int), 0, np.array(['train'] * 20 + ['test'] * 10))


def test_where_all_images_are_alike_the_threshold_rises():
    far, near = np.eye(20) * 0.3 + 1, np.eye(20)
    groups, threshold = group_near_duplicates(far, 0.85)
    assert len(set(groups)) == 20 and threshold > 0.95
    assert group_near_duplicates(near, 0.85)[1] == 0.85
    groups, _ = group_near_duplicates(np.ones((20, 3)), 0.85)  # nothing tells them apart
    assert len(set(groups)) == 20
