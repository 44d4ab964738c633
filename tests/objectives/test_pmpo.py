"""PMPO: separate means, invariance to the size of advantages, empty sets, the sign of the gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.objectives.pmpo import pmpo


def _terms(advantage, *, log_prob=None, alpha=0.5, beta=0.3):
    advantage = torch.tensor(advantage)
    log_prob = -torch.arange(1.0, len(advantage) + 1) if log_prob is None else log_prob
    return pmpo(log_prob, advantage, torch.full((len(advantage),), 2.0), alpha=alpha, beta=beta)


def test_an_example_by_hand():
    terms = _terms([1.0, -3.0, 0.0, 2.0], alpha=0.25, beta=0.3)
    assert float(terms["positive"]) == pytest.approx(-0.25 * -(1 + 3 + 4) / 3)
    assert float(terms["negative"]) == pytest.approx(0.75 * -2)
    assert float(terms["prior"]) == pytest.approx(0.6)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9), st.floats(2**-10, 2**20, width=32))
def test_the_size_of_advantages_has_no_influence(advantage, factor):
    advantage = torch.tensor(advantage)
    advantage = torch.where(advantage.abs() < 1e-3, torch.zeros(()), advantage)
    log_prob, kl = torch.randn(len(advantage)), torch.rand(len(advantage))
    one, other = (pmpo(log_prob, a, kl, alpha=0.5, beta=0.3) for a in (advantage, advantage * factor))
    assert all(torch.equal(one[name], other[name]) for name in one)
    sign = torch.where(advantage >= 0, 1.0, -1.0)
    assert all(torch.equal(value, one[name]) for name, value in pmpo(log_prob, sign, kl, alpha=0.5, beta=0.3).items())


def test_each_set_has_its_own_mean():
    few, many = (
        _terms([1.0, -1.0], log_prob=torch.tensor([-2.0, -3.0])),
        _terms([1.0] + [-1.0] * 9, log_prob=torch.tensor([-2.0] + [-3.0] * 9)),
    )
    assert float(few["positive"]) == pytest.approx(float(many["positive"]))
    assert float(few["negative"]) == pytest.approx(float(many["negative"]))


def test_weights_are_those_of_means():
    """A step of weight 0 is as if it were not there, one of weight 2 as if it came twice."""
    log_prob, advantage, kl = (
        torch.tensor([-1.0, -2.0, -4.0, -3.0]),
        torch.tensor([1.0, 2.0, -1.0, -2.0]),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
    )
    weighted = pmpo(log_prob, advantage, kl, alpha=0.5, beta=0.3, weights=torch.tensor([1.0, 2.0, 1.0, 0.0]))
    rows = torch.tensor([0, 1, 1, 2])
    counted = pmpo(log_prob[rows], advantage[rows], kl[rows], alpha=0.5, beta=0.3)
    for name, term in counted.items():
        assert float(weighted[name]) == pytest.approx(float(term)), name


@pytest.mark.parametrize(("advantage", "empty"), [([1.0, 2.0], "negative"), ([-1.0, -2.0], "positive")])
def test_an_empty_set_contributes_zero(advantage, empty):
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    terms = _terms(advantage, log_prob=log_prob)
    assert float(terms[empty].detach()) == 0
    sum(terms.values()).backward()
    assert bool(log_prob.grad.isfinite().all())
    assert float(log_prob.grad.abs().sum()) > 0


def test_the_gradient_raises_good_actions_and_lowers_bad_ones():
    log_prob = torch.tensor([-1.0, -1.0, -1.0, -1.0], requires_grad=True)
    sum(_terms([0.5, 0.0, -0.1, -9.0], log_prob=log_prob).values()).backward()
    assert torch.allclose(log_prob.grad, torch.tensor([-0.25, -0.25, 0.25, 0.25]))
