"""Matrix products of eight-bit numbers for inference: E4M3 of Micikevicius et al. 2022 (arXiv:2209.05433), Table 1.

Each column of the weights has a scale, and each row of what they are multiplied with, found on the way: its largest number becomes the
largest of the format.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import ScalingType

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
MULTIPLE = 16
"""Of which both sides of the weights are multiples, as the kernels of GPUs want them."""


class Float8Matrix:
    """Weights ``[d k]``. They stay in the same memory when others are taken in."""

    def __init__(self, rows: int, columns: int, device: torch.device):
        if rows % MULTIPLE or columns % MULTIPLE:
            raise ValueError(f"Float8Matrix: {rows} x {columns}: both sides must be multiples of {MULTIPLE}")
        self.values = torch.zeros(columns, rows, dtype=E4M3, device=device).t()  # the kernels read columns
        self.scales = torch.ones(1, columns, device=device)

    def copy_(self, weights: Float[Tensor, "d k"]) -> None:
        """Takes in ``weights``, rounded."""
        values, scales = _scaled(weights.t())
        self.values.copy_(values.t())
        self.scales.copy_(scales.t())

    def product(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        """``x @ weights`` with ``x`` rounded to eight bits too, sums in fp32, the result in bf16."""
        values, scales = _scaled(x)
        return F.scaled_mm(values, self.values, scales, ScalingType.RowWise, self.scales, ScalingType.RowWise)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """What it holds."""
        return self.values, self.scales


def _scaled(x: Float[Tensor, "r d"]) -> tuple[Tensor, Float[Tensor, "r 1"]]:
    """Eight-bit numbers and a scale for each row, whose product is ``x``."""
    scales = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x / scales).to(E4M3), scales
