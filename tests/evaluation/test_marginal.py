"""What is known of actions without a picture, against figures that are worked out by hand."""

import math

import pytest
import torch

from dreamer_ray.evaluation.marginal import LEAST_DEVIATION, Marginal
from dreamer_ray.types import Binary, Categorical, Continuous


def test_choices_are_counted_where_they_are_known():
    taken, known = torch.tensor([[0, 1, 1], [3, 3, 3]]), torch.tensor([[True, True, True], [True, False, False]])
    found = Marginal({"action": Categorical(size=4)}, {"action": taken}, known)
    assert found.shares("action").tolist() == pytest.approx([2 / 8, 3 / 8, 1 / 8, 2 / 8])
    assert found.log_prob({"action": torch.tensor([[2]])})["action"].tolist() == [[pytest.approx(math.log(1 / 8))]]


def test_keys_are_independent_of_each_other():
    held = torch.tensor([[[1, 0], [1, 0], [0, 0]]])
    found = Marginal({"keys": Binary(size=2)}, {"keys": held}, torch.ones(1, 3, dtype=torch.bool))
    assert found.shares("keys").tolist() == pytest.approx([3 / 5, 1 / 5])
    log_prob = found.log_prob({"keys": torch.tensor([[[0.0, 1.0]]])})["keys"]
    assert log_prob.tolist() == [[pytest.approx(math.log(2 / 5) + math.log(1 / 5))]]


def test_axes_are_normal_and_never_narrower_than_a_policy():
    values = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]])
    found = Marginal({"arm": Continuous(size=2)}, {"arm": values}, torch.ones(1, 2, dtype=torch.bool))
    expected = torch.distributions.Normal(torch.tensor([2.0, 5.0]), torch.tensor([1.0, LEAST_DEVIATION]))
    asked = torch.tensor([[[2.5, 5.02]]])
    assert found.log_prob({"arm": asked})["arm"].tolist() == [[pytest.approx(float(expected.log_prob(asked).sum()), rel=1e-5)]]
