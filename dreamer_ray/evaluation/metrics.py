"""Figures of picture quality and the trivial predictors beside them; pictures are ``[... y x 3]`` in 0 .. 1."""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d


def psnr(pictures: Float[Tensor, "*s y x 3"], truth: Float[Tensor, "*s y x 3"]) -> float:
    """Peak signal-to-noise ratio in dB over a whole set, from the mean squared error over all its pixels."""
    error = float((pictures.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(pictures: Float[Tensor, "b y x 3"], truth: Float[Tensor, "b y x 3"]) -> float:
    """Mean structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, inside the picture; 1 for equal ones.

    Raises ``ValueError`` for pictures smaller than the window.
    """
    if min(truth.shape[1:3]) < 11:
        raise ValueError(f"pictures of {truth.shape[1]} x {truth.shape[2]} pixels: structural similarity needs 11 x 11")
    line = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = (line.outer(line) / line.sum() ** 2).to(truth.device)

    def local_mean(values: Tensor) -> Tensor:
        return conv2d(rearrange(values, "b y x c -> (b c) 1 y x"), window[None, None])

    a, b = pictures.double(), truth.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    variance = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variance + c2))
    return float(similarity.mean())


def block_averages(pictures: Float[Tensor, "*s y x 3"], numbers: int) -> Float[Tensor, "*s y x 3"]:
    """Each picture as a grid of constant blocks: of the square grids of at most ``numbers`` values whose blocks divide it, the best.

    That is not always the finest: blocks that cut through a game's tiles lose more.
    """
    rows, columns = pictures.shape[-3:-1]
    grids = [n for n in range(1, rows + 1) if rows % n == 0 and columns % n == 0 and 3 * n * n <= max(numbers, 3)]

    def blocks(cells: int) -> Tensor:
        low = reduce(pictures, "... (gy py) (gx px) k -> ... gy gx k", "mean", gy=cells, gx=cells)
        return low.repeat_interleave(rows // cells, -3).repeat_interleave(columns // cells, -2)

    return min((blocks(cells) for cells in grids), key=lambda found: float((found - pictures).square().mean()))


def changed_tiles(before: Float[Tensor, "*s y x 3"], after: Float[Tensor, "*s y x 3"], tile: int) -> Bool[Tensor, "*s y x 1"]:
    """The pixels of all ``tile`` x ``tile`` squares in which any pixel differs."""
    differs = rearrange((before != after).any(-1), "... (gy py) (gx px) -> ... gy gx py px", py=tile, px=tile).flatten(-2).any(-1)
    return torch.repeat_interleave(torch.repeat_interleave(differs, tile, -2), tile, -1).unsqueeze(-1)
