"""One dreamed frame: the steps of the sampler, the straight-line field, and the commit at the context signal."""

import itertools

import pytest
import torch

from dreamer_ray.errors import UserError
from dreamer_ray.imagination.sampler import check_steps, commit_frame, commit_pass, context_noising, sample_frame
from dreamer_ray.models.dynamics import Conditioning, Prediction


def _conditioning(tiny, rows=2):
    return Conditioning(tiny.actions(rows, 1), torch.ones(rows, 1, dtype=torch.bool))


def _noise(tiny, rows=2):
    return torch.randn(rows, 1, tiny.latents, tiny.channels)


@pytest.fixture
def dynamics(tiny):
    return tiny.dynamics(k_max=16)


def _stub(dynamics, monkeypatch, predict):
    asked = []

    def step(noisy, noising, conditioning, *, cache):
        asked.append((noisy.clone(), noising.signal.flatten().tolist(), noising.exponent.flatten().tolist()))
        return Prediction(predict(noisy), None)

    monkeypatch.setattr(dynamics, "step", step)
    return asked


def test_the_mix_weights_of_four_steps_are_a_quarter_a_third_a_half_and_one(tiny, dynamics, monkeypatch):
    asked = _stub(dynamics, monkeypatch, torch.ones_like)
    sample_frame(dynamics, dynamics.new_cache(2), _conditioning(tiny), steps=4, noise=torch.zeros(2, 1, tiny.latents, tiny.channels))
    points = [float(z.mean()) for z, _, _ in asked] + [1.0]
    weights = [(after - before) / (1 - before) for before, after in itertools.pairwise(points)]
    assert weights == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1], abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_signal_and_step_size_that_the_model_is_asked_at(tiny, dynamics, monkeypatch, steps):
    asked = _stub(dynamics, monkeypatch, lambda z: z)
    sample_frame(dynamics, dynamics.new_cache(2), _conditioning(tiny), steps=steps, noise=_noise(tiny))
    assert [signal for _, signal, _ in asked] == [[i * 16 // steps] * 2 for i in range(steps)]
    assert all(2.0**-power == 1 / steps for _, _, exponent in asked for power in exponent)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_any_number_of_steps_ends_at_the_same_point_of_a_straight_line_field(tiny, dynamics, monkeypatch, steps):
    clean = _noise(tiny)
    _stub(dynamics, monkeypatch, lambda _: clean)
    found = sample_frame(dynamics, dynamics.new_cache(2), _conditioning(tiny), steps=steps, noise=_noise(tiny)).latents
    assert torch.allclose(found, clean, atol=1e-5)


def test_the_points_of_a_straight_line_field_lie_on_the_line_from_the_noise(tiny, dynamics, monkeypatch):
    clean, noise = _noise(tiny), _noise(tiny)
    asked = _stub(dynamics, monkeypatch, lambda _: clean)
    sample_frame(dynamics, dynamics.new_cache(2), _conditioning(tiny), steps=8, noise=noise)
    for z, signal, _ in asked:
        tau = signal[0] / 16
        assert torch.allclose(z, (1 - tau) * noise + tau * clean, atol=1e-5)


def test_one_step_is_the_models_prediction(tiny, dynamics):
    cache, noise, conditioning = dynamics.new_cache(2), _noise(tiny), _conditioning(tiny)
    found = sample_frame(dynamics, cache, conditioning, steps=1, noise=noise).latents
    again = sample_frame(dynamics, cache, conditioning, steps=1, noise=noise).latents
    finer = sample_frame(dynamics, cache, conditioning, steps=4, noise=noise).latents
    assert torch.equal(found, again)
    assert not torch.allclose(found, finer, atol=1e-3)
    assert cache.frame.tolist() == [0, 0]


@pytest.mark.parametrize("signal", [0.0, 1.0, -0.1, 1.5])
def test_other_context_signals_are_refused(dynamics, signal):
    with pytest.raises(UserError, match=f"context signal {signal}: "):
        context_noising(dynamics, 2, 1, signal)


def test_agent_tokens_ride_on_the_last_step_and_change_no_latents(tiny):
    agent = tiny.agent()
    cache, noise, world = agent.dynamics.new_cache(2), _noise(tiny), _conditioning(tiny)
    asked = Conditioning(world.actions, world.labelled, agent.prompt(torch.tensor([0, 1]), 1))
    plain = sample_frame(agent.dynamics, cache, world, steps=4, noise=noise)
    found = sample_frame(agent.dynamics, cache, asked, steps=4, noise=noise)
    assert plain.states is None
    assert torch.equal(found.latents, plain.latents)
    assert found.states.shape == (2, 1, 16)


@pytest.mark.parametrize("steps", [0, 3, 12, 32, -1])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(UserError, match=f"K = {steps}: .* to k_max = 16"):
        check_steps(steps, 16)


def test_a_finished_frame_is_committed_at_the_context_signal(tiny, dynamics, monkeypatch):
    level = context_noising(dynamics, 2, 3)
    assert set(level.signal.flatten().tolist()) == {14}
    assert set(level.exponent.flatten().tolist()) == {4}
    asked = _stub(dynamics, monkeypatch, lambda z: z)
    cache, latents, noise = dynamics.new_cache(2), _noise(tiny), _noise(tiny)
    committing = commit_pass(dynamics, _conditioning(tiny), latents=latents, noise=noise)
    assert commit_frame(dynamics, cache, committing) is None
    assert cache.frame.tolist() == [1, 1]
    [(z, signal, exponent)] = asked
    assert torch.allclose(z, latents * 14 / 16 + noise * 2 / 16, atol=1e-6)
    assert (signal, exponent) == ([14, 14], [4, 4])
