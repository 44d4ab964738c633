"""Multi-token prediction of actions and rewards (Dreamer 4, Eq. 9): ``h_t`` predicts frames t .. t+L."""

import torch
from jaxtyping import Bool
from torch import Tensor


def future(values: Tensor, distances: int) -> Tensor:
    """``[b t ...] -> [b t n ...]`` with entry ``(t, n)`` = ``values[t + n]``; beyond the end the last frame stands in (see ``in_clip``)."""
    frames = values.shape[1]
    index = (torch.arange(frames).unsqueeze(1) + torch.arange(distances)).clamp(max=frames - 1)
    return values[:, index.to(values.device)]


def in_clip(frames: int, distances: int, device: torch.device | str = "cpu") -> Bool[Tensor, "t n"]:
    """Whether frame ``t + n`` still lies in the clip."""
    return (torch.arange(frames, device=device).unsqueeze(1) + torch.arange(distances, device=device)) < frames
