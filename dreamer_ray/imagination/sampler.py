"""One dreamed frame: K shortcut steps from noise, then a pass that commits the finished frame to the cache (Dreamer 4, section 3.2).

Where nobody waits for what the commit pass says, it is done together with the first step of the next frame: weights move once for both.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.errors import UserError
from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.dynamics import Conditioning, Dynamics, Noising, Prediction
from dreamer_ray.nn.transformer import TransformerCache
from dreamer_ray.objectives.shortcut_forcing import corrupt
from dreamer_ray.types import Batch, LatentClip


@dataclass(frozen=True)
class Pass(Batch):
    """What the dynamics is asked about one frame, or about two at once."""

    noisy: Float[Tensor, "b f l c"]
    noising: Noising
    conditioning: Conditioning

    def then(self, other: "Pass") -> "Pass":
        """The pass over this frame and the next; neither has agent tokens."""
        mine, its = self.conditioning, other.conditioning
        noising = Noising(
            torch.cat([self.noising.signal, other.noising.signal], 1), torch.cat([self.noising.exponent, other.noising.exponent], 1)
        )
        actions = {name: torch.cat([value, its.actions[name]], 1) for name, value in mine.actions.items()}
        told = Conditioning(actions, torch.cat([mine.labelled, its.labelled], 1))
        return Pass(torch.cat([self.noisy, other.noisy], 1), noising, told)

    def run(self, dynamics: Dynamics, cache: TransformerCache) -> Prediction:
        """Asks ``dynamics``."""
        return dynamics.step(self.noisy, self.noising, self.conditioning, cache=cache)


@dataclass(frozen=True)
class Sampling:
    """How frames are dreamed; may differ from frame to frame."""

    steps: int = 4
    """K, shortcut steps a frame: a power of two up to the dynamics' k_max."""
    context_signal: float | None = None
    """Signal level of finished frames in the cache, 1 - context noise; None is the dynamics' own."""
    temperature: float = 1.0
    """Of the policy's actions."""
    commit: bool = True
    """Whether a further pass writes the finished frame to the cache; without, the cache keeps what the last of the K steps wrote."""


def context_noising(dynamics: Dynamics, rows: int, frames: int, signal: float | None = None) -> Noising:
    """The (tau, d) pair of finished frames: the context signal at the finest step, a pair that training has seen.

    Raises ``UserError`` for a ``signal`` outside (0, 1).
    """
    if signal is not None and not 0 < signal < 1:
        raise UserError(f"context signal {signal}: expected a level between 0 (noise) and 1 (data)")
    shape, device = (rows, frames), dynamics.positions.device
    level, finest = dynamics.config.signal_level(signal), dynamics.config.finest
    return Noising(torch.full(shape, level, device=device), torch.full(shape, finest, device=device))


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
    before: Pass | None = None,
) -> Prediction:
    """Denoises the current frame from ``noise`` in ``steps`` = K Euler steps: ``z <- z + d (z1^ - z) / (1 - tau)``, d = 1 / K.

    Returns clean latents, standardised, and the last step's agent states where agent tokens are given; the earlier steps go without
    them. The cache's clock does not move. With ``before``, the commit pass of the frame before, the clock stands at that frame at first:
    the first step commits it too and moves the clock on; no agent tokens are given then.
    """
    check_steps(steps, dynamics.config.k_max)
    stride, exponent = dynamics.config.k_max // steps, steps.bit_length() - 1
    z, world, prediction = noise, replace(conditioning, agent=None), Prediction(noise, None)
    for i in range(steps):
        shape = (z.shape[0], 1)
        noising = Noising(torch.full(shape, i * stride, device=z.device), torch.full(shape, exponent, device=z.device))
        asked = Pass(z, noising, conditioning if i == steps - 1 else world)
        if i == 0 and before is not None:
            prediction = before.then(asked).run(dynamics, cache)
            cache.advance()
        else:
            prediction = asked.run(dynamics, cache)
        z = z + (prediction.latents[:, -1:] - z) / (steps - i)
    return Prediction(z, prediction.states)


def commit_pass(
    dynamics: Dynamics,
    conditioning: Conditioning,
    *,
    latents: Float[Tensor, "b 1 l c"],
    noise: Float[Tensor, "b 1 l c"],
    signal: float | None = None,
) -> Pass:
    """The pass that writes finished ``latents`` to the cache at the context signal."""
    noising = context_noising(dynamics, latents.shape[0], 1, signal)
    return Pass(corrupt(latents, noise, noising.tau(dynamics.config.k_max)), noising, conditioning)


def commit_frame(dynamics: Dynamics, cache: TransformerCache, committing: Pass) -> Float[Tensor, "b d"] | None:
    """Writes a finished frame to the cache and moves on; returns ``h_t`` where agent tokens were given."""
    states = committing.run(dynamics, cache).states
    cache.advance()
    return None if states is None else states[:, 0]


def prefill(
    dynamics: Dynamics,
    context: LatentClip,
    *,
    noise: Float[Tensor, "b t l c"],
    agent: Float[Tensor, "b t a d"] | None = None,
    cache: TransformerCache | None = None,
    signal: float | None = None,
) -> Float[Tensor, "b t d"] | None:
    """One pass over a context at the context signal, into a new ``cache`` where one is given; returns the agent states of all frames."""
    clean = dynamics.standardize(context.latents)
    noising = context_noising(dynamics, *clean.shape[:2], signal=signal)
    noisy = corrupt(clean, noise, noising.tau(dynamics.config.k_max))
    actions, labelled = previous_actions(context.notes.actions, context.notes.labelled)
    return dynamics(noisy, noising, Conditioning(actions, labelled, agent), cache=cache).states
