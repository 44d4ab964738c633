"""Cloning and imagination training of a policy over real numbers: where its mean and its spread go."""

from dataclasses import replace

import pytest
import torch

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import imagine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.phases.cloning import FinetuningConfig, head_terms
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, ImaginationTraining
from dreamer_ray.types import Continuous, Trajectory

SPACE = {"arm": Continuous(size=2)}
KINDS, LENGTH, ROWS = 3, 4, 64
RIGHT = torch.tensor([[0.8, -0.5], [-0.6, 0.0], [0.2, 0.7]])
"""The action that is right in each kind of state."""


@pytest.fixture
def agent(tiny):
    agent = tiny.agent(space=SPACE, heads={"bins": 41})
    with torch.no_grad():
        for head in (agent.policy, agent.value):
            head.net.output.weight.zero_()
            head.net.output.bias.zero_()
    return agent


def states(which):
    return 2 * torch.eye(KINDS, 16)[which]


@torch.no_grad()
def reached(agent):
    return agent.policy.now(states(torch.arange(KINDS))).components["arm"]


def improved(agent, *, beta: float, steps: int):
    """The policy after updates on dreams in which an action near the right one of its state is rewarded, and the KL to the prior."""
    phase = ImaginationTraining(agent, ImaginationLossConfig(beta=beta, gamma=1e-30))
    optimizer = torch.optim.Adam([p for p in phase.parameters() if p.requires_grad], 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        which = torch.randint(0, KINDS, (ROWS, LENGTH + 1), generator=generator)
        with torch.no_grad():
            actions = agent.policy.now(states(which[:, :-1])).sample(torch.rand(ROWS, LENGTH, 2, generator=generator))
        rewards = (-((actions["arm"] - RIGHT[which[:, :-1]]) ** 2).sum(-1)).exp()
        batch = Trajectory(states(which), actions, rewards, torch.ones(ROWS, LENGTH), torch.zeros(ROWS, dtype=torch.long), 0)
        loss = phase(batch, generator=generator, progress=0.5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return reached(agent), float(loss.metrics["kl"])


def test_dreams_move_the_mean_to_the_actions_that_are_rewarded(agent):
    found, kl = improved(agent, beta=0.05, steps=300)
    assert torch.allclose(found.mean, RIGHT, atol=0.25)
    assert 0 < kl < 20 and bool(found.stddev.isfinite().all())


def test_the_prior_holds_the_policy_back(agent):
    found, kl = improved(agent, beta=20.0, steps=100)
    assert float(found.mean.abs().max()) < 0.15 and kl < 0.05


def test_cloning_finds_mean_and_spread_of_the_recorded_actions(tiny, agent):
    optimizer, generator = torch.optim.Adam(agent.policy.parameters(), 0.01), tiny.generator()
    spread = torch.tensor([0.05, 0.3])
    for _ in range(400):
        which = torch.randint(0, KINDS, (ROWS, 1), generator=generator).expand(-1, 6)
        clip = tiny.clip(ROWS, 6, space=SPACE)
        recorded = {"arm": RIGHT[which] + spread * torch.randn(ROWS, 6, 2, generator=generator)}
        clip = replace(clip, notes=replace(clip.notes, actions=recorded, relevant=torch.ones(ROWS, dtype=torch.bool)))
        loss = head_terms(agent, agent.policy, clip, states(which), FinetuningConfig())["policy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = reached(agent)
    assert torch.allclose(found.mean, RIGHT, atol=0.06)
    assert torch.allclose(found.stddev, spread.expand(KINDS, 2), rtol=0.3)


def test_a_dream_takes_the_actions_that_it_reports(tiny):
    agent = tiny.agent(space=SPACE).double()
    context = tiny.clip(2, 5, space=SPACE)
    dreamed = imagine(DreamEngine(agent.dynamics, slots=2, agent=agent), context, horizon=6, sampling=Sampling(steps=2), seeds=[1, 2])
    assert dreamed.actions["arm"].shape == (2, 6, 2)
    assert bool(dreamed.actions["arm"].isfinite().all())
    drawn = dreamed.actions["arm"]
    assert bool((agent.policy.now(dreamed.states[:, :-1]).log_prob({"arm": drawn}) > -20).all())
    assert len(drawn.unique()) == drawn.numel()
