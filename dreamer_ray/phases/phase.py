"""What every phase is: a module whose call turns a batch into a loss, so that data parallelism can wrap it from outside."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreamer_ray.numerics import RunningRMS
from dreamer_ray.types import Loss


class Phase(nn.Module):
    """Parameters that require gradients are trained; buffers and the rest travel in the checkpoint.

    ``weights`` names the loss terms; those that are ``normalized`` (None is all) are divided by their running RMS before.
    """

    def __init__(self, weights: Mapping[str, float], *, normalized: Collection[str] | None = None):
        super().__init__()
        self.weights = dict(weights)
        names = list(self.weights if normalized is None else normalized)
        self.rms = RunningRMS(names) if names else None
        self.average: Mapping[str, Tensor] = {}
        """The moving averages of the trained weights by name, where whoever trains the phase keeps any."""

    def forward(self, batch: Any, *, generator: torch.Generator, progress: float) -> Loss:
        """The loss of one batch. ``generator`` (on the CPU) gives all draws, ``progress`` in [0, 1) is the share of steps done."""
        raise TypeError(f"{type(self).__name__} is a phase without a loss")

    def updated(self) -> None:
        """Called on every rank after every update of the weights: what follows them by itself moves here."""

    def weigh(self, terms: Mapping[str, Tensor], **figures: Tensor) -> Loss:
        """The weighted sum of scalar ``terms``, whose names must be those of the weights; ``figures`` only go to the log."""
        if set(terms) != set(self.weights):
            raise ValueError(f"{type(self).__name__}: loss terms {sorted(terms)}, weights {sorted(self.weights)}")
        scaled = dict(terms) if self.rms is None else dict(terms) | self.rms({name: terms[name] for name in self.rms.names})
        total = torch.stack([self.weights[name] * scaled[name] for name in self.weights]).sum()
        return Loss(total, {name: value.detach() for name, value in (dict(terms) | figures).items()})
