"""Matrix products of eight-bit numbers for inference: E4M3 of Micikevicius et al. 2022 (arXiv:2209.05433), Table 1.

Each column of the weights has a scale, and each row of what they are multiplied with, found on the way: its largest number becomes the
largest of the format.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import ScalingType

from dreamer_ray.nn.columns import Columns

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
MULTIPLE = 16
"""Of which both sides of the weights are multiples, as the kernels of GPUs want them."""


class Float8Columns(Columns):
    """``Columns`` rounded to eight bits, beside the layers' weights. Raises ``ValueError`` for sides that kernels do not take."""

    def refresh(self) -> None:
        values, scales = _scaled(self.together())
        self.values.copy_(values.t())
        self.scales.copy_(scales.t())

    def product(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        """``x W`` with ``x`` rounded to eight bits too; sums are fp32."""
        values, scales = _scaled(x)
        return F.scaled_mm(values, self.values, scales, ScalingType.RowWise, self.scales, ScalingType.RowWise).to(x.dtype)

    def added(self, x: Float[Tensor, "r d"], onto: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        return onto + self.product(x)

    def tensors(self) -> list[Tensor]:
        return [self.values, self.scales]

    def _lay_out(self) -> None:
        rows, columns = self.layers[0].in_features, sum(layer.out_features for layer in self.layers)
        if rows % MULTIPLE or columns % MULTIPLE:
            raise ValueError(f"Float8Columns: {rows} x {columns}: both sides must be multiples of {MULTIPLE}")
        device = self.layers[0].weight.device
        self.values = torch.zeros(columns, rows, dtype=E4M3, device=device).t()  # the kernels read columns
        self.scales = torch.ones(1, columns, device=device)
        self.refresh()


def _scaled(x: Float[Tensor, "r d"]) -> tuple[Tensor, Float[Tensor, "r 1"]]:
    """Eight-bit numbers and a scale for each row, whose product is ``x``."""
    scales = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x / scales).to(E4M3), scales
