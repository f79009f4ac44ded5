"""The loss against Eq. 8 with loops in float64; its gradient, options and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.loss import AMHPEMDLoss, agreement_weight, emd

AGREED = [[0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0]]


def loss_by_the_paper(p, q, r, weighted, root):
    """Compute Eq. 8 with loops, in float64: CDF differences, their r-th power, mean and root."""
    k, per_image = p.shape[1], []
    for pi, qi in zip(p, q, strict=True):
        powers = [abs(sum(pi[: j + 1]) - sum(qi[: j + 1])) ** r for j in range(k)]
        mean = sum(powers) / k
        distance = mean if root == 'batch' else mean ** (1 / r)
        if weighted:
            distance *= 1 - sum(qi**2) + (0.2 if k == 5 else 0.1)
        per_image.append(distance)
    loss = sum(per_image) / len(per_image)
    return loss ** (1 / r) if root == 'batch' else loss


def distributions(seed, n=7, k=5):
    return np.random.default_rng(seed).dirichlet(np.ones(k), size=n)


def tensor(values):
    return torch.tensor(np.asarray(values, dtype=np.float64))


@pytest.mark.parametrize('k', [5, 4, 10])
@pytest.mark.parametrize('root', ['image', 'batch'])
@pytest.mark.parametrize('protocol', ['paper', 'reference'])
@pytest.mark.parametrize('r', [1, 2])
def test_the_loss_is_eq_8_for_each_protocol(r, protocol, root, k):
    p, q = distributions(1, k=k), distributions(2, k=k)
    loss = AMHPEMDLoss(r=r, protocol=protocol, root=root)(tensor(p), tensor(q))
    expected = loss_by_the_paper(p, q, r, protocol == 'reference', root)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_defaults_are_the_papers():
    p, q = distributions(3), distributions(4)
    expected = loss_by_the_paper(p, q, r=2, weighted=False, root='image')
    assert AMHPEMDLoss()(tensor(p), tensor(q)).item() == pytest.approx(expected, rel=1e-12)


def test_weights_and_protocol_are_separate_options():
    p, q = tensor(distributions(5)), tensor(distributions(6))
    assert AMHPEMDLoss(weighted=True)(p, q) == AMHPEMDLoss(protocol='reference')(p, q)
    plain = AMHPEMDLoss(protocol='reference', weighted=False)(p, q)
    assert plain == AMHPEMDLoss()(p, q) != AMHPEMDLoss(weighted=True)(p, q)


def test_images_that_raters_agree_about_have_lower_weights():
    weights = agreement_weight(tensor([*AGREED, [0.2] * 5]))
    np.testing.assert_allclose(weights, [0.2, 0.7, 1.0])
    np.testing.assert_allclose(agreement_weight(tensor([[0.5, 0.5], [1, 0]])), [0.6, 0.1])


@pytest.mark.parametrize(('r', 'expected'), [(1, 0.2), (2, np.sqrt(0.2))])
def test_the_distance_of_neighbouring_levels_is_one_difference_of_one_among_five(r, expected):
    p, q = tensor([[1, 0, 0, 0, 0]]), tensor([[0, 1, 0, 0, 0]])
    assert emd(p, q, r).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('r', [1, 2])
def test_the_distance_grows_with_the_distance_of_levels(r):
    levels = torch.eye(5, dtype=torch.float64)
    distances = [emd(levels[:1], levels[i : i + 1], r).item() for i in range(5)]
    assert distances == sorted(set(distances))


def test_float32_agrees_with_float64():
    p, q = distributions(7, n=72), distributions(8, n=72)
    single = AMHPEMDLoss(protocol='reference')(tensor(p).float(), tensor(q).float())
    expected = loss_by_the_paper(p, q, r=2, weighted=True, root='image')
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('root', ['image', 'batch'])
@pytest.mark.parametrize('protocol', ['paper', 'reference'])
@pytest.mark.parametrize('r', [1, 1.5, 2])
def test_the_gradient_is_finite_where_prediction_and_rating_are_equal(r, protocol, root):
    logits = torch.tensor([[0.0, 1, 2, 1, 0], [3.0, 0, 0, 0, 0]], requires_grad=True)
    p = logits.softmax(dim=-1)
    loss = AMHPEMDLoss(r=r, protocol=protocol, root=root)(p, p.detach())
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_one_equal_image_keeps_the_gradient_of_the_others_finite():
    logits = torch.tensor([[0.0, 1, 2, 1, 0], [0.0, 1, 2, 1, 0]], requires_grad=True)
    p = logits.softmax(dim=-1)
    q = torch.stack([p[0].detach(), torch.tensor([0.0, 0, 0, 0, 1])])
    AMHPEMDLoss()(p, q).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().sum() > 0


@pytest.mark.parametrize('root', ['image', 'batch'])
@pytest.mark.parametrize('protocol', ['paper', 'reference'])
@pytest.mark.parametrize('r', [1, 2])
def test_the_gradient_is_that_of_the_formula(r, protocol, root):
    loss = AMHPEMDLoss(r=r, protocol=protocol, root=root)
    q = tensor(distributions(10, n=3))
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x.softmax(dim=-1), q), [logits])


def test_gradient_descent_finds_the_rating():
    q = tensor(distributions(11, n=2))
    logits = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = AMHPEMDLoss()(logits.softmax(dim=-1), q)
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(logits.detach().softmax(dim=-1), q, atol=0.02)


def test_reductions_and_the_factor():
    p, q = tensor(distributions(12)), tensor(distributions(13))
    each = AMHPEMDLoss(reduction='none')(p, q)
    assert each.shape == (7,)
    torch.testing.assert_close(AMHPEMDLoss(reduction='sum')(p, q), each.sum())
    torch.testing.assert_close(AMHPEMDLoss(loss_weight=3)(p, q), 3 * each.mean())


@pytest.mark.parametrize(
    ('pred', 'target'),
    [((4, 5), (4, 10)), ((4, 5), (3, 5)), ((5,), (5,)), ((4, 1), (4, 5)), ((2, 3, 5), (2, 3, 5))],
)
def test_shapes_that_differ_are_an_error_that_names_them(pred, target):
    with pytest.raises(AMHPError, match='expected the same') as caught:
        AMHPEMDLoss()(torch.ones(pred), torch.ones(target))
    assert str(pred) in str(caught.value)
    assert str(target) in str(caught.value)


@pytest.mark.parametrize(
    'options',
    [
        {'protocol': 'papre'},
        {'root': 'all'},
        {'reduction': 'avg'},
        {'r': 0},
        {'r': float('nan')},
        {'root': 'batch', 'reduction': 'sum'},
    ],
)
def test_options_that_are_not_allowed_are_an_error(options):
    with pytest.raises(AMHPError, match=next(iter(options))):
        AMHPEMDLoss(**options)


def test_pyiqa_builds_it_by_name():
    from pyiqa.losses import build_loss

    options = {'type': 'AMHPEMDLoss', 'r': 1, 'protocol': 'reference', 'loss_weight': 2}
    loss = build_loss(options)
    p, q = distributions(14), distributions(15)
    expected = 2 * loss_by_the_paper(p, q, r=1, weighted=True, root='image')
    assert loss(tensor(p), tensor(q)).item() == pytest.approx(expected, rel=1e-12)


counts = arrays(np.int64, (3, 5), elements=st.integers(0, 20))
orders = st.sampled_from([1, 1.5, 2, 3])


def shares(votes):
    votes = votes + (votes.sum(axis=1, keepdims=True) == 0)  # without votes: a uniform distribution
    return votes / votes.sum(axis=1, keepdims=True)


@given(counts, counts, orders)
def test_a_distance_lies_between_0_and_1_and_is_symmetric(a, b, r):
    p, q = tensor(shares(a)), tensor(shares(b))
    distance = emd(p, q, r)
    assert ((distance >= 0) & (distance <= 1)).all()
    torch.testing.assert_close(distance, emd(q, p, r), rtol=0, atol=0)


@given(counts, counts, orders)
def test_a_distance_is_0_for_equal_distributions_and_only_for_these(a, b, r):
    p, q = shares(a), shares(b)
    assert (emd(tensor(p), tensor(p), r) == 0).all()
    distance = emd(tensor(p), tensor(q), r).numpy()
    np.testing.assert_array_equal(distance > 1e-9, np.abs(p - q).max(axis=1) > 1e-9)


@given(counts, counts, counts, orders)
def test_the_triangle_inequality_holds(a, b, c, r):
    p, q, s = (tensor(shares(votes)) for votes in (a, b, c))
    assert (emd(p, q, r) <= emd(p, s, r) + emd(s, q, r) + 1e-12).all()
