"""A block's pass over the newest frames of running sequences, for inference: the block's own formula in fewer and larger operations.

At the size of one frame most of the time of a pass is that of starting operations, and products are up to one and a half times as fast
on weights that lie by columns. The block's weights are laid out so, those of queries, keys and values side by side. Where they are frozen
its parameters become views of them: their values and shapes stay, and what is copied into them later is seen here. Weights in training
are copied, for every new cache. So are those that are rounded to eight bits.
"""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer_ray.nn.attention import Attention, RingCache
from dreamer_ray.nn.float8 import Float8Matrix
from dreamer_ray.nn.layers import RMSNorm, Rotary, SwiGLU, rms_norm, rotate

R = TypeVar("R")
Weights = Tensor | Float8Matrix
SHAPES = 64
"""For so many different batches, numbers of tokens and models a function is compiled; PyTorch's own limit is 8, after which none is."""


class FrameBlock:
    """One block for tokens ``[r d]``, r = batch x frames x tokens."""

    def __init__(self, norms: tuple[RMSNorm, RMSNorm], attention: Attention, mlp: SwiGLU, *, eight_bits: bool = False):
        self.norms, self.attention, self.mlp, self.eight_bits = norms, attention, mlp, eight_bits
        self.heads, self.groups, self.soft_cap = attention.heads, attention.kv_heads, attention.soft_cap
        self.qkv, self.output, self.gate, self.up, self.down = (_columns_of(*layers, eight_bits=eight_bits) for layers in self._layers())
        self.scales = torch.empty_like(attention.scales())
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the weights as they are now, in the same memory: recorded kernels know it by its address."""
        for together, layers in zip(self._weights(), self._layers(), strict=True):
            if isinstance(together, Tensor):
                _lay_out(together, *layers)
            else:
                together.copy_(torch.cat([layer.weight for layer in layers]).t())
        self.scales.copy_(self.attention.scales())
        self.scales[: self.heads] /= self.soft_cap or 1.0

    def fits(self, weight: Tensor, *, eight_bits: bool) -> bool:
        """Whether the model has not moved to another type or device since."""
        return self.eight_bits == eight_bits and self.scales.dtype == weight.dtype and self.scales.device == weight.device

    def tensors(self) -> list[Tensor]:
        """Weights that are there besides the model's own, while these are frozen."""
        rounded = [weights.tensors() for weights in self._weights() if not isinstance(weights, Tensor)]
        return [tensor for tensors in rounded for tensor in tensors]

    def _layers(self) -> tuple[tuple[nn.Linear, ...], ...]:
        attention, mlp = self.attention, self.mlp
        return (attention.query, attention.key, attention.value), (attention.output,), (mlp.gate,), (mlp.up,), (mlp.down,)

    def _weights(self) -> tuple[Weights, ...]:
        return self.qkv, self.output, self.gate, self.up, self.down

    def space(
        self, x: Float[Tensor, "r d"], tokens: int, rotary: Rotary | None, hidden: Bool[Tensor, "n n"] | None
    ) -> Float[Tensor, "r d"]:
        """Attention among the ``tokens`` of each frame, but for the pairs that are ``hidden``."""
        return self._finish(x, self._over_space(x, tokens, rotary, hidden))

    def time(
        self, x: Float[Tensor, "r d"], tokens: int, rotary: Rotary, hidden: Bool[Tensor, "1 b 1 f 1 w"], ring: RingCache, slots: Tensor
    ) -> Float[Tensor, "r d"]:
        """Attention of each token to its own index in the frames of the ``ring``, the newest written to ``slots [b f]`` first."""
        return self._finish(x, self._over_time(x, tokens, rotary, hidden, ring, slots))

    def _over_space(self, x: Tensor, tokens: int, rotary: Rotary | None, hidden: Tensor | None) -> Tensor:
        q, k, v = self._project(x, tokens, rotary)
        q = q.unflatten(2, (self.groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [b g (h/g n) e]
        scores = q @ k.permute(0, 2, 3, 1)
        found = self._shares(scores.unflatten(2, (-1, tokens)), hidden).flatten(2, 3) @ v.transpose(1, 2)
        return found.unflatten(2, (-1, tokens)).permute(0, 3, 1, 2, 4)

    def _over_time(self, x: Tensor, tokens: int, rotary: Rotary, hidden: Tensor, ring: RingCache, slots: Tensor) -> Tensor:
        frames = slots.shape[1]
        q, k, v = (part.unflatten(0, (-1, frames)) for part in self._project(x, tokens, rotary))
        ring.write(k, v, slots)
        q = q.unflatten(3, (self.groups, -1)).permute(2, 0, 3, 1, 4, 5).flatten(3, 4)  # [n b g (f h/g) e]
        scores = q @ ring.keys[:tokens].transpose(-1, -2)
        found = self._shares(scores.unflatten(3, (frames, -1)), hidden).flatten(3, 4) @ ring.values[:tokens]
        return found.unflatten(3, (frames, -1)).permute(1, 3, 0, 2, 4, 5)

    def _project(self, x: Tensor, tokens: int, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        both = self.heads + self.groups
        projected = _product(self.norms[0](x), self.qkv).view(-1, tokens, both + self.groups, self.scales.shape[1])
        qk = rms_norm(projected[:, :, :both], self.scales)
        if rotary is not None:
            qk = rotate(qk, rotary)
        return qk[:, :, : self.heads], qk[:, :, self.heads :], projected[:, :, both:]

    def _shares(self, scores: Tensor, hidden: Tensor | None) -> Tensor:
        if self.soft_cap is not None:
            scores = scores.tanh_().mul_(self.soft_cap)
        return (scores if hidden is None else scores.masked_fill_(hidden, float("-inf"))).softmax(-1)

    def _finish(self, x: Tensor, found: Tensor) -> Tensor:
        x = _product(found.reshape(x.shape[0], -1), self.output, onto=x)
        y = self.norms[1](x)
        return _product(F.silu(_product(y, self.gate), inplace=True).mul_(_product(y, self.up)), self.down, onto=x)


def _product(x: Float[Tensor, "r d"], weights: Weights, *, onto: Tensor | None = None) -> Float[Tensor, "r k"]:
    """``x @ weights``, added to ``onto``."""
    if isinstance(weights, Tensor):
        return torch.mm(x, weights) if onto is None else torch.addmm(onto, x, weights)
    found = weights.product(x).to(x.dtype)
    return found if onto is None else onto + found


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """``function`` compiled, once for all models; anew for other shapes. What is being compiled takes it as it is."""
    return function if torch.compiler.is_compiling() else _compiled(function)


@cache
def _compiled(function: Callable[..., R]) -> Callable[..., R]:
    from torch._dynamo import config  # takes seconds to import

    config.recompile_limit = max(config.recompile_limit, SHAPES)
    return torch.compile(function, dynamic=False)


def _columns_of(*layers: nn.Linear, eight_bits: bool) -> Weights:
    """Memory for the weights of ``layers``, transposed, side by side."""
    rows, columns, weight = layers[0].in_features, sum(layer.out_features for layer in layers), layers[0].weight
    return Float8Matrix(rows, columns, weight.device) if eight_bits else weight.new_empty(rows, columns)


def _lay_out(together: Float[Tensor, "d k"], *layers: nn.Linear) -> None:
    """Copies the weights of ``layers`` to ``together``, unless they are there; where they are frozen they live there from now on."""
    for layer, part in zip(layers, together.split([layer.out_features for layer in layers], 1), strict=True):
        if layer.weight.data_ptr() == part.data_ptr():
            continue
        part.copy_(layer.weight.t())
        if not layer.weight.requires_grad:
            layer.weight.data = part.t()
