"""Figures of picture quality and the trivial predictors beside them; pictures are ``[... y x 3]`` in 0 .. 1."""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor


def psnr(pictures: Float[Tensor, "*s y x 3"], truth: Float[Tensor, "*s y x 3"]) -> float:
    """Peak signal-to-noise ratio in dB over a whole set, from the mean squared error over all its pixels."""
    error = float((pictures.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def block_averages(pictures: Float[Tensor, "*s y x 3"], numbers: int) -> Float[Tensor, "*s y x 3"]:
    """Each picture as a grid of constant blocks, the finest square grid of at most ``numbers`` values whose blocks divide the picture."""
    rows, columns = pictures.shape[-3:-1]
    cells = max(n for n in range(1, rows + 1) if rows % n == 0 and columns % n == 0 and 3 * n * n <= max(numbers, 3))
    low = reduce(pictures, "... (gy py) (gx px) k -> ... gy gx k", "mean", gy=cells, gx=cells)
    return low.repeat_interleave(rows // cells, -3).repeat_interleave(columns // cells, -2)


def changed_tiles(before: Float[Tensor, "*s y x 3"], after: Float[Tensor, "*s y x 3"], tile: int = 8) -> Bool[Tensor, "*s y x 1"]:
    """The pixels of all ``tile`` x ``tile`` squares in which any pixel differs."""
    differs = rearrange((before != after).any(-1), "... (gy py) (gx px) -> ... gy gx py px", py=tile, px=tile).flatten(-2).any(-1)
    return torch.repeat_interleave(torch.repeat_interleave(differs, tile, -2), tile, -1).unsqueeze(-1)
