"""ACC, MSE, EMD1 and EMD2 against results by hand and by SciPy, also called by pyiqa."""

import numpy as np
import pytest
import torch
from pyiqa.metrics import calculate_metric
from scipy.stats import wasserstein_distance

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.loss import emd
from pyiqa_amhp.train.metrics import calculate_acc, calculate_emd, calculate_mse, emd_per_image

PREDICTED = [4.0, 5.0, 5.5, 7.0]
RATED = [4.5, 5.5, 4.0, 6.0]
P = [[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1]]
Q = [[0, 0.5, 0.5, 0, 0], [1, 0, 0, 0, 0]]


def distributions(seed, n=20, k=5):
    return np.random.default_rng(seed).dirichlet(np.ones(k), size=n)


@pytest.mark.parametrize(
    ('threshold', 'expected'),
    # above 5: F F T T and F T F T; above 4.2: F T T T and T T F T; above 6.5: F F F T and none
    [(5, 0.5), (4.2, 0.5), (6.5, 0.75), (5.2, 0.5), (1, 1), (9, 1)],
)
def test_acc_counts_images_on_the_right_side_of_the_threshold(threshold, expected):
    assert calculate_acc(PREDICTED, RATED, threshold=threshold) == expected


def test_acc_has_the_threshold_of_ava_by_default():
    assert calculate_acc([4.9, 5.1], [1, 10]) == 1
    assert calculate_acc([4.9, 5.1], [10, 1]) == 0


def test_a_score_at_the_threshold_is_low():
    assert calculate_acc([5.0], [4.0]) == 1
    assert calculate_acc([5.0], [5.1]) == 0
    assert calculate_acc([4.0], [5.0]) == 1


def test_mse_by_hand():
    assert calculate_mse(PREDICTED, RATED) == pytest.approx((0.25 + 0.25 + 2.25 + 1) / 4)


@pytest.mark.parametrize(
    ('r', 'expected'),
    [
        # CDF differences: .5 .5 0 0 0, and -1 -1 -1 -1 0
        (1, (1 / 5 + 4 / 5) / 2),
        (2, (np.sqrt(0.5 / 5) + np.sqrt(4 / 5)) / 2),
    ],
)
def test_emd_by_hand(r, expected):
    assert calculate_emd(P, Q, r=r) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('k', [2, 5, 10])
def test_emd1_is_the_wasserstein_distance_of_levels_one_apart_over_k(k):
    p, q = distributions(0, k=k), distributions(1, k=k)
    levels = np.arange(k)
    expected = np.mean(
        [wasserstein_distance(levels, levels, a, b) / k for a, b in zip(p, q, strict=True)]
    )
    assert calculate_emd(p, q) == pytest.approx(expected, rel=1e-9)
    assert calculate_emd(p, q, r=1) == calculate_emd(p, q)


@pytest.mark.parametrize('r', [1, 2])
def test_emd_is_the_mean_of_the_losses_distance(r):
    p, q = distributions(2), distributions(3)
    expected = emd(torch.tensor(p), torch.tensor(q), r).mean().item()
    assert calculate_emd(p, q, r=r) == pytest.approx(expected, rel=1e-12)


def test_emd_per_image_merges_neighbouring_bins_to_the_levels_of_the_ratings():
    p, q = distributions(4, k=10), distributions(5, k=5)
    merged = p[:, ::2] + p[:, 1::2]
    expected = emd(torch.tensor(merged), torch.tensor(q), 2)
    np.testing.assert_allclose(emd_per_image(p, q, 2), expected, rtol=1e-12)
    with pytest.raises(AMHPError, match='m a multiple of 3'):
        emd_per_image(p, distributions(6, k=3), 2)


@pytest.mark.parametrize('shape', [(4,), (4, 1), (1, 4)])
def test_scores_can_have_two_dimensions(shape):
    x, y = np.reshape(PREDICTED, shape), np.array(RATED)
    assert calculate_mse(x, y) == calculate_mse(PREDICTED, RATED)
    assert calculate_acc(x, y) == calculate_acc(PREDICTED, RATED)


def test_tensors_and_float32_are_accepted():
    assert calculate_mse(torch.tensor(PREDICTED), np.float32(RATED)) == pytest.approx(0.9375)


@pytest.mark.parametrize('better', [{}, {'better': 'lower'}, {'better': 'higher'}])
@pytest.mark.parametrize(
    ('options', 'data', 'expected'),
    [
        ({'type': 'calculate_acc', 'threshold': 6.5}, (PREDICTED, RATED), 0.75),
        ({'type': 'calculate_mse'}, (PREDICTED, RATED), 0.9375),
        ({'type': 'calculate_emd', 'r': 1}, (P, Q), 0.5),
    ],
)
def test_pyiqa_calls_them_with_the_options_of_the_yaml_file(options, data, expected, better):
    data = [np.array(values) for values in data]
    value = calculate_metric(data, {**options, **better})
    assert type(value) is float
    assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    'options',
    [
        {'type': 'calculate_acc', 'treshold': 3},
        {'type': 'calculate_mse', 'threshold': 3},
        {'type': 'calculate_emd', 'R': 2},
    ],
)
def test_a_misspelt_option_is_an_error(options):
    with pytest.raises(TypeError, match='unexpected keyword'):
        calculate_metric([np.array(P), np.array(Q)], options)


METRICS = [(calculate_acc, [1.0, 2.0]), (calculate_mse, [1.0, 2.0]), (calculate_emd, P)]


@pytest.mark.parametrize(('metric', 'good'), METRICS)
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error_on_either_side(metric, good, value):
    bad = np.array(good)
    bad.flat[1] = value
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(AMHPError, match=f'{metric.__name__}.* NaN or infinite'):
            metric(*pair)


@pytest.mark.parametrize(('metric', 'good'), METRICS)
def test_nothing_to_compare_is_an_error(metric, good):
    empty = np.zeros((0, *np.shape(good)[1:]))
    with pytest.raises(AMHPError, match=f'{metric.__name__}.*non-empty'):
        metric(empty, empty)


@pytest.mark.parametrize(('metric', 'good'), METRICS)
def test_different_sizes_are_an_error_that_names_them(metric, good):
    shape = np.shape(good[:1])
    with pytest.raises(AMHPError, match=metric.__name__) as caught:
        metric(good, good[:1])
    assert str(np.shape(good)) in str(caught.value)
    assert str(shape) in str(caught.value)


def test_emd_of_scores_is_an_error_that_names_amhpmodel():
    with pytest.raises(AMHPError, match='needs level distributions; use AMHPModel'):
        calculate_emd(PREDICTED, RATED)


def test_emd_of_distributions_over_other_levels_is_an_error():
    with pytest.raises(AMHPError, match=r'\(20, 5\) and \(20, 10\)'):
        calculate_emd(distributions(0), distributions(0, k=10))
