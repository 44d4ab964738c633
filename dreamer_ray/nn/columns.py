"""Weights of linear layers side by side, laid out for inference: products of few rows are up to one and a half times as fast on columns."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Columns:
    """``W`` ``[d k]``: the weights of ``layers``, transposed. Where these are frozen their parameters become views of it.

    So their values and shapes stay, and what is copied into them later is seen here. Weights in training are copied, by ``refresh``.
    """

    def __init__(self, *layers: nn.Linear):
        self.layers = layers
        self._lay_out()

    def refresh(self) -> None:
        """Takes over the weights as they are now, in the same memory: recorded kernels know it by its address."""
        for layer, part in zip(self.layers, self.weights.split([layer.out_features for layer in self.layers], 1), strict=True):
            if layer.weight.data_ptr() == part.data_ptr():
                continue
            part.copy_(layer.weight.t())
            if not layer.weight.requires_grad:
                layer.weight.data = part.t()

    def product(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        """``x W``."""
        return torch.mm(x, self.weights)

    def added(self, x: Float[Tensor, "r d"], onto: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        """``onto + x W``."""
        return torch.addmm(onto, x, self.weights)

    def silu(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        """``silu(x W)``."""
        return F.silu(self.product(x), inplace=True)

    def times(self, x: Float[Tensor, "r d"], gate: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        """``gate * x W``."""
        return self.product(x).mul_(gate)

    def tensors(self) -> list[Tensor]:
        """What it holds besides the layers, while their weights are frozen."""
        return []

    def together(self) -> Float[Tensor, "k d"]:
        """The weights of the layers one below the other, as they are now."""
        return torch.cat([layer.weight.detach() for layer in self.layers])

    def _lay_out(self) -> None:
        first = self.layers[0]
        self.weights = first.weight.new_empty(first.in_features, sum(layer.out_features for layer in self.layers))
        with torch.no_grad():
            self.refresh()
