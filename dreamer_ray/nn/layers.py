"""Small layers: SwiGLU, the MLP of the heads, rotary and sine position codes. RMSNorm is torch.nn.RMSNorm."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """``W2 (silu(W1 x) * W3 x)`` (Shazeer 2020, Eq. 6).

    W1 and W3 stay apart: as halves of one product they would not be contiguous, which slows the element-wise part on a CPU.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MLP(nn.Module):
    """``layers`` hidden layers of Linear, RMSNorm, SiLU and an output layer that starts at ``output_scale`` times its usual size."""

    def __init__(self, width: int, output: int, *, hidden: int, layers: int, output_scale: float = 1.0):
        super().__init__()
        sizes = [width] + [hidden] * layers
        self.hidden = nn.Sequential(*(nn.Sequential(nn.Linear(a, b, bias=False), nn.RMSNorm(b), nn.SiLU()) for a, b in pairwise(sizes)))
        self.output = nn.Linear(sizes[-1], output)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    def forward(self, x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        return self.output(self.hidden(x))

    def first(self, x: Float[Tensor, "*s d"], count: int) -> Float[Tensor, "*s k"]:
        """The first ``count`` outputs alone."""
        return F.linear(self.hidden(x), self.output.weight[:count], self.output.bias[:count])


Rotary = tuple[Float[Tensor, "*p n e/2"], Float[Tensor, "*p n e/2"]]
"""Cosines and sines of a rotary code."""


def rotary_code(positions: Int[Tensor, "*p n"], width: int, base: float = 1e4) -> Rotary:
    """Cosines and sines of ``position * base^(-2i/e)`` for a head of ``width`` e (Su et al. 2021, Eq. 15).

    Angles are computed in fp64, so that a dream of millions of frames keeps exact relative positions.
    """
    frequencies = base ** (-torch.arange(width // 2, device=positions.device, dtype=torch.float64) / (width // 2))
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x: Float[Tensor, "*s n e"], rotary: Rotary) -> Float[Tensor, "*s n e"]:
    """Turns the pairs ``(x_i, x_{i+e/2})`` by the angles of ``rotary``, which broadcasts over the leading dimensions."""
    cos, sin = rotary[0].to(x.dtype), rotary[1].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def sine_grid(rows: int, columns: int, width: int) -> Float[Tensor, "n d"]:
    """2D sine codes of the cell centres of a ``rows`` x ``columns`` grid over the unit square, row by row.

    Cells of different grids that lie at the same place of the picture have similar codes.
    """
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    yx = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    frequencies = torch.pi * torch.arange(1, width // 4 + 1)
    angles = (yx.unsqueeze(-1) * frequencies).flatten(1)
    code = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return F.pad(code, (0, width - code.shape[-1]))
