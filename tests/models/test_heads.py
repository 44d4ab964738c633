"""The heads: one output layer per distance, starting values, and what ``now`` reads."""

import pytest
import torch
from pydantic import ValidationError

from dreamer_ray.models.heads import ContinueHead, HeadsConfig, PolicyHead, RewardHead, ValueHead
from dreamer_ray.types import Binary, Categorical

CONFIG = HeadsConfig(hidden=8, layers=1, distance=8, bins=21)
SPACE = {"keys": Binary(size=2), "mouse": Categorical(size=3)}


def test_there_are_nine_distances_by_default_and_now_is_the_first(tiny):
    states = torch.randn(2, 3, 6)
    policy, reward = PolicyHead(CONFIG, 6, SPACE), RewardHead(CONFIG, 6)
    torch.nn.init.normal_(reward.net.output.weight)
    assert HeadsConfig().distance + 1 == 9
    assert policy(states).entropy().shape == (2, 3, 9)
    assert reward(states).mean.shape == (2, 3, 9)
    actions = tiny.actions(2, 3, space=SPACE)
    spread = {name: value.unsqueeze(2).repeat_interleave(9, 2) for name, value in actions.items()}
    assert torch.allclose(policy.now(states).log_prob(actions), policy(states).log_prob(spread)[..., 0], atol=1e-6)
    assert not torch.allclose(policy(states).log_prob(spread)[..., 0], policy(states).log_prob(spread)[..., 1], atol=1e-4)
    assert torch.equal(reward.now(states).mean, reward(states).mean[..., 0])
    assert not torch.equal(reward(states).mean[..., 0], reward(states).mean[..., 1])


def test_value_and_reward_start_at_exactly_zero():
    states = torch.randn(2, 3, 6)
    assert torch.equal(ValueHead(HeadsConfig(), 6)(states).mean, torch.zeros(2, 3))
    assert torch.equal(RewardHead(HeadsConfig(), 6)(states).mean, torch.zeros(2, 3, 9))


def test_continue_starts_near_going_on():
    probability = ContinueHead(CONFIG, 6).probability(torch.randn(2, 3, 6))
    assert bool((probability > 0.95).all())
    assert probability.shape == (2, 3)


def test_an_even_number_of_bins_is_refused():
    with pytest.raises(ValidationError, match="odd"):
        HeadsConfig(bins=254)
