"""What the heads put out: a factored distribution over an action space, and the two-hot distribution over real numbers."""

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.numerics import twohot_encode, twohot_mean
from dreamer_ray.types import ActionComponent, Actions, ActionSpace, Binary, Categorical


def parameter_count(space: ActionSpace) -> int:
    """Numbers that a policy puts out for one action."""
    return sum(_width(component) for component in space.values())


def _width(component: ActionComponent) -> int:
    return component.size if isinstance(component, Binary | Categorical) else 2 * component.size


def draw_count(space: ActionSpace) -> int:
    """Uniform numbers that decide one action."""
    return sum(_draws(component) for component in space.values())


def _draws(component: ActionComponent) -> int:
    return 1 if isinstance(component, Categorical) else component.size


class ActionDistribution:
    """Independent components: Bernoulli keys, Categorical choices, Normal vectors. Log-probabilities and KL are sums over them (nats)."""

    def __init__(self, space: ActionSpace, parameters: Float[Tensor, "*s k"]):
        self.space = space
        self.components: dict[str, td.Distribution] = {}
        sizes = [_width(component) for component in space.values()]
        for (name, component), part in zip(space.items(), parameters.float().split(sizes, dim=-1), strict=True):
            if isinstance(component, Binary):
                self.components[name] = td.Independent(td.Bernoulli(logits=part, validate_args=False), 1, validate_args=False)
            elif isinstance(component, Categorical):
                self.components[name] = td.Categorical(logits=part, validate_args=False)
            else:
                mean, spread = part.chunk(2, dim=-1)
                scale = torch.nn.functional.softplus(spread + 0.5) + 0.01
                self.components[name] = td.Independent(td.Normal(mean, scale, validate_args=False), 1, validate_args=False)

    def log_prob(self, actions: Actions) -> Float[Tensor, "*s"]:
        """``ln pi(a)``."""
        return torch.stack([self.components[n].log_prob(actions[n].to(torch.float32)) for n in self.space]).sum(0)

    def kl(self, other: "ActionDistribution") -> Float[Tensor, "*s"]:
        """``KL[self || other]``."""
        return torch.stack([td.kl_divergence(self.components[n], other.components[n]) for n in self.space]).sum(0)

    def entropy(self) -> Float[Tensor, "*s"]:
        """In nats."""
        return torch.stack([self.components[name].entropy() for name in self.space]).sum(0)

    def sample(self, uniform: Float[Tensor, "*s u"], temperature: float | Tensor = 1.0) -> Actions:
        """The actions that ``draw_count(space)`` numbers, uniform over [0, 1), decide, by the inverse of each component's distribution.

        Logits are divided and deviations multiplied by ``temperature``; so equal numbers give equal actions on any device and row.
        """
        sizes = [_draws(component) for component in self.space.values()]
        parts = zip(self.space.items(), uniform.split(sizes, dim=-1), strict=True)
        return {name: self._draw(component, self.components[name], part, temperature) for (name, component), part in parts}

    @staticmethod
    def _draw(component: ActionComponent, distribution: td.Distribution, uniform: Tensor, temperature: float | Tensor) -> Tensor:
        if isinstance(component, Binary):
            base = distribution.base_dist  # pyright: ignore[reportAttributeAccessIssue]
            return (uniform < torch.sigmoid(base.logits / temperature)).float()
        if isinstance(component, Categorical):
            logits = distribution.logits  # pyright: ignore[reportAttributeAccessIssue]
            below = (logits / temperature).softmax(-1).cumsum(-1)[..., :-1]
            return (uniform >= below).sum(-1)
        return distribution.mean + temperature * distribution.stddev * torch.special.ndtri(uniform.clamp(min=1e-7))


class TwoHot:
    """A categorical distribution over mirrored bins that stands for a real number."""

    def __init__(self, logits: Float[Tensor, "*s k"], bins: Float[Tensor, "k"]):
        self.logits, self.bins = logits.float(), bins

    @property
    def mean(self) -> Float[Tensor, "*s"]:
        """The expectation."""
        return twohot_mean(self.logits.softmax(-1), self.bins)

    def cross_entropy(self, target: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """``- sum_k twohot(target)_k ln p_k`` in nats."""
        return -(twohot_encode(target, self.bins) * self.logits.log_softmax(-1)).sum(-1)
