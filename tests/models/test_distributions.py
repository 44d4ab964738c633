"""Distributions of actions: sums over components, KL, sampling, and that a generator decides the draws."""

import math

import pytest
import torch

from dreamer_ray.models.distributions import ActionDistribution, draw_count, parameter_count
from dreamer_ray.types import Binary, Categorical, Continuous

SPACE = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm": Continuous(size=2)}


def _distribution(seed=0, shape=(2, 3)):
    return ActionDistribution(SPACE, torch.randn(*shape, 12, generator=torch.Generator().manual_seed(seed)))


def test_parameter_count():
    assert parameter_count(SPACE) == 3 + 5 + 4


def test_log_prob_is_the_sum_over_components(tiny):
    parameters, actions = torch.randn(2, 3, 12), tiny.actions(2, 3)
    keys, mouse, mean, spread = parameters.split([3, 5, 2, 2], -1)
    expected = mouse.log_softmax(-1).gather(-1, actions["mouse"].unsqueeze(-1)).squeeze(-1)
    held = actions["keys"].float()
    expected = expected + (held * torch.sigmoid(keys).log() + (1 - held) * torch.sigmoid(-keys).log()).sum(-1)
    scale = torch.nn.functional.softplus(spread + 0.5) + 0.01
    expected = expected + (-0.5 * ((actions["arm"] - mean) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    assert torch.allclose(ActionDistribution(SPACE, parameters).log_prob(actions), expected, atol=1e-5)


def test_kl_of_a_distribution_with_itself_is_zero():
    assert torch.allclose(_distribution().kl(_distribution()), torch.zeros(2, 3), atol=1e-6)
    assert bool((_distribution(0).kl(_distribution(1)) > 0).all())


def test_kl_has_its_own_expectation_first():
    p, q = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    space = {"a": Categorical(size=2)}
    log_p, log_q = p.log_softmax(0), q.log_softmax(0)
    expected = float((log_p.exp() * (log_p - log_q)).sum())
    reverse = float((log_q.exp() * (log_q - log_p)).sum())
    found = float(ActionDistribution(space, p).kl(ActionDistribution(space, q)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(expected - reverse) > 0.1


def test_entropy_of_uniform_choices():
    space = {"keys": Binary(size=3), "mouse": Categorical(size=5)}
    assert float(ActionDistribution(space, torch.zeros(8)).entropy()) == pytest.approx(3 * math.log(2) + math.log(5), rel=1e-5)


def test_samples_have_the_frequencies_of_the_distribution():
    logits = torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, 2.0, -1.0, 0.0, 0.5, -0.5, 0.3, 1.0])
    draws = ActionDistribution(SPACE, logits.expand(20_000, 12)).sample(torch.rand(20_000, draw_count(SPACE)))
    assert torch.allclose(draws["keys"].mean(0), torch.sigmoid(logits[:3]), atol=0.02)
    assert torch.allclose(draws["mouse"].bincount(minlength=5) / 20_000, logits[3:8].softmax(0), atol=0.02)
    assert torch.allclose(draws["arm"].mean(0), logits[8:10], atol=0.05)
    assert torch.allclose(draws["arm"].std(0), torch.nn.functional.softplus(logits[10:] + 0.5) + 0.01, atol=0.05)


@pytest.mark.parametrize(("temperature", "sharpness"), [(0.5, 2.0), (2.0, 0.5)])
def test_temperature_divides_logits_and_multiplies_deviations(temperature, sharpness):
    logits, uniform = torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, 2.0, -1.0, 0.0, 0.5, -0.5, 0.3, 1.0]), torch.rand(20_000, draw_count(SPACE))
    draws = ActionDistribution(SPACE, logits.expand(20_000, 12)).sample(uniform, temperature)
    assert torch.allclose(draws["keys"].mean(0), torch.sigmoid(sharpness * logits[:3]), atol=0.02)
    assert torch.allclose(draws["mouse"].bincount(minlength=5) / 20_000, (sharpness * logits[3:8]).softmax(0), atol=0.02)
    scale = torch.nn.functional.softplus(logits[10:] + 0.5) + 0.01
    assert torch.allclose(draws["arm"].std(0), temperature * scale, atol=0.1)


def test_the_uniform_numbers_alone_decide_the_draws():
    uniform, changed = torch.rand(2, 3, draw_count(SPACE)), torch.rand(2, 3, draw_count(SPACE))
    one, same, other = (_distribution().sample(numbers) for numbers in (uniform, uniform, changed))
    assert draw_count(SPACE) == 3 + 1 + 2
    assert all(torch.equal(one[name], same[name]) for name in SPACE)
    assert any(not torch.equal(one[name], other[name]) for name in SPACE)
    assert {name: tuple(value.shape) for name, value in one.items()} == {"keys": (2, 3, 3), "mouse": (2, 3), "arm": (2, 3, 2)}


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_outermost_uniform_numbers_give_possible_actions(number):
    drawn = _distribution().sample(torch.full((2, 3, draw_count(SPACE)), number))
    assert bool(((drawn["mouse"] >= 0) & (drawn["mouse"] < 5)).all())
    assert bool(drawn["arm"].isfinite().all())
