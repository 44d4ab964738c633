"""Oracles of shortcut forcing: noise levels, the straight-line field, the paper's own form of the bootstrap loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_ray.objectives.shortcut_forcing import (
    bootstrap_target,
    corrupt,
    draw_noising,
    ramp_weight,
    shortcut_forcing,
    velocity,
    velocity_weight,
)

K_MAX = 64
FINEST = 6


def _draw(rows, frames, *, bootstrap=True, k_max=K_MAX, seed=0):
    chosen = torch.full((rows,), bootstrap)
    return draw_noising(rows, frames, k_max, bootstrap=chosen, generator=torch.Generator().manual_seed(seed))


def test_corrupt_is_noise_at_zero_and_data_at_one():
    clean, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert torch.equal(corrupt(clean, noise, torch.zeros(2, 3)), noise)
    assert torch.equal(corrupt(clean, noise, torch.ones(2, 3)), clean)
    tau = torch.tensor([[0.25, 0.0, 1.0], [0.5, 0.75, 0.25]])
    assert torch.allclose(corrupt(clean, noise, tau)[1, 1], 0.25 * noise[1, 1] + 0.75 * clean[1, 1])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_every_tau_is_a_multiple_of_its_d_and_less_than_one(power, seed):
    k_max = 2**power
    signal, exponent = _draw(8, 16, k_max=k_max, seed=seed)
    step = k_max // 2**exponent
    assert bool((signal % step == 0).all())
    assert bool((signal >= 0).all())
    assert bool((signal + step <= k_max).all())


def test_bootstrap_rows_draw_all_step_sizes_uniformly_and_tau_uniformly_given_d():
    signal, exponent = _draw(1000, 70)
    counts = exponent.flatten().bincount(minlength=FINEST + 1)
    assert len(counts) == FINEST + 1
    assert torch.allclose(counts / 70_000, torch.full((FINEST + 1,), 1 / 7), atol=0.006)
    for power in range(FINEST + 1):
        levels = signal[exponent == power] // (K_MAX // 2**power)
        found = levels.bincount(minlength=2**power) / len(levels)
        assert len(found) == 2**power
        assert float((found - 2.0**-power).abs().max()) < 0.02


def test_frames_of_a_row_draw_on_their_own():
    signal, exponent = _draw(50, 40)
    assert bool((exponent.unique(dim=1).shape[1] == 40) and (exponent.amax(1) > exponent.amin(1)).all())
    assert bool((signal.amax(1) > signal.amin(1)).all())


def test_other_rows_are_at_the_finest_step_only():
    chosen = torch.arange(40) % 2 == 0
    signal, exponent = draw_noising(40, 60, K_MAX, bootstrap=chosen, generator=torch.Generator().manual_seed(0))
    assert bool((exponent[~chosen] == FINEST).all())
    assert set(exponent[chosen].flatten().tolist()) == set(range(FINEST + 1))
    assert set(signal[~chosen].flatten().tolist()) == set(range(K_MAX))


def test_ramp():
    assert torch.allclose(ramp_weight(torch.tensor([[0.0, 0.5, 1.0]])), torch.tensor([[0.1, 0.55, 1.0]]))


def test_flow_term_is_zero_for_the_true_predictor_and_ramped_otherwise():
    clean, tau = torch.randn(2, 3, 4, 5), torch.tensor([[0.0, 0.25, 0.5], [0.75, 0.9, 0.1]])
    assert torch.equal(shortcut_forcing(clean, clean, tau), torch.zeros(2, 3))
    assert torch.allclose(shortcut_forcing(clean + 2, clean, tau), 4 * (0.9 * tau + 0.1), atol=1e-5)


def test_errors_weighted_as_velocities_are_those_of_velocities_up_to_the_clamp():
    prediction, clean, noise = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64).unbind()
    tau = torch.tensor([[0.0, 0.25, 0.5], [0.75, 0.9, 15 / 16]])
    noisy = corrupt(clean, noise, tau)
    expected = (velocity(prediction, noisy, tau) - (clean - noise)).square().mean((2, 3))
    found = shortcut_forcing(prediction, clean, tau, "velocity")
    assert torch.allclose(found.double(), expected, rtol=1e-4)
    assert not torch.allclose(found, shortcut_forcing(prediction, clean, tau))
    assert velocity_weight(torch.tensor([[0.95, 63 / 64, 255 / 256]])).tolist()[0] == pytest.approx([400, 400, 400], rel=1e-4)


def _straight(clean):
    """The predictor of a straight-line field: it names the end of the line, wherever it is asked."""
    return lambda *_: clean


def test_bootstrap_target_of_a_straight_line_field_is_itself():
    clean, noise = torch.randn(6, 9, 2, 3), torch.randn(6, 9, 2, 3)
    signal, exponent = _draw(6, 9)
    noisy = corrupt(clean, noise, signal / K_MAX)
    target = bootstrap_target(_straight(clean), noisy, signal, exponent, K_MAX)
    coarse = exponent < FINEST
    assert torch.allclose(target[coarse], clean[coarse], atol=1e-4)


def _curved(weights):
    """Some predictor that depends on everything it is told."""

    def predict(noisy, signal, exponent):
        return torch.tanh(noisy @ weights) + torch.sin(signal.double() + 3 * exponent)[..., None, None]

    return predict


def test_bootstrap_loss_is_the_papers_velocity_form():
    weights, noisy, prediction = (torch.randn(*s, dtype=torch.float64) for s in ((3, 3), (5, 8, 2, 3), (5, 8, 2, 3)))
    signal, exponent = _draw(5, 8)
    predict = _curved(weights)
    # Equation 7 word by word, in real numbers tau and d.
    tau, d = (signal.double() / K_MAX)[..., None, None], (2.0 ** -exponent.double())[..., None, None]
    coarse = exponent < FINEST
    half = (exponent + 1).clamp(max=FINEST)
    b1 = (predict(noisy, signal, half).float() - noisy) / (1 - tau)
    z = noisy + b1 * d / 2
    later = ((tau + d / 2) * K_MAX).squeeze(-1).squeeze(-1).round().long()
    b2 = (predict(z, later, half).float() - z) / (1 - (tau + d / 2))
    paper = (1 - tau) ** 2 * ((prediction - noisy) / (1 - tau) - (b1 + b2) / 2) ** 2
    paper = (0.9 * tau + 0.1).squeeze(-1).squeeze(-1) * paper.mean((-1, -2))
    target = bootstrap_target(predict, noisy, signal, exponent, K_MAX)
    assert target.shape == noisy.shape
    # Predictions and targets are in single precision by contract.
    found = shortcut_forcing(prediction.float(), target, tau.squeeze(-1).squeeze(-1))
    assert torch.allclose(found[coarse], paper[coarse], rtol=1e-4, atol=1e-5)
    assert coarse.sum() > 10


def test_bootstrap_asks_at_half_the_step_size_and_at_both_ends_of_the_first_half_step():
    asked = []

    def predict(noisy, signal, exponent):
        asked.append((signal.clone(), exponent.clone()))
        return noisy * 0

    signal, exponent = _draw(4, 50)
    bootstrap_target(predict, torch.randn(4, 50, 1, 1), signal, exponent, K_MAX)
    coarse = exponent < FINEST
    (first, first_half), (second, second_half) = asked
    assert torch.equal(first[coarse], signal[coarse])
    assert torch.equal(second[coarse], (signal + K_MAX // 2 ** (exponent + 1))[coarse])
    for half in (first_half, second_half):
        assert torch.equal(half[coarse], (exponent + 1)[coarse])
        assert int(half.max()) <= FINEST
    assert int(second.max()) < K_MAX


def test_bootstrap_target_has_no_gradient():
    weights = torch.randn(3, 3, requires_grad=True)
    signal, exponent = _draw(2, 4)
    target = bootstrap_target(lambda z, *_: z @ weights, torch.randn(2, 4, 2, 3), signal, exponent, K_MAX)
    assert not target.requires_grad


@pytest.mark.parametrize("level", [0.0, 0.5, 63 / 64])
def test_velocity_leads_to_the_clean_point(level):
    clean, noisy, tau = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2), torch.full((1, 1), level)
    assert torch.allclose(noisy + (1 - level) * velocity(clean, noisy, tau), clean, atol=1e-5)
