"""Figures of picture quality and the trivial predictors beside them; pictures are ``[... y x 3]`` in 0 .. 1."""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, pad


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
    """Each picture as a grid of constant blocks: of the grids of at most ``numbers`` values whose blocks divide it, the best.

    Their blocks are as square as they can be. The finest are not always the best: blocks that cut through a game's tiles lose more.
    """
    rows, columns = pictures.shape[-3:-1]
    across = [m for m in range(1, columns + 1) if columns % m == 0]
    grids = [(n, min(across, key=lambda m: abs(m * rows - n * columns))) for n in range(1, rows + 1) if rows % n == 0]
    grids = [(n, m) for n, m in grids if 3 * n * m <= max(numbers, 3)] or [(1, 1)]

    def blocks(down: int, along: int) -> Tensor:
        low = reduce(pictures, "... (gy py) (gx px) k -> ... gy gx k", "mean", gy=down, gx=along)
        return low.repeat_interleave(rows // down, -3).repeat_interleave(columns // along, -2)

    return min((blocks(*grid) for grid in grids), key=lambda found: float((found - pictures).square().mean()))


def changed_tiles(before: Float[Tensor, "*s y x 3"], after: Float[Tensor, "*s y x 3"], tile: int) -> Bool[Tensor, "*s y x 1"]:
    """The pixels of all ``tile`` x ``tile`` squares, smaller at the right and at the bottom, in which any pixel differs."""
    rows, columns = before.shape[-3:-1]
    pixels = pad((before != after).any(-1), (0, -columns % tile, 0, -rows % tile))
    differs = rearrange(pixels, "... (gy py) (gx px) -> ... gy gx py px", py=tile, px=tile).flatten(-2).any(-1)
    squares = torch.repeat_interleave(torch.repeat_interleave(differs, tile, -2), tile, -1)
    return squares[..., :rows, :columns].unsqueeze(-1)
