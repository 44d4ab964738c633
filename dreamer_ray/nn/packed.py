"""Weights packed for oneDNN: its products of few rows on a CPU take about two thirds of the time of others, and end with what follows.

The operators are those that PyTorch's compiler starts for frozen models; they have no public names. Compiled code cannot hold tensors in
such an order: it knows them by a number, through an operator of ours.
"""
# ruff: noqa: SLF001

from itertools import count
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.nn.columns import Columns

_numbers = count()
_numbered: "WeakValueDictionary[int, PackedColumns]" = WeakValueDictionary()


class PackedColumns(Columns):
    """``Columns`` of fp32 in an order of oneDNN's own, beside the layers' weights."""

    @staticmethod
    def serves(weight: Tensor) -> bool:
        """Whether there is such an order for weights like this one."""
        there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        return there and weight.device.type == "cpu" and weight.dtype == torch.float32

    def refresh(self) -> None:
        """Packs the weights where they have changed; those in training always, since fused optimisers leave no trace of their changes."""
        trained = any(layer.weight.requires_grad for layer in self.layers)
        state = [(layer.weight.data_ptr(), layer.weight._version, trained) for layer in self.layers]
        if trained or state != self._state:
            self._packed, self._state = torch.ops.mkldnn._reorder_linear_weight(self.together()), state

    def product(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        return self._then(x, "none")

    def added(self, x: Float[Tensor, "r d"], onto: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        return self._then(x, "add", onto)

    def silu(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r k"]:
        return self._then(x, "swish")

    def times(self, x: Float[Tensor, "r d"], gate: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
        return self._then(x, "mul", gate)

    def tensors(self) -> list[Tensor]:
        return [self._packed]

    def run(self, x: Tensor, after: str, other: Tensor | None) -> Tensor:
        """``x W`` and what comes ``after`` it."""
        if other is None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, after, [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, None, after)

    def _then(self, x: Tensor, after: str, other: Tensor | None = None) -> Tensor:
        if torch.compiler.is_compiling():
            return torch.ops.dreamer_ray.packed_linear(x, self.number, after, other, self._width)
        return self.run(x, after, other)

    def _lay_out(self) -> None:
        number = next(_numbers)
        self.number, self._width = torch.tensor(number), sum(layer.out_features for layer in self.layers)
        _numbered[number] = self
        self._state: list[tuple[int, int, bool]] = []
        self.refresh()


def _run(x: Tensor, number: Tensor, after: str, other: Tensor | None, width: int) -> Tensor:  # noqa: ARG001
    return _numbered[int(number)].run(x, after, other)


def _shape(x: Tensor, number: Tensor, after: str, other: Tensor | None, width: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], width)


# Operators are declared when their module is imported; the library keeps the declaration alive.
_library = torch.library.Library("dreamer_ray", "DEF")
_library.define("packed_linear(Tensor x, Tensor number, str after, Tensor? other, int width) -> Tensor")
_library.impl("packed_linear", _run, "CPU")
torch.library.register_fake("dreamer_ray::packed_linear", _shape, lib=_library)
