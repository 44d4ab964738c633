"""Phase 1b: the dynamics by shortcut forcing on latents (Dreamer 4, section 3.2)."""

import torch

from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.numerics import masked_mean
from dreamer_ray.objectives.shortcut_forcing import shortcut_forcing
from dreamer_ray.phases.forcing import ForcingConfig, force, teacher_weights
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import LatentClip, Loss


class DynamicsPretraining(Phase):
    """Trains ``dynamics`` on batches of ``LatentClip``; labelled and unlabelled frames may mix."""

    def __init__(self, dynamics: Dynamics, config: ForcingConfig):
        super().__init__({"shortcut": 1.0})
        self.dynamics, self.config = dynamics, config

    def forward(self, batch: LatentClip, *, generator: torch.Generator, progress: float) -> Loss:
        forced = force(self.dynamics, batch, self.config, generator=generator, progress=progress)
        target = forced.target(self.dynamics, teacher_weights(self.config, self.average, "dynamics."))
        prediction = self.dynamics(forced.noisy, forced.noising, forced.conditioning).latents
        tau = forced.noising.tau(self.dynamics.config.k_max)
        return self.weigh(
            {"shortcut": masked_mean(shortcut_forcing(prediction, target, tau, self.config.weighting))},
            clean_mse=(prediction.detach() - forced.clean).square().mean(),
        )
