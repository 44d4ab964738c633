"""Contracts of the dynamics: cached = uncached, causality, one-way agent tokens, separate pictures, unlabelled frames, packing."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Conditioning, DynamicsConfig, Noising

ROWS, FRAMES = 3, 14


def _inputs(tiny, agent: Agent, rows=ROWS, frames=FRAMES, seed=0):
    """Noisy latents, noise levels and conditioning of whole sequences, everything drawn."""
    generator = tiny.generator(seed)
    clip = tiny.clip(rows, frames, seed=seed)
    noisy = torch.randn(clip.latents.shape, generator=generator, dtype=torch.float64)
    signal = torch.randint(0, 8, (rows, frames), generator=generator)
    exponent = torch.randint(0, 4, (rows, frames), generator=generator)
    actions, labelled = previous_actions(clip.notes.actions, clip.notes.labelled)
    labelled &= torch.rand(rows, frames, generator=generator) < 0.8
    return noisy, Noising(signal, exponent), Conditioning(actions, labelled, agent.prompt(clip.notes.task, frames))


def _at(noisy, noising, conditioning, frames: slice):
    actions = {name: value[:, frames] for name, value in conditioning.actions.items()}
    agent = None if conditioning.agent is None else conditioning.agent[:, frames]
    return (
        noisy[:, frames],
        Noising(noising.signal[:, frames], noising.exponent[:, frames]),
        Conditioning(actions, conditioning.labelled[:, frames], agent),
    )


def _close(a, b, latents=2e-6, states=1e-11):
    """Latents leave the model in single precision, states in that of the model."""
    assert torch.allclose(a.latents, b.latents, atol=latents, rtol=1e-6)
    assert torch.allclose(a.states, b.states, atol=states)


@pytest.fixture
def agent(tiny):
    return tiny.agent().double()


@pytest.mark.parametrize("prefill", [0, 2, 4, 7])
def test_cached_equals_uncached_over_several_windows(tiny, agent, prefill):
    dynamics, inputs = agent.dynamics, _inputs(tiny, agent)
    whole = dynamics(*inputs)
    cache = dynamics.new_cache(ROWS)
    if prefill:
        part = dynamics(*_at(*inputs, slice(prefill)), cache=cache)
        _close(part, replace(whole, latents=whole.latents[:, :prefill], states=whole.states[:, :prefill]))
    for t in range(prefill, FRAMES):
        now = slice(t, t + 1)
        step = _at(*inputs, now)
        # Denoising passes without agent tokens run on the same frame before it is committed, as in a dream.
        denoising = replace(step[2], agent=None)
        for _ in range(2):
            dynamics.step(torch.randn_like(step[0]), step[1], denoising, cache=cache)
        again = dynamics.step(*step[:2], denoising, cache=cache).latents
        assert torch.allclose(again, whole.latents[:, now], atol=2e-6, rtol=1e-6)
        committed = dynamics.step(*step, cache=cache)
        cache.advance()
        _close(committed, replace(whole, latents=whole.latents[:, now], states=whole.states[:, now]))


def test_rows_that_begin_anew_are_sequences_of_their_own(tiny, agent):
    dynamics, inputs = agent.dynamics, _inputs(tiny, agent)
    cache, starts = dynamics.new_cache(ROWS), {1: 5, 2: 9, 0: 11}
    outputs = []
    for t in range(FRAMES):
        for row, start in starts.items():
            if t == start:
                cache.frame[row] = 0
        outputs.append(dynamics.step(*_at(*inputs, slice(t, t + 1)), cache=cache))
        cache.advance()
    latents, states = torch.cat([o.latents for o in outputs], 1), torch.cat([o.states for o in outputs], 1)
    whole = dynamics(*inputs)
    for row, start in starts.items():
        anew = dynamics(*_at(*inputs, slice(start, None)))
        assert torch.allclose(states[row, :start], whole.states[row, :start], atol=1e-11)
        assert torch.allclose(states[row, start:], anew.states[row], atol=1e-11)
        assert torch.allclose(latents[row, start:], anew.latents[row], atol=2e-6, rtol=1e-6)
        assert not torch.allclose(states[row, start:], whole.states[row, start:], atol=1e-5)


def _moved(before, after):
    return (before.latents - after.latents).abs().amax((0, 2, 3)), (before.states - after.states).abs().amax((0, 2))


def test_a_frame_changes_nothing_before_it(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    before = agent.dynamics(noisy, noising, conditioning)
    changed = noisy.clone()
    changed[:, 6] += 1
    signal = noising.signal.clone()
    signal[:, 6] = (signal[:, 6] + 3) % 8
    for after in (agent.dynamics(changed, noising, conditioning), agent.dynamics(noisy, Noising(signal, noising.exponent), conditioning)):
        latents, states = _moved(before, after)
        assert bool((latents[:6] == 0).all())
        assert bool((states[:6] == 0).all())
        assert bool((latents[6:9] > 1e-5).all())
        assert bool((states[6:9] > 1e-5).all())


def test_an_action_leaves_its_own_state_alone_and_moves_the_next_latents(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    clip = tiny.clip(ROWS, FRAMES)
    for name, other in tiny.actions(ROWS, FRAMES, seed=5).items():
        actions = {key: value.clone() for key, value in clip.notes.actions.items()}
        outcomes = []
        for _ in range(2):
            previous, labelled = previous_actions(actions, clip.notes.labelled)
            outcomes.append(agent.dynamics(noisy, noising, replace(conditioning, actions=previous, labelled=labelled)))
            actions[name][:, 5] = other[:, 5]
        latents, states = _moved(*outcomes)
        assert bool((latents[:6] == 0).all()), name
        assert bool((states[:6] == 0).all()), name
        assert latents[6] > 1e-5, name
        assert states[6] > 1e-5, name


def test_nothing_sees_the_agent_tokens(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    prompts = [agent.prompt(torch.full((ROWS,), task), FRAMES) for task in (0, 3)]
    one, other = (agent.dynamics(noisy, noising, replace(conditioning, agent=prompt)) for prompt in prompts)
    without = agent.dynamics(noisy, noising, replace(conditioning, agent=None))
    assert torch.equal(one.latents, other.latents)
    assert torch.allclose(one.latents, without.latents, atol=2e-6, rtol=1e-6)
    assert without.states is None
    assert not torch.allclose(one.states, other.states, atol=1e-3)


def test_video_gives_no_gradient_to_the_task_and_states_do(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    prediction = agent.dynamics(noisy, noising, conditioning)
    (gradient,) = torch.autograd.grad(prediction.latents.square().sum(), agent.task.weight, retain_graph=True, allow_unused=True)
    assert gradient is None or bool((gradient == 0).all())
    (gradient,) = torch.autograd.grad(prediction.states.square().sum(), agent.task.weight)
    assert gradient.abs().sum() > 0


def test_the_task_does_not_enter_later_frames_through_the_cache(tiny, agent):
    inputs, dynamics = _inputs(tiny, agent), agent.dynamics
    outcomes = []
    for task in (0, 3):
        cache = dynamics.new_cache(ROWS)
        conditioning = replace(inputs[2], agent=agent.prompt(torch.full((ROWS,), task), FRAMES))
        latents = []
        for t in range(FRAMES):
            latents.append(dynamics.step(*_at(inputs[0], inputs[1], conditioning, slice(t, t + 1)), cache=cache).latents)
            cache.advance()
        outcomes.append(torch.cat(latents, 1))
    assert torch.equal(*outcomes)


def test_agent_states_see_past_agent_tokens(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    prompt = conditioning.agent.clone()
    prompt[:, 4] += 1
    _, states = _moved(agent.dynamics(noisy, noising, conditioning), agent.dynamics(noisy, noising, replace(conditioning, agent=prompt)))
    assert bool((states[:4] == 0).all())
    assert states[5] > 1e-6


def test_image_rows_are_separate_pictures(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    images = torch.tensor([False, True, False])
    mixed = agent.dynamics(noisy, noising, replace(conditioning, images=images))
    plain = agent.dynamics(noisy, noising, conditioning)
    assert torch.allclose(mixed.states[[0, 2]], plain.states[[0, 2]], atol=1e-11)
    for t in range(FRAMES):
        row = torch.tensor([1])
        alone = agent.dynamics(*_at(noisy[row], noising.rows(row), conditioning.rows(row), slice(t, t + 1)))
        assert torch.allclose(mixed.states[1, t], alone.states[0, 0], atol=1e-6)
        assert torch.allclose(mixed.latents[1, t], alone.latents[0, 0], atol=1e-5)
    assert not torch.allclose(mixed.states[1], plain.states[1], atol=1e-3)


def test_unlabelled_frames_ignore_the_values_of_actions(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    labelled = torch.ones(ROWS, FRAMES, dtype=torch.bool)
    labelled[:, 4:8] = False
    first = agent.dynamics(noisy, noising, replace(conditioning, labelled=labelled))
    other = {name: value.clone() for name, value in conditioning.actions.items()}
    for name, value in tiny.actions(ROWS, FRAMES, seed=9).items():
        other[name][:, 4:8] = value[:, 4:8]
    second = agent.dynamics(noisy, noising, replace(conditioning, labelled=labelled, actions=other))
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.states, second.states)
    all_known = agent.dynamics(noisy, noising, replace(conditioning, labelled=torch.ones_like(labelled)))
    assert not torch.allclose(first.latents, all_known.latents, atol=1e-4)


def test_labelled_and_unlabelled_rows_mix_in_one_batch(tiny, agent):
    noisy, noising, conditioning = _inputs(tiny, agent)
    labelled = torch.tensor([True, False, True]).unsqueeze(1).expand(ROWS, FRAMES)
    mixed = agent.dynamics(noisy, noising, replace(conditioning, labelled=labelled))
    for row in range(ROWS):
        index = torch.tensor([row])
        alone = agent.dynamics(noisy[index], noising.rows(index), replace(conditioning, labelled=labelled).rows(index))
        assert torch.allclose(mixed.states[index], alone.states, atol=1e-11)
        assert torch.allclose(mixed.latents[index], alone.latents, atol=2e-6, rtol=1e-6)


def test_a_frame_depends_on_the_window_only_with_one_time_layer(tiny):
    agent = tiny.agent(transformer={"layers": 4, "time_every": 4, "context": 3}).double()
    noisy, noising, conditioning = _inputs(tiny, agent)
    changed = noisy.clone()
    changed[:, 2] += 1
    latents, states = _moved(agent.dynamics(noisy, noising, conditioning), agent.dynamics(changed, noising, conditioning))
    assert [t for t in range(FRAMES) if states[t] > 1e-9] == [2, 3, 4]
    assert [t for t in range(FRAMES) if latents[t] > 1e-6] == [2, 3, 4]


def test_signal_and_step_size_are_two_halves_of_one_token(tiny, agent):
    dynamics = agent.dynamics
    noisy, noising, conditioning = _inputs(tiny, agent, rows=1, frames=2)
    tokens = dynamics._tokens(noisy, noising, conditioning) - dynamics.positions
    place = dynamics.layout.slice("noise")
    assert place.stop - place.start == 1
    width = dynamics.signal.embedding_dim
    assert torch.allclose(tokens[0, 1, place.start, :width], dynamics.signal.weight[noising.signal[0, 1]], atol=1e-12)
    assert torch.allclose(tokens[0, 1, place.start, width:], dynamics.step_size.weight[noising.exponent[0, 1]], atol=1e-12)


def test_packing_puts_neighbours_into_one_token_and_takes_them_apart(tiny, monkeypatch):
    dynamics = tiny.dynamics(transformer={"width": 8, "heads": 2}, packing=2, space={}).double()
    size = 2 * tiny.channels
    seen = []
    monkeypatch.setattr(dynamics.transformer, "forward", lambda x, **_: seen.append(x) or x)
    with torch.no_grad():
        for part in (dynamics.positions, dynamics.expand.bias, dynamics.predict.bias, dynamics.expand.weight, dynamics.predict.weight):
            part.zero_()
        dynamics.expand.weight[:size] = torch.eye(size)
        dynamics.predict.weight[:, :size] = torch.eye(size)
    noisy = torch.randn(2, 3, tiny.latents, tiny.channels)
    noising = Noising(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    monkeypatch.setattr(dynamics.actions, "forward", lambda *_: torch.zeros(2, 3, 1, 8))
    out = dynamics(noisy, noising, Conditioning({}, torch.zeros(2, 3, dtype=torch.bool))).latents
    assert torch.equal(out, noisy)
    packed = seen[0][:, :, dynamics.layout.slice("latents")]
    assert packed.shape[2] == tiny.latents // 2
    assert torch.equal(packed[0, 0, 1, :size].float(), noisy[0, 0, 2:4].flatten())


def test_standardise_round_trip(tiny):
    dynamics, clip = tiny.dynamics(), tiny.clip(2, 3)
    mean, std = torch.rand(tiny.latents, tiny.channels) - 0.5, torch.rand(tiny.latents, tiny.channels) + 0.1
    dynamics.set_latent_statistics(mean, std)
    standard = dynamics.standardize(clip.latents)
    assert torch.allclose(standard, (clip.latents - mean) / std, atol=1e-6)
    assert torch.allclose(dynamics.restore(standard), clip.latents, atol=1e-6)
    assert float(dynamics.restore(standard * 100).abs().max()) == 1.0


def test_standardising_is_a_switch_and_dead_channels_do_not_blow_up(tiny):
    plain = tiny.dynamics(standardize=False)
    plain.set_latent_statistics(torch.ones(tiny.latents, tiny.channels), torch.full((tiny.latents, tiny.channels), 3.0))
    latents = tiny.clip(1, 2).latents
    assert torch.equal(plain.standardize(latents), latents)
    dynamics = tiny.dynamics()
    dynamics.set_latent_statistics(latents[0, 0], torch.zeros(tiny.latents, tiny.channels))
    assert bool(dynamics.standardize(latents).isfinite().all())


@pytest.mark.parametrize(("signal", "k_max", "level"), [(0.9, 64, 58), (0.9, 8, 7), (0.99, 8, 7), (0.01, 8, 1)])
def test_context_signal_is_rounded_to_a_trained_level(tiny, signal, k_max, level):
    config = DynamicsConfig(transformer=tiny.transformer_config(), context_signal=signal, k_max=k_max)
    assert config.signal_level() == level
    assert 2**config.finest == k_max


def test_sizes_that_do_not_fit_are_refused(tiny):
    with pytest.raises(ValidationError, match="power of two"):
        DynamicsConfig(transformer=tiny.transformer_config(), k_max=12)
    with pytest.raises(ValueError, match="packing"):
        tiny.dynamics(packing=3)
