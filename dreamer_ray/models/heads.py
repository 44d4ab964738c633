"""Heads on the agent states: policy and reward with one output layer per prediction distance, continue, value."""

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from dreamer_ray.config import Config
from dreamer_ray.models.distributions import ActionDistribution, TwoHot, parameter_count
from dreamer_ray.nn.layers import MLP
from dreamer_ray.numerics import symexp_bins, symlog
from dreamer_ray.types import ActionSpace


class HeadsConfig(Config):
    """Sizes of the heads."""

    hidden: int = Field(default=512, gt=0)
    layers: int = Field(default=2, ge=0)
    distance: int = Field(default=8, ge=0)
    """L: heads predict the actions and rewards of frames t .. t+L (Dreamer 4, Eq. 9)."""
    bins: int = Field(default=255, gt=2)
    """Two-hot bins of rewards and values, evenly spaced in symlog; odd."""

    @field_validator("bins")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that one bin is exactly 0")
        return value


class PolicyHead(nn.Module):
    """``pi_n(a_{t+n} | h_t)`` for n = 0 .. L; acting, PMPO and the KL use n = 0."""

    def __init__(self, config: HeadsConfig, width: int, space: ActionSpace):
        super().__init__()
        self.space, self.distances = space, config.distance + 1
        outputs = parameter_count(space) * self.distances
        self.net = MLP(width, outputs, hidden=config.hidden, layers=config.layers, output_scale=0.1)

    def forward(self, states: Float[Tensor, "*s d"]) -> ActionDistribution:
        """Distributions with leading dimensions ``[*s n]``."""
        return ActionDistribution(self.space, self.net(states).unflatten(-1, (self.distances, -1)))

    def now(self, states: Float[Tensor, "*s d"]) -> ActionDistribution:
        """``pi_0(a_t | h_t)`` with leading dimensions ``[*s]``."""
        return ActionDistribution(self.space, self.net.first(states, parameter_count(self.space)))


class _TwoHotHead(nn.Module):
    """Starts at a mean of 0 with most probability near 0, where nearly all rewards and returns lie."""

    bins: Tensor

    def __init__(self, config: HeadsConfig, width: int, outputs: int):
        super().__init__()
        self.outputs = outputs
        self.net = MLP(width, config.bins * outputs, hidden=config.hidden, layers=config.layers, output_scale=0.0)
        self.register_buffer("bins", symexp_bins(config.bins), persistent=False)
        with torch.no_grad():
            self.net.output.bias.copy_((-2 * symlog(self.bins).abs()).repeat(outputs))

    def _read(self, states: Tensor) -> Tensor:
        return self.net(states).unflatten(-1, (self.outputs, -1))


class RewardHead(_TwoHotHead):
    """``p_n(r_{t+n} | h_t)`` for n = 0 .. L, symexp two-hot, starting at a mean of 0."""

    def __init__(self, config: HeadsConfig, width: int):
        super().__init__(config, width, config.distance + 1)

    def forward(self, states: Float[Tensor, "*s d"]) -> TwoHot:
        """Distributions with leading dimensions ``[*s n]``."""
        return TwoHot(self._read(states), self.bins)

    def now(self, states: Float[Tensor, "*s d"]) -> TwoHot:
        """``p_0(r_t | h_t)`` with leading dimensions ``[*s]``."""
        return TwoHot(self.net.first(states, len(self.bins)), self.bins)


class ValueHead(_TwoHotHead):
    """``v(h_t)``, the expected lambda-return, symexp two-hot, starting at 0 (Dreamer 4, section 3.4)."""

    def __init__(self, config: HeadsConfig, width: int):
        super().__init__(config, width, 1)

    def forward(self, states: Float[Tensor, "*s d"]) -> TwoHot:
        """Distributions with leading dimensions ``[*s]``."""
        return TwoHot(self._read(states)[..., 0, :], self.bins)


class ContinueHead(nn.Module):
    """Logit of ``c_t``: whether the episode goes on at ``o_t``. Starts near 'goes on'."""

    def __init__(self, config: HeadsConfig, width: int):
        super().__init__()
        self.net = MLP(width, 1, hidden=config.hidden, layers=config.layers, output_scale=0.0)
        nn.init.constant_(self.net.output.bias, 4.0)

    def forward(self, states: Float[Tensor, "*s d"]) -> Float[Tensor, "*s"]:
        return self.net(states).squeeze(-1)

    def probability(self, states: Float[Tensor, "*s d"]) -> Float[Tensor, "*s"]:
        """Probability in (0, 1) that the episode goes on."""
        return torch.sigmoid(self(states).float())
