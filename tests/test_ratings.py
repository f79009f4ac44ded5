"""Ratings become level distributions, and distributions become scores."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_amhp.datasets.ratings import (
    LEVELS,
    REFERENCE_PARA_LEVEL_VALUES,
    REFERENCE_PARA_VOTE_MATRIX,
    SCALES,
    RatingError,
    default_level_values,
    distribution_from_mean,
    distribution_from_votes,
    expected_score,
    merge_levels,
    vote_matrix,
)
from pyiqa_amhp.errors import AMHPError

AVA, PARA, AADB = SCALES['ava'], SCALES['para'], SCALES['aadb']


@st.composite
def rising_levels(draw):
    steps = draw(st.lists(st.floats(1e-3, 1e2), min_size=1, max_size=9))
    return draw(st.floats(-100, 100)) + np.concatenate([[0], np.cumsum(steps)])


shares = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0, 1, 0.5]),
    st.floats(-16, -1).map(lambda e: 10**e),
    st.floats(-16, -1).map(lambda e: 1 - 10**e),
)
deviations = st.one_of(st.just(0.0), st.just(np.nan), st.floats(-12, 12).map(lambda e: 10**e))


def score_at(levels, share):
    return float(np.clip(levels[0] + share * (levels[-1] - levels[0]), levels[0], levels[-1]))


@given(rising_levels(), st.lists(st.tuples(shares, deviations), min_size=1, max_size=8))
def test_any_mean_and_deviation_give_a_distribution_with_that_mean(levels, rows):
    mean = np.array([score_at(levels, share) for share, _ in rows])
    std = np.array([deviation for _, deviation in rows])
    dist = distribution_from_mean(mean, std, levels)
    assert (dist >= 0).all()
    np.testing.assert_allclose(dist.sum(axis=1), 1, atol=1e-12)
    assert np.abs(expected_score(dist, levels) - mean).max() <= 1e-6 * (levels[-1] - levels[0])


@given(rising_levels(), st.integers(0, 9), st.floats(-12, 12).map(lambda e: 10**e))
def test_a_mean_on_a_level_is_kept_too(levels, index, std):
    mean = levels[index % len(levels)]
    dist = distribution_from_mean([mean], [std], levels)
    assert abs(expected_score(dist, levels)[0] - mean) <= 1e-6 * (levels[-1] - levels[0])


def test_the_deviation_is_kept_where_the_levels_allow_it():
    levels = np.linspace(0, 10, 11)
    dist = distribution_from_mean([4.3, 5.0], [1.2, 1.4], levels)
    spread = np.sqrt(dist @ levels**2 - (dist @ levels) ** 2)
    np.testing.assert_allclose(spread, [1.2, 1.4], atol=0.01)


def test_the_tilted_normal_is_a_normal_at_the_levels():
    levels = np.array([1, 2.5, 4, 5.5, 7])
    log = np.log(distribution_from_mean([4.2], [1.4], levels)[0])
    # whatever the tilt, the second differences of a normal's log density are -step^2 / std^2
    np.testing.assert_allclose(np.diff(log, 2), -(1.5**2) / 1.4**2, rtol=1e-6)


def test_without_a_deviation_the_mass_is_on_the_two_nearest_levels():
    expected = [[0, 0.75, 0.25, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    for std in (None, [np.nan] * 3, [0.0] * 3):
        dist = distribution_from_mean([2.25, 5, 1], std, PARA.level_values)
        np.testing.assert_allclose(dist, expected, atol=1e-12)


def test_a_default_deviation_replaces_unknown_ones_only():
    values = PARA.level_values
    dist = distribution_from_mean([2.25, 2.25, 2.25], [np.nan, 0, 0.6], values, default_std=0.6)
    np.testing.assert_allclose(dist[0], dist[2])
    np.testing.assert_allclose(dist[1], [0, 0.75, 0.25, 0, 0], atol=1e-12)
    alone = distribution_from_mean([2.25], None, values, default_std=0.6)
    np.testing.assert_allclose(alone[0], dist[2])


@pytest.mark.parametrize('mean', [0.99, 5.01, np.nan, np.inf])
def test_a_mean_outside_the_levels_is_refused(mean):
    with pytest.raises(RatingError, match='row 1: mean score') as caught:
        distribution_from_mean([3, mean], None, PARA.level_values)
    assert caught.value.row == 1


def test_a_negative_deviation_is_refused():
    with pytest.raises(RatingError, match='row 0: standard deviation -1'):
        distribution_from_mean([3], [-1], PARA.level_values)


def test_ava_votes_merge_in_pairs():
    matrix = vote_matrix(AVA.vote_values, AVA.level_values)
    counts = [[0, 1, 5, 17, 38, 36, 15, 6, 5, 1]]  # image 953619
    np.testing.assert_array_equal(
        distribution_from_votes(counts, matrix)[0], np.array([1, 22, 74, 21, 6]) / 124
    )


def test_a_half_step_vote_of_para_is_split_evenly():
    matrix = vote_matrix(PARA.vote_values, PARA.level_values)
    np.testing.assert_allclose(matrix[0], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(matrix[7], [0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(matrix @ PARA.level_values, PARA.vote_values)


def test_aadb_votes_are_the_levels():
    np.testing.assert_array_equal(vote_matrix(AADB.vote_values, AADB.level_values), np.eye(5))


@given(rising_levels(), st.lists(st.floats(0, 1), min_size=2, max_size=12, unique=True))
def test_splitting_votes_keeps_their_score(levels, shares):
    votes = np.unique([score_at(levels, share) for share in shares])
    if len(votes) < 2:
        return
    matrix = vote_matrix(votes, levels)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert (matrix >= 0).all()
    merged = len(votes) % len(levels) == 0 and np.allclose(
        votes.reshape(len(levels), -1).mean(axis=1), levels
    )
    if not merged:
        np.testing.assert_allclose(matrix @ levels, votes, atol=1e-9 * np.abs(levels).max() + 1e-9)


def test_a_vote_outside_the_levels_is_refused():
    with pytest.raises(AMHPError, match='vote value 0 is outside'):
        vote_matrix([0, 1, 2], [1, 2])


def test_the_authors_para_votes_drop_those_at_4_5():
    votes = np.eye(9)[[0, 1, 2, 8]]
    dist = distribution_from_votes(votes, REFERENCE_PARA_VOTE_MATRIX)
    assert dist.argmax(axis=1).tolist() == [0, 1, 1, 4]
    with pytest.raises(RatingError, match='row 0: no votes that count'):
        distribution_from_votes(np.eye(9)[[7]], REFERENCE_PARA_VOTE_MATRIX)
    mixed = distribution_from_votes([[0, 0, 0, 0, 1, 0, 0, 3, 1]], REFERENCE_PARA_VOTE_MATRIX)
    np.testing.assert_allclose(mixed, [[0, 0, 0.5, 0, 0.5]])
    assert len(REFERENCE_PARA_LEVEL_VALUES) == REFERENCE_PARA_VOTE_MATRIX.shape[1]


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ([0, 0], 'row 1: no votes'),
        ([1, -2], 'row 1, vote column 1: vote count -2'),
        ([np.nan, 1], 'row 1, vote column 0: vote count nan'),
        ([np.inf, 1], 'row 1, vote column 0: vote count inf'),
        (['many', 1], 'row 1: .*many.*expected numbers'),
    ],
)
def test_a_row_of_unusable_votes_is_named(row, message):
    with pytest.raises(RatingError, match=message) as caught:
        distribution_from_votes([[1, 2], row], np.eye(2))
    assert caught.value.row == 1


def test_another_number_of_vote_columns_is_refused():
    with pytest.raises(AMHPError, match=r'expected \(N, 10\)'):
        distribution_from_votes([[1, 2]], vote_matrix(AVA.vote_values, AVA.level_values))


def test_ten_bins_merge_to_five_levels():
    np.testing.assert_allclose(merge_levels([np.arange(10) / 45], 5) * 45, [[1, 5, 9, 13, 17]])
    with pytest.raises(AMHPError, match='multiple of 4'):
        merge_levels([np.ones(10)], 4)


def test_default_level_values_are_bin_means_or_even_steps():
    for scale in SCALES.values():
        assert default_level_values(scale.vote_values, len(LEVELS)) == scale.level_values
    assert default_level_values((1, 7), 5) == (1, 2.5, 4, 5.5, 7)
    assert default_level_values((1, 7), 2) == (1, 7)
    with pytest.raises(AMHPError, match='rising'):
        default_level_values((7, 1), 5)
    with pytest.raises(AMHPError, match='at least 2'):
        default_level_values((1, 7), 1)


def test_the_score_is_the_expected_level_value():
    assert expected_score([[0.5, 0, 0, 0, 0.5]], AVA.level_values)[0] == 5.5
    with pytest.raises(AMHPError, match=r'expected \(N, 5\)'):
        expected_score([[0.5, 0.5]], AVA.level_values)


def test_ratings_imports_neither_torch_nor_pyiqa():
    code = 'import sys, pyiqa_amhp.datasets.ratings; print({"torch", "pyiqa"} & set(sys.modules))'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == 'set()', result.stderr
