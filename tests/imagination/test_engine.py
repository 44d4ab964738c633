"""The running batch: worlds join, run and leave on their own; what is asked for at run time is what is done."""

import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling

CONTEXT, HORIZON, FAST = 6, 11, Sampling(steps=2)


@pytest.fixture
def parts(tiny):
    # Float64, so that batches of another size differ by rounding only.
    return tiny.agent().double(), tiny.tokenizer().double()


def _engine(parts, slots):
    agent, tokenizer = parts
    return DreamEngine(agent.dynamics, slots=slots, agent=agent, tokenizer=tokenizer)


def _run(engine, frames=HORIZON, sampling=FAST):
    return [engine.dream(engine.act(sampling=sampling), sampling=sampling) for _ in range(frames)]


def _alone(parts, context, seed, sampling=FAST, frames=HORIZON):
    engine = _engine(parts, 1)
    engine.join(context, [seed], sampling=sampling)
    return _run(engine, frames, sampling)


def _row(clip, row):
    return clip.rows(slice(row, row + 1))


def _same(frames, slot, alone):
    for frame, other in zip(frames, alone, strict=True):
        assert torch.allclose(frame.latents[slot], other.latents[0], atol=1e-9)
        assert torch.allclose(frame.pictures[slot], other.pictures[0], atol=1e-9)
        assert torch.allclose(frame.judgement.states[slot], other.judgement.states[0], atol=1e-9)
        assert torch.allclose(frame.judgement.rewards[slot], other.judgement.rewards[0], atol=1e-5)
        assert torch.allclose(frame.judgement.continues[slot], other.judgement.continues[0], atol=1e-5)
        assert all(torch.allclose(frame.actions[name][slot], other.actions[name][0]) for name in frame.actions)


@pytest.mark.parametrize("commit", [True, False])
def test_a_world_is_the_same_in_any_slot_beside_any_neighbours(tiny, parts, commit):
    sampling, context = Sampling(steps=2, commit=commit), tiny.clip(3, CONTEXT)
    engine = _engine(parts, 5)
    engine.join(context.rows(torch.tensor([2, 1])), [4, 5], sampling=sampling)
    [slot] = engine.join(_row(context, 0), [6], sampling=sampling)
    assert slot == 2
    _same(_run(engine, sampling=sampling), slot, _alone(parts, _row(context, 0), 6, sampling))


def test_contexts_that_pass_in_parts_are_the_same(tiny, parts, monkeypatch):
    context, frames = tiny.clip(5, CONTEXT), []
    for together in (10**6, 2 * CONTEXT * parts[0].dynamics.layout.total):
        monkeypatch.setattr("dreamer_ray.imagination.engine.JOINING_TOKENS", together)
        engine = _engine(parts, 5)
        engine.join(context, [1, 2, 3, 4, 5])
        frames.append(_run(engine, 3))
    for one, other in zip(*frames, strict=True):
        assert torch.allclose(one.latents, other.latents, atol=1e-9)
        assert torch.allclose(one.pictures, other.pictures, atol=1e-9)


def test_worlds_join_and_leave_a_running_batch(tiny, parts):
    context, engine = tiny.clip(3, CONTEXT), _engine(parts, 2)
    assert engine.join(_row(context, 0), [1]) == [0]
    first = _run(engine, 4)
    assert engine.join(_row(context, 1), [2]) == [1]
    with pytest.raises(UserError, match="1 worlds cannot join: 0 of 2 slots are free"):
        engine.join(_row(context, 2), [3])
    both = _run(engine, 3)
    engine.leave([0])
    assert engine.join(_row(context, 2), [3]) == [0]
    last = _run(engine)
    _same(first + both, 0, _alone(parts, _row(context, 0), 1, frames=7))
    _same(both + last, 1, _alone(parts, _row(context, 1), 2, frames=3 + HORIZON))
    _same(last, 0, _alone(parts, _row(context, 2), 3))


def test_a_commit_that_waits_for_the_next_frame_is_done_before_anything_else(tiny, parts):
    context, actions, agent = tiny.clip(2, CONTEXT), tiny.actions(2, HORIZON), parts[0]
    latents = []
    for waits in (False, True):  # without an agent
        engine = DreamEngine(agent.dynamics, slots=2, agent=None if waits else agent)
        engine.join(_row(context, 0), [4])
        frames = []
        for t in range(HORIZON):
            step = {name: value[:, t] for name, value in actions.items()}
            if t == 3:
                engine.join(_row(context, 1), [5])
            if t == 5:
                engine.observe(context.latents[:, :1], step, torch.ones(2, dtype=torch.bool))
            frames.append(engine.dream(step, sampling=FAST).latents[: 1 + (t >= 3)])
        latents.append(torch.cat(frames))
    assert torch.allclose(*latents, atol=1e-9)


def test_a_refused_world_takes_no_slot(tiny, parts):
    engine = _engine(parts, 2)
    with pytest.raises(UserError, match="2 worlds cannot join with 1 seeds"):
        engine.join(tiny.clip(2, CONTEXT), [1])
    with pytest.raises(UserError, match="context signal"):
        engine.join(tiny.clip(2, CONTEXT), [1, 2], sampling=Sampling(context_signal=2.0))
    assert engine.join(tiny.clip(2, CONTEXT), [1, 2]) == [0, 1]


def test_pictures_are_those_of_one_pass_of_the_decoder(tiny, parts):
    context = tiny.clip(1, CONTEXT).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    frames = _alone(parts, context, 1)
    latents = torch.cat([context.latents, *(frame.latents.unsqueeze(1) for frame in frames)], 1)
    with torch.no_grad():
        whole = parts[1].decode(latents)[:, CONTEXT:].clamp(0, 1)
    assert torch.allclose(torch.stack([frame.pictures for frame in frames], 1), whole, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [Sampling(steps=4), Sampling(steps=2, context_signal=0.5), Sampling(steps=2, commit=False), Sampling(steps=2, temperature=3.0)],
)
def test_what_is_asked_for_at_run_time_changes_the_dream(tiny, parts, changed):
    context, frames = tiny.clip(1, CONTEXT), {}
    for sampling in (FAST, changed):
        engine = _engine(parts, 1)
        engine.join(context, [1])  # the same start for both
        frames[sampling] = _run(engine, 6, sampling)
    difference = [(a.latents - b.latents).abs().max() > 1e-4 for a, b in zip(frames[FAST], frames[changed], strict=True)]
    # K acts at once, what the cache holds of a frame on the next one, the temperature on the actions.
    assert difference[0] == (changed.steps != FAST.steps) or changed.temperature != 1
    assert all(difference[2:]) or (changed.temperature != 1 and any(difference))


def test_the_context_signal_reaches_the_context(tiny, parts):
    context, states = tiny.clip(1, CONTEXT), []
    for signal in (0.9, 0.5):
        engine = _engine(parts, 1)
        engine.join(context, [1], sampling=Sampling(context_signal=signal))
        states.append(engine.states.clone())
    assert not torch.allclose(*states, atol=1e-3)


def test_memory_does_not_grow_and_caches_stay_where_they_are(tiny, parts):
    engine = _engine(parts, 2)
    engine.join(tiny.clip(2, CONTEXT), [1, 2])
    before = [ring.keys.data_ptr() for cache in (engine.cache, engine.decoder_cache) for ring in cache.rings]
    _run(engine, 30)
    assert before == [ring.keys.data_ptr() for cache in (engine.cache, engine.decoder_cache) for ring in cache.rings]
    assert engine.cache.frame.tolist() == [CONTEXT + 30] * 2


def test_without_an_agent_dreams_follow_given_actions(tiny, parts):
    engine = DreamEngine(parts[0].dynamics, slots=1)
    engine.join(tiny.clip(1, CONTEXT), [1])
    frame = engine.dream({name: value[:, 0] for name, value in tiny.actions(1, 1).items()})
    assert frame.judgement is None
    assert frame.pictures is None
