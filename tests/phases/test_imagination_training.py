"""Policy and value on hand-made trajectories: a bandit that needs every time index right, the prior, the warm-up."""

import copy
from dataclasses import replace

import pytest
import torch

from dreamer_ray.objectives.returns import lambda_returns
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, ImaginationTraining
from dreamer_ray.types import Categorical, Trajectory

CHOICES, LENGTH, ROWS = 4, 5, 32
SPACE = {"action": Categorical(size=CHOICES)}


@pytest.fixture
def agent(tiny):
    agent = tiny.agent(space=SPACE, heads={"bins": 41})
    with torch.no_grad():
        for head in (agent.policy, agent.value):
            head.net.output.weight.zero_()
    return agent


def _episodes(agent, kinds, generator, *, continues):
    """Trajectories whose states are of ``CHOICES`` kinds; in each kind another action is right, and only now."""
    which = torch.randint(0, CHOICES, (ROWS, LENGTH + 1), generator=generator)
    states = kinds[which]
    with torch.no_grad():
        actions = agent.policy.now(states[:, :-1]).sample(torch.rand(ROWS, LENGTH, 1, generator=generator))
    rewards = (actions["action"] == which[:, :-1]).float()
    going_on = (torch.rand(ROWS, LENGTH, generator=generator) < continues).float()
    return Trajectory(states, actions, rewards, going_on, torch.zeros(ROWS, dtype=torch.long), 0)


def _learn(agent, *, shift=0, continues=0.0, steps=150, lam=0.95):
    phase = ImaginationTraining(agent, ImaginationLossConfig(beta=0.05, lam=lam))
    optimizer = torch.optim.Adam([p for p in phase.parameters() if p.requires_grad], 0.02)
    generator, kinds = torch.Generator().manual_seed(0), 2 * torch.eye(CHOICES, 16)
    for _ in range(steps):
        batch = _episodes(agent, kinds, generator, continues=continues)
        rewards = batch.rewards.roll(shift, 1)
        batch = Trajectory(batch.states, batch.actions, rewards, batch.continues, batch.task, 0)
        loss = phase(batch, generator=generator, progress=0.5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        right = agent.policy.now(kinds).components["action"].probs.diagonal()
        return right, agent.value(kinds).mean


@pytest.mark.parametrize("continues", [0.0, 0.5])
def test_a_bandit_where_only_the_action_of_this_step_matters_is_solved(agent, continues):
    right, value = _learn(agent, continues=continues)
    assert float(right.min()) > 0.75
    if continues == 0:
        assert torch.allclose(value, right, atol=0.2)


@pytest.mark.parametrize("shift", [-1, 1])
def test_rewards_that_arrive_one_step_off_teach_nothing(agent, shift):
    right, _ = _learn(agent, shift=shift, steps=60)
    assert float(right.mean()) < 0.45
    assert float(right.min()) < 0.4


def test_values_belong_to_their_own_states(agent):
    phase = ImaginationTraining(agent, ImaginationLossConfig())
    optimizer = torch.optim.Adam(phase.value.parameters(), 0.02)
    generator, kinds = torch.Generator().manual_seed(0), 2 * torch.eye(CHOICES, 16)
    for _ in range(150):
        batch = _episodes(agent, kinds, generator, continues=0.0)
        # What arrives depends on the state that is left, not on the action: 0, 1, 2, 3.
        rewards = batch.states[:, :-1].argmax(-1).float()
        batch = Trajectory(batch.states, batch.actions, rewards, batch.continues, batch.task, 0)
        optimizer.zero_grad()
        phase(batch, generator=generator, progress=0.0).total.backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.allclose(agent.value(kinds).mean, torch.arange(4.0), atol=0.25)


def _batch(agent, seed=0):
    return _episodes(agent, torch.randn(CHOICES, 16), torch.Generator().manual_seed(seed), continues=0.9)


def _alive(batch):
    """The chance that a dream still goes on, step by step."""
    return torch.stack([batch.continues[:, :t].prod(1) for t in range(LENGTH)], 1)


def _mean(values, weights):
    return float((values * weights).sum() / weights.sum())


def test_the_kl_is_zero_at_the_prior_and_points_away_from_it(tiny):
    agent = tiny.agent(space=SPACE)
    phase = ImaginationTraining(agent, ImaginationLossConfig(beta=0.3))
    batch = _batch(agent)
    assert float(phase(batch, generator=tiny.generator(), progress=0.5).metrics["prior"]) == pytest.approx(0, abs=1e-6)
    before = copy.deepcopy(agent.policy)
    with torch.no_grad():
        agent.policy.net.output.weight.add_(torch.randn_like(agent.policy.net.output.weight))
    found = phase(batch, generator=tiny.generator(), progress=0.5).metrics["prior"]
    now, then = (p.now(batch.states[:, :-1]).components["action"].logits for p in (agent.policy, before))
    expected = 0.3 * _mean((now.exp() * (now - then)).sum(-1).detach(), _alive(batch))
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) > 0.01


def test_the_terms_are_those_of_lambda_returns_and_pmpo_on_matching_states(tiny):
    agent = tiny.agent(space=SPACE)
    phase, batch = ImaginationTraining(agent, ImaginationLossConfig(gamma=0.9, lam=0.5, alpha=0.3)), _batch(agent)
    with torch.no_grad():
        value = agent.value(batch.states).mean
        log_prob = agent.policy.now(batch.states[:, :-1]).log_prob(batch.actions)
        advantage, returns = torch.zeros(ROWS, LENGTH), value[:, LENGTH]
        surprise = torch.zeros(ROWS, LENGTH)
        for t in reversed(range(LENGTH)):
            ahead = 0.5 * value[:, t + 1] + 0.5 * returns
            returns = batch.rewards[:, t] + 0.9 * batch.continues[:, t] * ahead
            advantage[:, t] = returns - value[:, t]
            surprise[:, t] = agent.value(batch.states[:, t]).cross_entropy(returns)
        good = advantage >= 0
        found = phase(batch, generator=tiny.generator(), progress=0.5).metrics
    assert 0.1 < float(good.float().mean()) < 0.9
    assert float(found["positive"]) == pytest.approx(-0.3 * _mean(log_prob, good * _alive(batch)), rel=1e-4)
    assert float(found["negative"]) == pytest.approx(0.7 * _mean(log_prob, ~good * _alive(batch)), rel=1e-4)
    assert float(found["value"]) == pytest.approx(_mean(surprise, _alive(batch)), rel=1e-4)
    assert float(found["positive_share"]) == pytest.approx(float(good.float().mean()))


def test_what_is_dreamed_behind_an_end_teaches_nothing(tiny):
    agent = tiny.agent(space=SPACE)
    phase, batch = ImaginationTraining(agent, ImaginationLossConfig()), _batch(agent)
    ended = batch.continues.clone()
    ended[:, 1] = 0
    states, rewards = batch.states.clone(), batch.rewards.clone()
    states[:, 2:], rewards[:, 2:] = torch.randn_like(states[:, 2:]), 5.0
    one, two = (replace(batch, continues=ended, states=s, rewards=r) for s, r in ((batch.states, batch.rewards), (states, rewards)))
    one, two = (phase(each, generator=tiny.generator(), progress=0.5).metrics for each in (one, two))
    assert {name: float(one[name]) for name in ("value", "positive", "negative", "prior")} == pytest.approx(
        {name: float(two[name]) for name in ("value", "positive", "negative", "prior")}
    )


def test_a_slow_value_stands_in_the_returns_and_follows_the_value(tiny):
    agent = tiny.agent(space=SPACE)
    plain, slow = (
        ImaginationTraining(copy.deepcopy(agent), ImaginationLossConfig(gamma=0.9, lam=0.5, slow_value=decay)) for decay in (None, 0.75)
    )
    batch, first = _batch(agent), copy.deepcopy(agent.value)

    def found(phase):
        return phase(batch, generator=tiny.generator(), progress=0.5).metrics

    assert plain.slow is None
    assert {name: float(value) for name, value in found(slow).items()} == {name: float(value) for name, value in found(plain).items()}
    with torch.no_grad():
        slow.value.net.output.weight.add_(torch.randn_like(slow.value.net.output.weight))
        values = first(batch.states).mean
        expected = lambda_returns(batch.rewards, batch.continues, values, gamma=0.9, lam=0.5)
        surprise = _mean(slow.value(batch.states[:, :-1]).cross_entropy(expected), _alive(batch))
    assert float(found(slow)["value"]) == pytest.approx(float(surprise), rel=1e-4)
    assert float(found(slow)["positive_share"]) == pytest.approx(float((expected >= values[:, :-1]).float().mean()))
    slow.updated()
    for name, value in slow.slow.named_parameters():
        assert torch.allclose(value, 0.75 * first.get_parameter(name) + 0.25 * slow.value.get_parameter(name), atol=1e-6), name
        assert not value.requires_grad
    assert float((found(slow)["value"] - surprise).abs()) > 1e-4
    assert set(slow.published()) == set(plain.published()), "who dreams needs none of it"


def test_only_policy_and_value_are_trained(tiny):
    agent = tiny.agent(space=SPACE).requires_grad_(False)
    phase = ImaginationTraining(agent, ImaginationLossConfig())
    trained = {name.split(".")[0] for name, p in phase.named_parameters() if p.requires_grad}
    assert trained == {"policy", "value"}
    assert {name.split(".")[0] for name, _ in phase.named_parameters()} == {"policy", "value", "prior"}
    phase(_batch(agent), generator=tiny.generator(), progress=0.5).total.backward()
    assert all(p.grad is None for p in phase.prior.parameters())


def test_while_the_value_warms_up_the_policy_stands_still(tiny):
    agent = tiny.agent(space=SPACE)
    phase = ImaginationTraining(agent, ImaginationLossConfig(value_warmup=0.5))
    for progress, moves in ((0.49, False), (0.5, True)):
        phase.zero_grad()
        phase(_batch(agent), generator=tiny.generator(), progress=progress).total.backward()
        assert any(p.grad is not None for p in agent.policy.parameters()) is moves, "without a gradient not even weight decay moves it"
        assert float(agent.value.net.output.weight.grad.abs().sum()) > 0


def test_the_policys_gradient_does_not_know_the_size_of_the_advantage(tiny):
    agent = tiny.agent(space=SPACE)
    with torch.no_grad():
        agent.value.net.output.weight.zero_()
    phase, batch, gradients = ImaginationTraining(agent, ImaginationLossConfig()), _batch(agent), []
    signs = torch.where(batch.rewards > 0, 1.0, -1.0)
    for factor in (1.0, 250.0):
        scaled = Trajectory(batch.states, batch.actions, factor * signs, batch.continues, batch.task, 0)
        phase.zero_grad()
        phase(scaled, generator=tiny.generator(), progress=0.5).total.backward()
        gradients.append(agent.policy.net.output.weight.grad.clone())
    assert torch.equal(*gradients)


def test_only_the_first_distance_of_the_policy_is_moved(tiny):
    agent = tiny.agent(space=SPACE)
    phase = ImaginationTraining(agent, ImaginationLossConfig())
    phase(_batch(agent), generator=tiny.generator(), progress=0.5).total.backward()
    by_distance = agent.policy.net.output.weight.grad.unflatten(0, (3, CHOICES)).abs().sum((1, 2))
    assert by_distance[0] > 0
    assert by_distance[1:].tolist() == [0.0, 0.0]
