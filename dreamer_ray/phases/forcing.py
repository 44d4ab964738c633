"""What dynamics pretraining and agent finetuning share: noisy sequences and their targets for shortcut forcing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError
from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.dynamics import Conditioning, Dynamics, Noising
from dreamer_ray.numerics import world_size
from dreamer_ray.objectives.optimal_transport import optimal_pairing
from dreamer_ray.objectives.shortcut_forcing import Weighting, bootstrap_target, corrupt, draw_noising
from dreamer_ray.types import LatentClip


class ForcingConfig(Config):
    """How batches are noised, by whom coarse steps are taught, and what errors weigh."""

    bootstrap_fraction: float = Field(default=0.25, ge=0, le=1)
    """Share of rows whose frames draw coarse steps; the others are at d_min."""
    bootstrap_after: float = Field(default=0.25, ge=0, le=1)
    """Share of the steps that is flow only."""
    image_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of rows treated as separate pictures."""
    weighting: Weighting = "ramp"
    """Of a frame's error by its signal: ``0.9 tau + 0.1`` (paper), or as if velocities were compared, ``1 / (1 - tau)^2``."""
    pairing: Literal["independent", "optimal_transport"] = "independent"
    """Which noise goes to which row: any (paper), or all as near to their latents as can be."""
    teacher: Literal["self", "ema"] = "self"
    """Whose two half steps are the target of a coarse one: those of the weights (paper), or of their moving average (``fit.ema``)."""


def teacher_weights(config: ForcingConfig, average: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    """The weights of the teacher: None for those of the dynamics itself, else those in ``average`` whose names begin with ``prefix``.

    Raises ``UserError`` where an average is wanted and none is kept.
    """
    if config.teacher == "self":
        return None
    if not average:
        raise UserError("forcing.teacher = ema: no moving average is at hand; set fit.ema above 0 and cluster.tuning.sharded = false")
    return {name.removeprefix(prefix): value for name, value in average.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Forced:
    """A noisy batch, ready for the student's pass."""

    clean: Float[Tensor, "b t l c"]
    noisy: Float[Tensor, "b t l c"]
    noising: Noising
    conditioning: Conditioning
    bootstrap: Bool[Tensor, "b"]
    led: bool = True
    """Whether there are bootstrap rows at this step, perhaps on other ranks only."""

    def target(self, dynamics: Dynamics, teacher: dict[str, Tensor] | None = None) -> Float[Tensor, "b t l c"]:
        """Clean latents for frames at d_min; for coarser frames of bootstrap rows where two half steps of ``dynamics`` lead.

        These are made with the weights ``teacher`` in the place of those of the same name. A rank without such rows passes as often
        as the others, who may wait for its share of the weights.
        """
        rows = self.bootstrap.nonzero().squeeze(1)
        if len(rows) == 0 and self.led and world_size() > 1:
            rows = rows.new_zeros(1)
        if len(rows) == 0:
            return self.clean
        noising, conditioning = self.noising.rows(rows), self.conditioning.rows(rows)

        def predict(noisy: Tensor, signal: Tensor, exponent: Tensor) -> Tensor:
            given = noisy, Noising(signal, exponent), conditioning
            return (dynamics(*given) if teacher is None else functional_call(dynamics, teacher, given)).latents

        led = bootstrap_target(predict, self.noisy[rows], noising.signal, noising.exponent, dynamics.config.k_max)
        stays = (noising.exponent == dynamics.config.finest) | ~self.bootstrap[rows].unsqueeze(1)
        return self.clean.index_copy(0, rows, torch.where(stays[..., None, None], self.clean[rows], led))


def force(dynamics: Dynamics, batch: LatentClip, config: ForcingConfig, *, generator: torch.Generator, progress: float) -> Forced:
    """Draws separate pictures, bootstrap rows, noise levels and noise for a batch."""
    clean = dynamics.standardize(batch.latents)
    rows, frames, device = *clean.shape[:2], clean.device
    images = _some_rows(rows, config.image_fraction, generator)
    share = config.bootstrap_fraction if progress >= config.bootstrap_after else 0.0
    bootstrap = _some_rows(rows, share, generator)
    signal, exponent = draw_noising(rows, frames, dynamics.config.k_max, bootstrap=bootstrap, generator=generator)
    noising = Noising(signal.to(device), exponent.to(device))
    noise = torch.randn(clean.shape, generator=generator).to(device)
    if config.pairing == "optimal_transport":
        noise = optimal_pairing(noise, clean)
    noisy = corrupt(clean, noise, noising.tau(dynamics.config.k_max))
    images = images.to(device)
    actions, labelled = previous_actions(batch.notes.actions, batch.notes.labelled)
    conditioning = Conditioning(actions, labelled & ~images.unsqueeze(1), images=images)
    return Forced(clean, noisy, noising, conditioning, bootstrap.to(device), led=share > 0)


def with_signal(forced: Forced, rows: Bool[Tensor, "b"], noising: Noising, k_max: int, generator: torch.Generator) -> Forced:
    """The same batch with the signal of ``rows`` replaced by that of ``noising`` and no bootstrap there."""
    pick = rows.unsqueeze(1)
    mixed = Noising(torch.where(pick, noising.signal, forced.noising.signal), torch.where(pick, noising.exponent, forced.noising.exponent))
    noise = torch.randn(forced.clean.shape, generator=generator).to(forced.clean.device)
    noisy = torch.where(pick[..., None, None], corrupt(forced.clean, noise, mixed.tau(k_max)), forced.noisy)
    return replace(forced, noisy=noisy, noising=mixed, bootstrap=forced.bootstrap & ~rows)


def _some_rows(rows: int, share: float, generator: torch.Generator) -> Bool[Tensor, "b"]:
    """``share * rows`` rows, a remainder rounded at random, so that small batches have the share on average."""
    count = int(share * rows + torch.rand((), generator=generator, dtype=torch.float64))
    chosen = torch.zeros(rows, dtype=torch.bool)
    chosen[torch.randperm(rows, generator=generator)[:count]] = True
    return chosen
