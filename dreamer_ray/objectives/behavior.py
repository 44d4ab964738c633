"""Multi-token prediction of actions and rewards (Dreamer 4, Eq. 9): ``h_t`` predicts frames t .. t+L."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from dreamer_ray.types import Actions


def future(values: Tensor, distances: int) -> Tensor:
    """``[b t ...] -> [b t n ...]`` with entry ``(t, n)`` = ``values[t + n]``; beyond the end the last frame stands in (see ``in_clip``)."""
    frames = values.shape[1]
    index = (torch.arange(frames).unsqueeze(1) + torch.arange(distances)).clamp(max=frames - 1)
    return values[:, index.to(values.device)]


def in_clip(frames: int, distances: int, device: torch.device | str = "cpu") -> Bool[Tensor, "t n"]:
    """Whether frame ``t + n`` still lies in the clip."""
    return (torch.arange(frames, device=device).unsqueeze(1) + torch.arange(distances, device=device)) < frames


def does_nothing(actions: Actions, null: Mapping[str, int]) -> Bool[Tensor, "*s"]:
    """Whether no key of ``actions`` is held and each choice is the one that ``null`` says does nothing."""
    parts = [actions[name] == choice for name, choice in null.items()]
    parts += [(held == 0).all(-1) for name, held in actions.items() if name not in null]
    return torch.stack(parts).all(0)
