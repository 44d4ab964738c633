"""Embedding of actions: each component on its own, summed, on top of a learned base that stands alone where there is no label."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer_ray.types import Actions, ActionSpace, Binary, Categorical


class ActionEmbedding(nn.Module):
    """``tokens`` action tokens a frame (Dreamer 4, section 3.2): binary and categorical by lookup, continuous by a linear map."""

    def __init__(self, space: ActionSpace, *, tokens: int, width: int):
        super().__init__()
        self.space, self.tokens = space, tokens
        self.base = nn.Parameter(torch.randn(tokens, width) * 0.02)
        size = tokens * width
        # A list in the order of the space: names such as "keys" or "arm.x" are not allowed in a ModuleDict.
        self.components = nn.ModuleList()
        for component in space.values():
            if isinstance(component, Categorical):
                self.components.append(nn.Embedding(component.size, size))
            elif isinstance(component, Binary):
                self.components.append(nn.Embedding(2 * component.size, size))
            else:
                self.components.append(nn.Linear(component.size, size))

    def forward(self, actions: Actions, labelled: Bool[Tensor, "b t"]) -> Float[Tensor, "b t s d"]:
        """Tokens of each frame; the base alone where not ``labelled``, everywhere where there are no actions."""
        if not self.space:
            return self.base.expand(*labelled.shape, -1, -1)
        total = torch.zeros((), device=self.base.device)
        for (name, component), module in zip(self.space.items(), self.components, strict=True):
            value = actions[name]
            if isinstance(component, Binary):
                rows = value.long() + 2 * torch.arange(component.size, device=value.device)
                total = total + module(rows).sum(-2)
            else:
                total = total + module(value.long() if isinstance(component, Categorical) else value.to(self.base.dtype))
        tokens = total.unflatten(-1, (self.tokens, -1))
        return self.base + torch.where(labelled[..., None, None], tokens, torch.zeros_like(tokens))


def previous_actions(actions: Actions, labelled: Bool[Tensor, "b t"]) -> tuple[Actions, Bool[Tensor, "b t"]]:
    """Shifts by one frame: entry t holds ``a_{t-1}``, the action that led to ``o_t``; entry 0 is not labelled.

    So the agent state ``h_t``, which predicts ``a_t``, never sees it.
    """
    shifted = {name: torch.cat([torch.zeros_like(value[:, :1]), value[:, :-1]], dim=1) for name, value in actions.items()}
    return shifted, torch.cat([torch.zeros_like(labelled[:, :1]), labelled[:, :-1]], dim=1)


def no_actions(space: ActionSpace, rows: int, device: torch.device | str = "cpu") -> Actions:
    """Zeros ``[b ...]`` in the shapes and types of actions, for frames that none led to."""
    return {
        name: torch.zeros(rows, dtype=torch.long, device=device)
        if isinstance(component, Categorical)
        else torch.zeros(rows, component.size, device=device)
        for name, component in space.items()
    }
