"""Imagination training of all weights: states computed anew, who learns from dreams and who from recorded clips."""

from dataclasses import replace

import pytest
import torch

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import imagine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.imagination.streams import RandomStreams
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig, Rehearsal, WholeImaginationTraining
from dreamer_ray.types import Categorical

ROWS, CONTEXT, HORIZON = 3, 5, 6
SEEDS, SAMPLING = [7, 8, 9], Sampling(steps=2)
FINETUNING = FinetuningConfig(image_fraction=0.0, bootstrap_after=0.0, bootstrap_fraction=0.5)


def _dreamed(tiny, agent, seed=0):
    clip = tiny.clip(ROWS, CONTEXT, seed=seed, space=agent.dynamics.actions.space)
    engine = DreamEngine(agent.dynamics, slots=ROWS, agent=agent)
    return imagine(engine, clip, horizon=HORIZON, sampling=SAMPLING, seeds=SEEDS)


def _batch(tiny, agent, seed=0):
    return Rehearsal(_dreamed(tiny, agent, seed), tiny.clip(4, 7, seed=seed + 1, space=agent.dynamics.actions.space))


def _phase(agent, **changes):
    return WholeImaginationTraining(agent, ImaginationLossConfig(**changes), FINETUNING)


def _pass(phase, batch, tiny, progress=0.5):
    phase.zero_grad()
    loss = phase(batch, generator=tiny.generator(), progress=progress)
    loss.total.backward()
    return {name: float(value) for name, value in loss.metrics.items()}


def test_states_computed_anew_are_those_of_the_dream_where_the_noise_is_the_same(tiny):
    agent = tiny.agent().double()
    narrow = torch.full((tiny.latents, tiny.channels), 0.05)  # so that no dreamed latent leaves -1 .. 1, where the tokenizer's end
    agent.dynamics.set_latent_statistics(torch.zeros_like(narrow), narrow)
    dreamed = _dreamed(tiny, agent)
    streams, shape = RandomStreams(SEEDS), agent.dynamics.latent_mean.shape
    noise = [streams.normal(CONTEXT, *shape)]
    for _ in range(HORIZON):
        streams.uniform(draw_count(agent.policy.space))
        streams.normal(1, *shape)
        noise.append(streams.normal(1, *shape))
    assert dreamed.frames.latents.shape[1] == CONTEXT + HORIZON
    states = _phase(agent).states(dreamed, torch.cat(noise, 1))
    assert torch.allclose(states, dreamed.states, rtol=1e-5, atol=1e-6)
    assert (states[:, 1:] - dreamed.states[:, :-1]).abs().max() > 1e-2


def test_dreams_and_recorded_clips_together_move_every_part(tiny):
    agent = tiny.agent()
    phase = _phase(agent)
    _pass(phase, _batch(tiny, agent), tiny)
    still = [name for name, p in phase.named_parameters() if p.grad is None or not float(p.grad.abs().sum())]
    assert still == []


@pytest.mark.parametrize(("part", "moves"), [("dynamics", True), ("task", True), ("policy", True), ("value", True), ("reward", False)])
def test_dreams_reach_what_acts_and_what_it_sees_but_not_what_judges(tiny, part, moves):
    agent = tiny.agent()
    phase, recorded = _phase(agent), tiny.clip(4, 7)
    gradients = []
    dreamed = _dreamed(tiny, agent)
    for rewards in (dreamed.rewards, dreamed.rewards.flip(0) * 2 - 1):
        phase.rms.square.zero_(), phase.rms.weight.zero_()
        _pass(phase, Rehearsal(replace(dreamed, rewards=rewards), recorded), tiny)
        gradients.append([p.grad.clone() for p in getattr(agent, part).parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*gradients, strict=True)) is moves


def test_no_gradient_of_dreams_reaches_the_prior_which_clones(tiny):
    agent = tiny.agent()
    phase, batch = _phase(agent, beta=5.0), _batch(tiny, agent)
    alone = AgentFinetuning(tiny.agent(), FINETUNING)
    with torch.no_grad():
        phase.agent.policy.net.output.weight.add_(torch.randn_like(agent.policy.net.output.weight))
        alone.agent.policy.load_state_dict(phase.prior.state_dict())
    found = _pass(phase, batch, tiny)
    alone(batch.recorded, generator=tiny.generator(), progress=1.0).total.backward()
    assert found["kl"] > 0.01
    for mine, its in zip(phase.prior.parameters(), alone.agent.policy.parameters(), strict=True):
        assert torch.allclose(mine.grad, its.grad, rtol=1e-4, atol=1e-7)


def test_the_policy_learns_from_dreams_only(tiny):
    agent = tiny.agent()
    phase, batch = _phase(agent), _batch(tiny, agent)
    gradients = []
    for seed in (1, 2):
        _pass(phase, replace(batch, recorded=tiny.clip(4, 7, seed=seed)), tiny)
        gradients.append(agent.policy.net.output.weight.grad.clone())
    assert torch.equal(*gradients)


def test_while_the_value_warms_up_the_policy_stands_still_and_the_world_model_learns(tiny):
    agent = tiny.agent()
    phase, batch = _phase(agent, value_warmup=0.5), _batch(tiny, agent)
    _pass(phase, batch, tiny, progress=0.4)
    assert all(p.grad is None or not p.grad.abs().sum() for p in agent.policy.parameters())
    assert float(agent.dynamics.predict.weight.grad.abs().sum()) > 0


def test_what_is_published_makes_another_agent_the_same(tiny):
    agent, other = tiny.agent(), tiny.agent()
    phase = _phase(agent)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    engine = DreamEngine(other.requires_grad_(False).eval().dynamics, slots=ROWS, agent=other)
    clip = tiny.clip(ROWS, CONTEXT)
    before = imagine(engine, clip, horizon=2, sampling=SAMPLING, seeds=SEEDS)
    other.load_weights({name: value.clone() for name, value in phase.published().items()})
    found = imagine(engine, clip, horizon=2, sampling=SAMPLING, seeds=SEEDS)
    agent.requires_grad_(False).eval()
    wanted = imagine(DreamEngine(agent.dynamics, slots=ROWS, agent=agent), clip, horizon=2, sampling=SAMPLING, seeds=SEEDS)
    assert torch.equal(found.frames.latents, wanted.frames.latents)
    assert not torch.equal(found.frames.latents, before.frames.latents)


def test_a_reward_for_one_action_makes_the_whole_agent_prefer_it(tiny):
    space = {"action": Categorical(size=4)}
    agent = tiny.agent(space=space, heads={"bins": 41})
    phase = _phase(agent, beta=0.05, gamma=1e-30)
    optimizer = torch.optim.Adam(phase.parameters(), 3e-3)
    shares = []
    for step in range(30):
        dreamed = _dreamed(tiny, agent, seed=step % 4)
        chosen = dreamed.actions["action"] == 2
        dreamed = replace(dreamed, rewards=chosen.float(), continues=torch.ones_like(dreamed.continues))
        optimizer.zero_grad()
        phase(Rehearsal(dreamed, tiny.clip(4, 7, seed=step, space=space)), generator=tiny.generator(step), progress=0.5).total.backward()
        optimizer.step()
        shares.append(float(chosen.float().mean()))
    assert sum(shares[-5:]) / 5 > 0.7
    assert sum(shares[:3]) / 3 < 0.6
