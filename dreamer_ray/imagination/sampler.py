"""One dreamed frame: K shortcut steps from noise, then a pass that commits the finished frame to the cache (Dreamer 4, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.errors import UserError
from dreamer_ray.models.dynamics import Conditioning, Dynamics, Noising
from dreamer_ray.nn.transformer import TransformerCache
from dreamer_ray.objectives.shortcut_forcing import corrupt


def context_noising(dynamics: Dynamics, rows: int, frames: int) -> Noising:
    """The (tau, d) pair of finished frames: the context signal at the finest step, a pair that training has seen."""
    shape, device = (rows, frames), dynamics.positions.device
    config = dynamics.config
    return Noising(torch.full(shape, config.context_level, device=device), torch.full(shape, config.finest, device=device))


def check_steps(steps: int, k_max: int) -> None:
    """Raises ``UserError`` unless ``steps`` is a power of two from 1 to ``k_max``."""
    if steps < 1 or steps > k_max or steps & (steps - 1):
        raise UserError(f"sampling steps K = {steps}: expected a power of two from 1 to k_max = {k_max}")


def sample_frame(
    dynamics: Dynamics,
    cache: TransformerCache,
    conditioning: Conditioning,
    *,
    steps: int,
    noise: Float[Tensor, "b 1 l c"],
) -> Float[Tensor, "b 1 l c"]:
    """Denoises the current frame from ``noise`` in ``steps`` = K Euler steps: ``z <- z + d (z1^ - z) / (1 - tau)``, d = 1 / K.

    Returns clean latents, standardised. The cache's clock does not move.
    """
    check_steps(steps, dynamics.config.k_max)
    stride, exponent = dynamics.config.k_max // steps, steps.bit_length() - 1
    z = noise
    for i in range(steps):
        shape = (z.shape[0], 1)
        noising = Noising(torch.full(shape, i * stride, device=z.device), torch.full(shape, exponent, device=z.device))
        clean = dynamics.step(z, noising, conditioning, cache=cache).latents
        z = z + (clean - z) / (steps - i)
    return z


def commit_frame(
    dynamics: Dynamics,
    cache: TransformerCache,
    conditioning: Conditioning,
    *,
    latents: Float[Tensor, "b 1 l c"],
    noise: Float[Tensor, "b 1 l c"],
) -> Float[Tensor, "b d"] | None:
    """Writes finished ``latents`` to the cache at the context signal and moves on; returns ``h_t`` where agent tokens were given."""
    noising = context_noising(dynamics, latents.shape[0], 1)
    noisy = corrupt(latents, noise, noising.tau(dynamics.config.k_max))
    states = dynamics.step(noisy, noising, conditioning, cache=cache).states
    cache.advance()
    return None if states is None else states[:, 0]
