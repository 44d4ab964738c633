"""Weights packed for oneDNN: its products of few rows on a CPU take about two thirds of the time of others, and end with what follows.

The operators are those that PyTorch's compiler starts for frozen models; they have no public names.
"""
# ruff: noqa: SLF001

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.nn.columns import Columns


class PackedColumns(Columns):
    """``Columns`` of fp32 in an order of oneDNN's own, beside the layers' weights."""

    @staticmethod
    def serves(weight: Tensor) -> bool:
        """Whether there is such an order for weights like this one."""
        there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        return there and weight.device.type == "cpu" and weight.dtype == torch.float32

    def refresh(self) -> None:
        """Packs the weights where they have changed."""
        state = [(layer.weight.data_ptr(), layer.weight._version) for layer in self.layers]
        if state != self._state:
            self._packed, self._state = torch.ops.mkldnn._reorder_linear_weight(self.together()), state

    def product(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    def added(self, x: Float[Tensor, "r d"], onto: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        return torch.ops.mkldnn._linear_pointwise.binary(x, onto, self._packed, None, "add")

    def silu(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "swish", [], "")

    def times(self, x: Float[Tensor, "r d"], gate: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        return torch.ops.mkldnn._linear_pointwise.binary(x, gate, self._packed, None, "mul")

    def tensors(self) -> list[Tensor]:
        return [self._packed]

    def _lay_out(self) -> None:
        self._state: list[tuple[int, int]] = []
        self.refresh()
