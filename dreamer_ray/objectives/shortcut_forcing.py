"""Shortcut forcing (Dreamer 4, Eqs. 4 and 6-8): per-frame noise and step sizes, x-space flow and bootstrap targets, weights.

tau = 0 is noise and tau = 1 is data. Signal levels are integers in units of 1 / k_max, step sizes exponents with d = 2^-exponent.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``f(z~ [b t l c], signal [b t], exponent [b t]) -> z1^ [b t l c]`` with everything else fixed."""

Weighting = Literal["ramp", "velocity"]

NEAREST = 0.05
"""Least ``1 - tau`` that a weight is divided by, as in JiT's code (Li and He 2025, arXiv 2511.13720)."""


def draw_noising(
    rows: int, frames: int, k_max: int, *, bootstrap: Bool[Tensor, "b"], generator: torch.Generator
) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Draws ``d ~ 1 / U{1, 2, 4, .., k_max}`` and ``tau ~ U{0, d, .., 1 - d}`` for each frame on its own (Eq. 4, multiples of d).

    Rows that are not ``bootstrap`` take d = d_min everywhere. Returns signal levels (in units of 1 / k_max) and exponents.
    """
    finest = k_max.bit_length() - 1
    exponent = torch.randint(0, finest + 1, (rows, frames), generator=generator)
    exponent = torch.where(bootstrap.cpu().unsqueeze(1), exponent, torch.full_like(exponent, finest))
    steps = 2**exponent
    index = (torch.rand(rows, frames, generator=generator, dtype=torch.float64) * steps).long()
    return index * (k_max // steps), exponent


def corrupt(clean: Float[Tensor, "b t l c"], noise: Float[Tensor, "b t l c"], tau: Float[Tensor, "b t"]) -> Float[Tensor, "b t l c"]:
    """``z~ = (1 - tau) z0 + tau z1`` (Eq. 1)."""
    tau = tau[..., None, None]
    return (1 - tau) * noise + tau * clean


def velocity(clean: Tensor, noisy: Tensor, tau: Float[Tensor, "b t"]) -> Tensor:
    """``(z1^ - z~) / (1 - tau)``, the direction that leads from ``z~`` to ``z1^`` at tau = 1."""
    return (clean - noisy) / (1 - tau[..., None, None])


@torch.no_grad()
def bootstrap_target(
    predict: Predictor, noisy: Float[Tensor, "b t l c"], signal: Int[Tensor, "b t"], exponent: Int[Tensor, "b t"], k_max: int
) -> Float[Tensor, "b t l c"]:
    """Where two half steps lead, as a prediction of the clean latents: ``z~ + (1 - tau) (b' + b'') / 2`` (Eq. 7).

    The squared distance to it equals the paper's ``(1 - tau)^2 || (z1^ - z~) / (1 - tau) - sg(b' + b'') / 2 ||^2``, without a
    division by a small number. Frames at d_min have no half step: there the value means nothing.
    """
    finest = k_max.bit_length() - 1
    half = (exponent + 1).clamp(max=finest)
    half_step = torch.where(exponent < finest, k_max // 2**half, torch.zeros_like(half))
    tau = signal.float() / k_max
    first = velocity(predict(noisy, signal, half).float(), noisy, tau)
    middle = noisy + first * (half_step.float() / k_max)[..., None, None]
    second_signal = signal + half_step
    second = velocity(predict(middle, second_signal, half).float(), middle, second_signal.float() / k_max)
    return noisy + (1 - tau)[..., None, None] * (first + second) / 2


def ramp_weight(tau: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """``w(tau) = 0.9 tau + 0.1`` (Eq. 8): frames with little signal teach little."""
    return 0.9 * tau + 0.1


def velocity_weight(tau: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """``1 / max(1 - tau, 0.05)^2``: the error of ``(z1^ - z~) / (1 - tau)`` for that of ``z1^`` (Open Dreamer, in place of the ramp)."""
    return (1 - tau).clamp(min=NEAREST).square().reciprocal()


def shortcut_forcing(
    prediction: Float[Tensor, "b t l c"], target: Float[Tensor, "b t l c"], tau: Float[Tensor, "b t"], weighting: Weighting = "ramp"
) -> Float[Tensor, "b t"]:
    """``w(tau) || z1^ - target ||^2``, averaged over the numbers of a frame (Eqs. 7 and 8)."""
    weight = {"ramp": ramp_weight, "velocity": velocity_weight}[weighting](tau)
    return weight * (prediction.float() - target).square().mean((-1, -2))
