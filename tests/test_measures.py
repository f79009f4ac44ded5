"""Measures and their intervals: correct on ordinary input, never a silent NaN on odd input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.measures import MEASURES, Value, evaluate, range_map

KEYS = [key for key, _, _ in MEASURES]


def scores(n, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.normal(5, 1.5, n)
    return rated + rng.normal(0, 1, n), rated


def dists(n, k, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(k), n)


def evaluated(x, y, **options):
    """Evaluate without intervals, at threshold 5 by default."""
    return evaluate(x, y, **{'threshold': 5, 'resamples': 0, **options})


@given(st.integers(2, 60), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_correlations_equal_scipys_with_and_without_ties(n, seed, ties):
    x, y = scores(n, seed)
    if ties:
        x, y = np.round(x), np.round(y)
    values = evaluated(x, y).values
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert values['srcc'].value is None and 'equal' in values['srcc'].reason
        return
    assert values['srcc'].value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert values['plcc'].value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert values['krcc'].value == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)


def test_acc_and_mse_equal_scikit_learns():
    from sklearn.metrics import accuracy_score, mean_squared_error

    x, y = scores(200)
    values = evaluated(x, y).values
    assert values['acc'].value == pytest.approx(accuracy_score(y > 5, x > 5))
    assert values['mse'].value == pytest.approx(mean_squared_error(y, x))


@pytest.mark.parametrize('r', [1, 2])
def test_emd_of_ten_bins_is_computed_on_the_merged_levels(r):
    p, q = dists(30, 10, 1), dists(30, 5, 2)
    x, y = scores(30)
    value = evaluated(x, y, predicted_dist=p, rated_dist=q).values[f'emd{r}'].value
    total = 0
    for a, b in zip(p, q, strict=True):
        merged = [a[2 * j] + a[2 * j + 1] for j in range(5)]
        gaps = [abs(sum(merged[: j + 1]) - sum(b[: j + 1])) for j in range(5)]
        total += (sum(gap**r for gap in gaps) / 5) ** (1 / r)
    assert value == pytest.approx(total / 30, abs=1e-12)


def test_intervals_contain_the_value_and_narrow_with_more_images():
    widths = []
    for n in (40, 1000):
        value = evaluate(*scores(n), threshold=5).values['srcc']
        assert value.low < value.value < value.high
        widths.append(value.high - value.low)
    assert widths[1] < widths[0] / 3


def test_intervals_equal_a_plain_bootstraps():
    x, y = scores(60)
    value = evaluate(x, y, threshold=5, resamples=400, seed=3).values['plcc']
    rng = np.random.default_rng(3)
    plain = []
    for _ in range(400):
        rows = rng.integers(0, 60, 60)
        plain.append(stats.pearsonr(x[rows], y[rows]).statistic)
    assert [value.low, value.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-9)


@pytest.mark.parametrize(
    ('x', 'y', 'reason'),
    [
        ([], [], 'no image'),
        ([1.0], [2.0], 'one image'),
        ([3.0] * 20, list(range(20)), 'all predictions are equal'),
        (list(range(20)), [3.0] * 20, 'all ratings are equal'),
        ([np.nan] * 5, [1.0, 2, 3, 4, 5], 'no image with a finite score'),
    ],
)
def test_degenerate_input_gives_a_reason_instead_of_a_correlation(x, y, reason):
    for value in (evaluate(x, y, threshold=5).values[key] for key in ('srcc', 'plcc', 'krcc')):
        assert value.value is None and reason in value.reason


@pytest.mark.parametrize(
    ('x', 'y'), [([1.0, 2], [3.0, 4]), ([1e300, 2e300, 3], [1, 2, 3]), ([0.1, 0.1, 0.2], [1, 2, 3])]
)
def test_odd_input_gives_a_number_or_a_reason(x, y):
    for value in evaluate(x, y, threshold=5).values.values():
        assert value.value is None or np.isfinite(value.value)
        assert value.value is not None or value.reason


def test_two_images_have_a_value_but_no_interval():
    value = evaluate([1.0, 2], [3.0, 4], threshold=5).values['srcc']
    assert value.value == 1 and value.low is None and 'no interval under 10' in value.reason


def test_scores_that_are_not_finite_are_left_out_and_counted():
    x, y = scores(30)
    x[3], x[7] = np.nan, np.inf
    found = evaluated(x, y)
    keep = np.isfinite(x)
    assert (found.images, found.left_out) == (28, 2) and '2 of 30' in found.notes[0]
    assert found.values['mse'].value == pytest.approx(((x - y)[keep] ** 2).mean())


def test_lower_better_negates_the_scores_in_correlations():
    x, y = scores(50)
    assert evaluated(-x, y, lower_better=True).values['srcc'] == evaluated(x, y).values['srcc']


def test_scores_on_another_scale_are_mapped_by_its_ends_and_marked():
    x, y = scores(50)
    mapping = range_map((0, 100), (1, 10))
    found = evaluated(
        x, y, mapping=mapping, predicted_dist=dists(50, 5, 0), rated_dist=dists(50, 5, 1)
    )
    mapped = 1 + 9 * x / 100
    assert found.values['mse'] == Value(pytest.approx(((mapped - y) ** 2).mean()), mapped=True)
    assert found.values['emd1'].value is None and found.mapping == '0..100 to 1..10'
    assert not found.values['srcc'].mapped


def test_the_map_of_a_lower_better_scale_is_reversed():
    mapping = range_map((-20, 80), (1, 7), lower_better=True)
    assert mapping(np.array([-20.0, 30, 80])) == pytest.approx([7, 4, 1])


def test_no_map_without_two_ends_or_between_equal_ranges():
    assert 'states no range' in range_map(None, (1, 10))
    assert range_map((1, 10), (1, 10)) is None
    values = evaluated(*scores(20), mapping='no range').values
    assert values['mse'].reason == 'no range' and values['srcc'].value is not None


def test_distributions_that_cannot_be_compared_give_a_reason():
    x, y = scores(20)
    q = dists(20, 5, 0)
    for p, reason in ((dists(20, 7, 1), '7 bins'), (2 * dists(20, 5, 1), 'do not sum to 1')):
        value = evaluated(x, y, predicted_dist=p, rated_dist=q).values['emd1']
        assert value.value is None and reason in value.reason


def test_shapes_and_ratings_are_checked():
    with pytest.raises(AMHPError, match='3 predicted and 2 rated'):
        evaluated([1, 2, 3], [1, 2])
    with pytest.raises(AMHPError, match='image 1 is not finite'):
        evaluated([1, 2, 3], [1, np.nan, 2])


odd_scores = st.sampled_from([0.0, 1.0, 1.0, 2.0, -1e308, 1e308, 1e-320, np.nan, np.inf, -np.inf])


@given(st.lists(st.tuples(odd_scores, st.sampled_from([0.0, 1.0, 1.0, 5.0, 1e-320])), max_size=25))
@settings(deadline=None, max_examples=150)
def test_any_input_gives_a_finite_value_or_a_reason(pairs):
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    found = evaluate(x, y, threshold=1, resamples=20)
    assert found.images + found.left_out == len(pairs)
    for value in found.values.values():
        assert value.value is not None or value.reason
        for number in (value.value, value.low, value.high):
            assert number is None or np.isfinite(number)
        assert (value.low is None) == (value.high is None)
        assert value.low is not None or value.reason


def test_values_undefined_in_many_resamples_have_no_interval_but_a_reason():
    value = evaluate([5.0] * 19 + [6], list(range(20)), threshold=5).values['srcc']
    assert value.value is not None and value.low is None and 'resamples' in value.reason


def test_scores_equal_but_for_rounding_have_no_plcc():
    x = [1 + 1e-16 * i for i in range(3)] + [1 + 2.3e-16]
    assert 'rounding' in evaluate(x, [1, 2, 3, 4], threshold=1).values['plcc'].reason
