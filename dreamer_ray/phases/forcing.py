"""What dynamics pretraining and agent finetuning share: noisy sequences and their targets for shortcut forcing."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dreamer_ray.config import Config
from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.dynamics import Conditioning, Dynamics, Noising
from dreamer_ray.numerics import world_size
from dreamer_ray.objectives.shortcut_forcing import bootstrap_target, corrupt, draw_noising
from dreamer_ray.types import LatentClip


class ForcingConfig(Config):
    """How batches are noised."""

    bootstrap_fraction: float = Field(default=0.25, ge=0, le=1)
    """Share of rows whose frames draw coarse steps; the others are at d_min."""
    bootstrap_after: float = Field(default=0.25, ge=0, le=1)
    """Share of the steps that is flow only."""
    image_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of rows treated as separate pictures."""


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

    def target(self, dynamics: Dynamics) -> Float[Tensor, "b t l c"]:
        """Clean latents for frames at d_min; for coarser frames of bootstrap rows where two half steps of ``dynamics`` lead.

        A rank without such rows passes as often as the others, who may wait for its share of the weights.
        """
        rows = self.bootstrap.nonzero().squeeze(1)
        if len(rows) == 0 and self.led and world_size() > 1:
            rows = rows.new_zeros(1)
        if len(rows) == 0:
            return self.clean
        noising, conditioning = self.noising.rows(rows), self.conditioning.rows(rows)

        def predict(noisy: Tensor, signal: Tensor, exponent: Tensor) -> Tensor:
            return dynamics(noisy, Noising(signal, exponent), conditioning).latents

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
