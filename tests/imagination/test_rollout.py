"""Whole dreams against a slow reading of the same thing: every frame by uncached passes over the whole history."""

from dataclasses import replace

import pytest
import torch

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import dream, following, imagine
from dreamer_ray.imagination.sampler import Sampling, prefill
from dreamer_ray.imagination.streams import RandomStreams
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.models.dynamics import Conditioning, Noising

ROWS, CONTEXT, HORIZON, STEPS = 3, 6, 7, 2
SEEDS, SAMPLING, ONE = [7, 8, 9], Sampling(steps=STEPS), Sampling(steps=1)


class Slow:
    """Keeps all committed frames and passes over all of them each time."""

    def __init__(self, dynamics, context, streams, prompt=None, signal=None):
        self.dynamics, self.prompt, self.streams = dynamics, prompt, streams
        self.k_max, self.level = dynamics.config.k_max, dynamics.config.signal_level(signal)
        clean = dynamics.standardize(context.latents)
        tau = self.level / self.k_max
        self.noisy = tau * clean + (1 - tau) * streams.normal(*clean.shape[1:])
        # Block t holds a_{t-1}; block 0 has none.
        self.actions = {name: torch.cat([value[:, :1] * 0, value[:, :-1]], 1) for name, value in context.notes.actions.items()}
        self.labelled = torch.cat([torch.zeros(ROWS, 1, dtype=torch.bool), context.notes.labelled[:, :-1]], 1)

    def act(self, action):
        self.actions = {name: torch.cat([value, action[name].unsqueeze(1).to(value.dtype)], 1) for name, value in self.actions.items()}
        self.labelled = torch.cat([self.labelled, torch.ones(ROWS, 1, dtype=torch.bool)], 1)

    def whole(self, noisy, signal, exponent):
        frames = noisy.shape[1]
        signals = torch.full((ROWS, frames), self.level)
        exponents = torch.full((ROWS, frames), self.dynamics.config.finest)
        signals[:, -1], exponents[:, -1] = signal, exponent
        agent = None if self.prompt is None else self.prompt(frames)
        return self.dynamics(noisy, Noising(signals, exponents), Conditioning(self.actions, self.labelled, agent))

    def frame(self, steps):
        z = self.streams.normal(1, *self.noisy.shape[2:])
        for i in range(steps):
            tau, d = i / steps, 1 / steps
            now = torch.cat([self.noisy, z], 1)
            clean = self.whole(now, i * self.k_max // steps, steps.bit_length() - 1).latents[:, -1:]
            z = z + d * (clean - z) / (1 - tau)
        tau = self.level / self.k_max
        committed = tau * z + (1 - tau) * self.streams.normal(*z.shape[1:])
        self.noisy = torch.cat([self.noisy, committed], 1)
        return z

    def state(self):
        return self.whole(self.noisy, self.level, self.dynamics.config.finest).states[:, -1]


@pytest.fixture
def agent(tiny):
    # Float64, so that both readings draw the same actions and differ by rounding only; a spread that standardising has to undo.
    agent = tiny.agent().double()
    agent.dynamics.set_latent_statistics(torch.full((tiny.latents, tiny.channels), 0.1), torch.full((tiny.latents, tiny.channels), 0.5))
    return agent


def _engine(agent):
    return DreamEngine(agent.dynamics, slots=ROWS, agent=agent)


@pytest.mark.parametrize("signal", [None, 0.5])
def test_a_dream_equals_uncached_passes_with_the_same_draws(tiny, agent, signal):
    context, sampling = tiny.clip(ROWS, CONTEXT), Sampling(steps=STEPS, context_signal=signal, temperature=1.5)
    trajectory = imagine(_engine(agent), context, horizon=HORIZON, sampling=sampling, seeds=SEEDS, version=3)
    streams = RandomStreams(SEEDS)
    with torch.no_grad():
        slow = Slow(agent.dynamics, context, streams, lambda frames: agent.prompt(context.notes.task, frames), signal)
        states, taken = [slow.state()], []
        for _ in range(HORIZON):
            uniform = streams.uniform(draw_count(agent.policy.space))
            taken.append(agent.policy.now(states[-1]).sample(uniform, temperature=1.5))
            slow.act(taken[-1])
            slow.frame(STEPS)
            states.append(slow.state())
    expected = torch.stack(states, 1)
    assert trajectory.states.shape == (ROWS, HORIZON + 1, 16)
    assert torch.allclose(trajectory.states, expected, atol=1e-4)
    for name, value in trajectory.actions.items():
        assert torch.allclose(value.double(), torch.stack([a[name] for a in taken], 1).double(), atol=1e-4), name
    # Rewards and continues are those that arrive with the states that the actions led to.
    assert torch.allclose(trajectory.rewards, agent.reward.now(trajectory.states[:, 1:]).mean)
    assert torch.allclose(trajectory.continues, agent.continues.probability(trajectory.states[:, 1:]))
    assert trajectory.version == 3
    assert torch.equal(trajectory.task, context.notes.task)
    assert not trajectory.states.requires_grad


def test_a_dream_under_given_actions_equals_uncached_passes(tiny, agent):
    context, actions = tiny.clip(ROWS, CONTEXT), tiny.actions(ROWS, HORIZON, seed=4)
    found = dream(agent.dynamics, context, actions, torch.ones(ROWS, HORIZON, dtype=torch.bool), sampling=SAMPLING, seeds=SEEDS)
    expected = []
    with torch.no_grad():
        slow = Slow(agent.dynamics, context, RandomStreams(SEEDS))
        for t in range(HORIZON):
            slow.act({name: value[:, t] for name, value in actions.items()})
            expected.append(slow.frame(STEPS))
    assert torch.allclose(found.double(), (torch.cat(expected, 1).double() * 0.5 + 0.1).clamp(-1, 1), atol=1e-4)
    assert found.shape == (ROWS, HORIZON, tiny.latents, tiny.channels)


def test_the_last_action_of_the_context_is_not_taken_again(tiny, agent):
    context, other = tiny.clip(ROWS, CONTEXT), tiny.clip(ROWS, CONTEXT)
    for value, new in zip(other.notes.actions.values(), tiny.actions(ROWS, CONTEXT, seed=8).values(), strict=True):
        value[:, -1] = new[:, -1]
    one, two = (imagine(_engine(agent), c, horizon=3, sampling=ONE, seeds=SEEDS) for c in (context, other))
    assert torch.equal(one.states, two.states)
    earlier = tiny.clip(ROWS, CONTEXT)
    for value, new in zip(earlier.notes.actions.values(), tiny.actions(ROWS, CONTEXT, seed=8).values(), strict=True):
        value[:, -2] = new[:, -2]
    assert not torch.allclose(one.states[:, 0], imagine(_engine(agent), earlier, horizon=1, sampling=ONE, seeds=SEEDS).states[:, 0])


def test_first_dreamed_frames_follow_their_actions(tiny, agent):
    context, actions = tiny.clip(ROWS, CONTEXT), tiny.actions(ROWS, 4, seed=4)
    changed = {name: value.clone() for name, value in actions.items()}
    changed["mouse"][:, 2] = (changed["mouse"][:, 2] + 1) % 5
    known = torch.ones(ROWS, 4, dtype=torch.bool)
    one, two = (dream(agent.dynamics, context, a, known, sampling=SAMPLING, seeds=SEEDS) for a in (actions, changed))
    difference = (one - two).abs().amax((0, 2, 3))
    assert bool((difference[:2] == 0).all())
    assert bool((difference[2:] > 1e-5).all())


def test_the_task_moves_the_dreamed_choices_only(tiny, agent):
    context, caches, states = tiny.clip(ROWS, CONTEXT), [], []
    noise = torch.randn(context.latents.shape)
    for task in (0, 1):
        caches.append(agent.dynamics.new_cache(ROWS))
        prompt = agent.prompt(torch.full((ROWS,), task), CONTEXT)
        states.append(prefill(agent.dynamics, context, noise=noise, agent=prompt, cache=caches[-1]))
    world = slice(0, agent.dynamics.world_tokens)
    for one, two in zip(caches[0].rings, caches[1].rings, strict=True):
        assert torch.equal(one.keys[world], two.keys[world])
        assert torch.equal(one.values[world], two.values[world])
    assert not torch.allclose(states[0], states[1], atol=1e-3)
    assert caches[0].frame.tolist() == [CONTEXT] * ROWS


def test_the_seed_of_a_row_decides_its_dream(tiny, agent):
    context = tiny.clip(1, CONTEXT).map(lambda tensor: tensor.expand(ROWS, *tensor.shape[1:]))
    engine = _engine(agent)
    dreamed = imagine(engine, context, horizon=3, sampling=SAMPLING, seeds=[1, 2, 1]).states
    assert torch.allclose(dreamed[0], dreamed[2], rtol=0, atol=1e-10)  # products may round rows in other ways
    assert not torch.allclose(dreamed[0], dreamed[1], atol=1e-3)
    assert torch.equal(dreamed, imagine(engine, context, horizon=3, sampling=SAMPLING, seeds=[1, 2, 1]).states)


def test_a_prompt_goes_up_the_ladder_with_what_is_achieved(tiny, agent, monkeypatch):
    """Task 2 comes first, then 0, then 1; task 3 is beside the ladder."""
    rewards = torch.tensor([[0.9, 0.0, 0.6], [0.0, 0.4, 0.6], [1.0, 0.0, 0.6], [1.0, 0.0, 0.6]]).double()
    engine, prompts = _engine(agent), []

    def judged(*given, **options):
        prompts.append(engine.task.tolist())
        frame = DreamEngine.dream(engine, *given, **options)
        return replace(frame, judgement=replace(frame.judgement, rewards=rewards[len(prompts) - 1]))

    monkeypatch.setattr(engine, "dream", judged)
    context = tiny.clip(ROWS, CONTEXT)
    context = replace(context, notes=replace(context.notes, task=torch.tensor([2, 2, 3])))
    order = following([2, 0, 1], 4)
    dreamed = imagine(engine, context, horizon=4, sampling=SAMPLING, seeds=SEEDS, following=order)
    assert order.tolist() == [1, 1, 0, 3]
    assert prompts == [[2, 2, 3], [0, 2, 3], [0, 2, 3], [1, 2, 3]]
    assert torch.equal(dreamed.rewards, rewards.T)
    assert dreamed.task.tolist() == [2, 2, 3]


def test_of_an_action_that_is_not_known_nothing_is_told(tiny, agent):
    context, known = tiny.clip(ROWS, CONTEXT), torch.ones(ROWS, 4, dtype=torch.bool)
    known[:, 2] = False
    one, two = (tiny.actions(ROWS, 4, seed=4) for _ in range(2))
    two["mouse"][:, 2] = (two["mouse"][:, 2] + 1) % 5
    one, two = (dream(agent.dynamics, context, taken, known, sampling=SAMPLING, seeds=SEEDS) for taken in (one, two))
    assert torch.equal(one, two)
    told = dream(agent.dynamics, context, tiny.actions(ROWS, 4, seed=4), torch.ones_like(known), sampling=SAMPLING, seeds=SEEDS)
    assert bool((one[:, :2] == told[:, :2]).all()) and not bool((one[:, 2:] == told[:, 2:]).any(1).all())


def test_dynamics_without_actions_dream_on(tiny):
    dynamics, context = tiny.dynamics(space={}), tiny.clip(ROWS, CONTEXT, space={})
    found = dream(dynamics, context, {}, torch.zeros(ROWS, 3, dtype=torch.bool), sampling=SAMPLING, seeds=SEEDS)
    assert found.shape == (ROWS, 3, tiny.latents, tiny.channels)
    assert bool((found[:, 0] != found[:, 2]).any())
