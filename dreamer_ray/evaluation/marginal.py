"""What is known of recorded actions without seeing anything: how often each choice and key occurs, and where each axis lies."""

import torch
from jaxtyping import Bool
from torch import Tensor

from dreamer_ray.types import ActionComponent, Actions, ActionSpace, Binary, Categorical

LEAST_DEVIATION = 0.01
"""As the policy's own."""


class Marginal:
    """A predictor that gives all frames the same distribution: components, keys and axes are independent of each other."""

    def __init__(self, space: ActionSpace, actions: Actions, known: Bool[Tensor, "b t"]):
        self.space = space
        self._found = {name: _fit(component, actions[name][known]) for name, component in space.items()}

    def log_prob(self, actions: Actions) -> dict[str, Tensor]:
        """``ln p(a)`` in nats, ``[b t]``, of each component."""
        return {name: _log_prob(component, self._found[name], actions[name]) for name, component in self.space.items()}

    def shares(self, name: str) -> Tensor:
        """Of each choice, or of the frames in which each key is held; not of a continuous component."""
        return self._found[name].exp()


def _fit(component: ActionComponent, values: Tensor) -> Tensor:
    """Logarithms of probabilities, each choice and each state of a key counted once more than it occurred; or means and deviations."""
    if isinstance(component, Categorical):
        counts = torch.bincount(values.long(), minlength=component.size).float()
        return ((counts + 1) / (counts + 1).sum()).log()
    if isinstance(component, Binary):
        return ((values.float().sum(0) + 1) / (len(values) + 2)).log()
    return torch.stack([values.float().mean(0), values.float().std(0, correction=0).clamp(min=LEAST_DEVIATION)])


def _log_prob(component: ActionComponent, found: Tensor, values: Tensor) -> Tensor:
    if isinstance(component, Categorical):
        return found[values.long()]
    if isinstance(component, Binary):
        return torch.where(values > 0, found, torch.log1p(-found.exp())).sum(-1)
    return torch.distributions.Normal(*found, validate_args=False).log_prob(values.float()).sum(-1)
