"""Masked autoencoding (Dreamer 4, Eq. 5): which patches are hidden, and the squared error of the pictures."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def draw_mask(shape: tuple[int, int, int], mask_max: float, generator: torch.Generator) -> Bool[Tensor, "b t p"]:
    """For each of ``b t`` pictures draws ``p ~ U(0, mask_max)`` and hides each of its patches with probability p."""
    chance = torch.rand(shape[0], shape[1], 1, generator=generator) * mask_max
    return torch.rand(shape, generator=generator) < chance


def squared_error(decoded: Float[Tensor, "b t y x 3"], frames: Float[Tensor, "b t y x 3"]) -> Float[Tensor, "b t"]:
    """Mean squared error of each picture, over all pixels, hidden or not."""
    return (decoded.float() - frames).square().mean((-1, -2, -3))
