"""Acting: rows know nothing of each other, begin and end on their own, and see what training showed."""

import pytest
import torch

from dreamer_ray.imagination.sampler import context_noising
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.imagination.streams import RandomStreams
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.models.dynamics import Conditioning
from dreamer_ray.objectives.shortcut_forcing import corrupt

ROWS, FRAMES, SEEDS, OTHER_SEEDS = 3, 11, [5, 6, 7], [9, 10, 11]


@pytest.fixture
def parts(tiny):
    return tiny.tokenizer().double(), tiny.agent().double()


@pytest.fixture
def states(parts, monkeypatch):
    """All states that the policy is asked at, in order; the distribution follows from them."""
    seen, now = [], parts[1].policy.now
    monkeypatch.setattr(parts[1].policy, "now", lambda state: seen.append(state.clone()) or now(state))
    return seen


def _pictures(seed=0):
    return torch.randint(0, 256, (ROWS, FRAMES, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _restart(session, seeds):
    for row, seed in enumerate(seeds):
        session.engine.streams.restart(row, seed)


def _first(*rows):
    return torch.tensor([row in rows for row in range(ROWS)])


def _play(parts, pictures, *, task=None, begins=None, session=None, seeds=SEEDS):
    session = session or ActingSession(*parts, seeds=seeds)
    task = torch.tensor([0, 1, 2]) if task is None else task
    begins = begins or {0: (0, 1, 2)}
    return [session.act(pictures[:, t], task, first=_first(*begins.get(t, ()))) for t in range(pictures.shape[1])]


def test_a_row_does_not_depend_on_other_rows(parts, states):
    pictures, other = _pictures(), _pictures(seed=1)
    other[1] = pictures[1]
    _play(parts, pictures)
    _play(parts, other, task=torch.tensor([4, 1, 0]), begins={0: (0, 1, 2), 4: (2,), 6: (0,)})
    assert len(states) == 2 * FRAMES
    for one, two in zip(states[:FRAMES], states[FRAMES:], strict=True):
        assert torch.allclose(one[1], two[1], atol=1e-11)
        assert not torch.allclose(one[0], two[0], atol=1e-3)


def test_first_is_a_new_session(parts, states):
    pictures, cut = _pictures(), 6
    session = ActingSession(*parts, seeds=SEEDS)
    _play(parts, pictures[:, :cut], session=session)
    _restart(session, OTHER_SEEDS)
    _play(parts, pictures[:, cut:], session=session, begins={0: (0, 1, 2)})
    began = list(states[cut:])
    states.clear()
    _play(parts, pictures[:, cut:], seeds=OTHER_SEEDS)
    assert all(torch.allclose(one, two, atol=1e-11) for one, two in zip(began, states, strict=True))


def test_one_row_begins_anew_and_the_others_go_on(parts, states):
    pictures, cut = _pictures(), 6
    session = ActingSession(*parts, seeds=SEEDS)
    _play(parts, pictures[:, :cut], session=session)
    _restart(session, OTHER_SEEDS)
    _play(parts, pictures[:, cut:], session=session, begins={0: (1,)})
    mixed = list(states)
    states.clear()
    _play(parts, pictures[:, cut:], seeds=OTHER_SEEDS)
    assert all(torch.allclose(one[1], two[1], atol=1e-11) for one, two in zip(mixed[cut:], states, strict=True))
    assert not torch.allclose(mixed[cut][0], states[0][0], atol=1e-3)


def test_states_are_those_of_one_pass_over_the_episode(parts, states):
    tokenizer, agent = parts
    pictures, task = _pictures(), torch.tensor([0, 1, 2])
    taken = _play(parts, pictures)
    dynamics, streams = agent.dynamics, RandomStreams(SEEDS)
    with torch.no_grad():
        clean = dynamics.standardize(tokenizer.encode(pictures))
        noise = []
        for _ in range(FRAMES):
            noise.append(streams.normal(1, *clean.shape[2:]))
            streams.uniform(draw_count(agent.policy.space))
        noising = context_noising(dynamics, ROWS, FRAMES)
        noisy = corrupt(clean, torch.cat(noise, 1), noising.tau(dynamics.config.k_max))
        # The block of frame t holds the action taken at frame t - 1; the first block has none.
        actions = {n: torch.stack([taken[max(t - 1, 0)][n] for t in range(FRAMES)], 1) for n in taken[0]}
        labelled = torch.ones(ROWS, FRAMES, dtype=torch.bool)
        labelled[:, 0] = False
        whole = dynamics(noisy, noising, Conditioning(actions, labelled, agent.prompt(task, FRAMES))).states
    assert torch.allclose(torch.stack(states[:FRAMES], 1), whole, atol=1e-6)


def test_actions_have_the_shapes_of_the_space(parts):
    [action, *_] = _play(parts, _pictures())
    assert {name: tuple(value.shape) for name, value in action.items()} == {"keys": (ROWS, 3), "mouse": (ROWS,), "arm": (ROWS, 2)}


def test_acting_samples(parts):
    draws = {tuple(_play(parts, _pictures()[:, :2], seeds=[seed] * ROWS)[1]["mouse"].tolist()) for seed in range(12)}
    assert len(draws) > 3
