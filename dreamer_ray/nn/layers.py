"""Small layers: RMSNorm, SwiGLU, the MLP of the heads, rotary and sine position codes."""

from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-6
"""Of RMSNorm."""


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang & Sennrich 2019, Eq. 4)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
        return rms_norm(x, self.weight)


def rms_norm(x: Float[Tensor, "*s d"], weight: Float[Tensor, "*h d"]) -> Float[Tensor, "*s d"]:
    """RMSNorm whose ``weight`` broadcasts.

    On a GPU, in low precision and compiled it is PyTorch's own, which elsewhere takes longer than this.
    """
    if x.is_cuda or x.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return F.rms_norm(x, x.shape[-1:], None, EPS) * weight
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(_floor(x.shape[-1], x.dtype))
    return x.div(length).mul_(weight * x.shape[-1] ** 0.5)


@cache
def _floor(width: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor((width * EPS) ** 0.5, dtype=dtype)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` over its root mean square, and one over that."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = length.square_().div_(x.shape[-1]).add_(EPS).rsqrt_()
    return x * inverse, inverse


class _RMSNorm(torch.autograd.Function):
    """With ``u = x / rms``: ``dL/dx = (g w - u mean(g w u)) / rms`` and ``dL/dw = sum g u``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        unit, inverse = _unit(x)
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), (unit, inverse, weight) = gradients, ctx.saved_tensors
        scaled, product = gradient * weight, gradient * unit
        along = (product @ weight).unsqueeze(-1) if weight.ndim == 1 else (product * weight).sum(-1, keepdim=True)
        to_x = scaled.addcmul_(unit, along, value=-1 / unit.shape[-1]).mul_(inverse)
        return to_x, product.flatten(0, -1 - weight.ndim).sum(0)


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
        self.hidden = nn.Sequential(*(nn.Sequential(nn.Linear(a, b, bias=False), RMSNorm(b), nn.SiLU()) for a, b in pairwise(sizes)))
        self.output = nn.Linear(sizes[-1], output)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    def forward(self, x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        return self.output(self.hidden(x))

    def first(self, x: Float[Tensor, "*s d"], count: int) -> Float[Tensor, "*s k"]:
        """The first ``count`` outputs alone."""
        return F.linear(self.hidden(x), self.output.weight[:count], self.output.bias[:count])


Rotary = Float[Tensor, "*p n e/2 2"]
"""Cosines and sines of the angles of a rotary code."""


def rotary_code(positions: Int[Tensor, "*p n"], width: int, base: float = 1e4) -> Rotary:
    """Angles ``position * base^(-2j/e)`` for the pairs j of a head of ``width`` e (Su et al. 2021, Eq. 15).

    Angles are computed in fp64, so that a dream of millions of frames keeps exact relative positions.
    """
    frequencies = base ** (-torch.arange(width // 2, device=positions.device, dtype=torch.float64) / (width // 2))
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def rotate(x: Float[Tensor, "*s e"], rotary: Rotary) -> Float[Tensor, "*s e"]:
    """Turns the pairs ``(x_2j, x_2j+1)`` by the angles of ``rotary``, which broadcasts over the leading dimensions."""
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary.to(x.dtype)))
    else:  # there are no complex numbers of lower precision, and no compiled ones
        exact = torch.promote_types(x.dtype, torch.float32)
        (a, b), (cos, sin) = pairs.to(exact).unbind(-1), rotary.to(exact).unbind(-1)
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
    return turned.flatten(-2)


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
