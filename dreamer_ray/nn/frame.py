"""A block's pass over the newest frames of running sequences, for inference: the block's own formula in fewer and larger operations.

At the size of one frame most of the time of a pass is that of starting operations and of products of few rows. So the weights of queries,
keys and values lie side by side, and all are laid out for such products.
"""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_ray.nn.attention import Attention, RingCache
from dreamer_ray.nn.columns import Columns
from dreamer_ray.nn.layers import RMSNorm, Rotary, SwiGLU, rms_norm, rotate

R = TypeVar("R")
SHAPES = 64
"""For so many different batches, numbers of tokens and models a function is compiled; PyTorch's own limit is 8, after which none is."""


class FrameBlock:
    """One block for tokens ``[r d]``, r = batch x frames x tokens."""

    def __init__(self, norms: tuple[RMSNorm, RMSNorm], attention: Attention, mlp: SwiGLU, columns: type[Columns]):
        self.norms, self.attention, self.columns = norms, attention, columns
        self.heads, self.groups, self.soft_cap = attention.heads, attention.kv_heads, attention.soft_cap
        self.qkv, self.output = columns(attention.query, attention.key, attention.value), columns(attention.output)
        self.gate, self.up, self.down = columns(mlp.gate), columns(mlp.up), columns(mlp.down)
        self.scales = torch.empty_like(attention.scales())
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the weights as they are now, in the same memory: recorded kernels know it by its address."""
        for weights in self.weights():
            weights.refresh()
        self.scales.copy_(self.attention.scales())
        self.scales[: self.heads] /= self.soft_cap or 1.0

    def fits(self, weight: Tensor, columns: type[Columns]) -> bool:
        """Whether the model has not moved to another type, device or layout since."""
        return self.columns is columns and self.scales.dtype == weight.dtype and self.scales.device == weight.device

    def weights(self) -> tuple[Columns, ...]:
        """All matrices."""
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
        found = self._weights(scores.unflatten(2, (-1, tokens)), hidden).flatten(2, 3) @ v.transpose(1, 2)
        return found.unflatten(2, (-1, tokens)).permute(0, 3, 1, 2, 4)

    def _over_time(self, x: Tensor, tokens: int, rotary: Rotary, hidden: Tensor, ring: RingCache, slots: Tensor) -> Tensor:
        frames = slots.shape[1]
        q, k, v = (part.unflatten(0, (-1, frames)) for part in self._project(x, tokens, rotary))
        ring.write(k, v, slots)
        q = q.unflatten(3, (self.groups, -1)).permute(2, 0, 3, 1, 4, 5).flatten(3, 4)  # [n b g (f h/g) e]
        scores = q @ ring.keys[:tokens].transpose(-1, -2)
        found = self._weights(scores.unflatten(3, (frames, -1)), hidden).flatten(3, 4) @ ring.values[:tokens]
        return found.unflatten(3, (frames, -1)).permute(1, 3, 0, 2, 4, 5)

    def _project(self, x: Tensor, tokens: int, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        both = self.heads + self.groups
        projected = self.qkv.product(self.norms[0](x)).view(-1, tokens, both + self.groups, self.scales.shape[1])
        qk = rms_norm(projected[:, :, :both], self.scales)
        if rotary is not None:
            qk = rotate(qk, rotary)
        return qk[:, :, : self.heads], qk[:, :, self.heads :], projected[:, :, both:]

    def _weights(self, scores: Tensor, hidden: Tensor | None) -> Tensor:
        if self.soft_cap is not None:
            scores = scores.tanh_().mul_(self.soft_cap)
        return (scores if hidden is None else scores.masked_fill_(hidden, float("-inf"))).softmax(-1)

    def _finish(self, x: Tensor, found: Tensor) -> Tensor:
        x = self.output.added(found.reshape(x.shape[0], -1), x)
        y = self.norms[1](x)
        return self.down.added(self.up.times(y, self.gate.silu(y)), x)


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """``function`` compiled, once for all models; anew for other shapes. What is being compiled takes it as it is."""
    return function if torch.compiler.is_compiling() else _compiled(function)


@cache
def _compiled(function: Callable[..., R]) -> Callable[..., R]:
    from torch._dynamo import config  # takes seconds to import

    config.recompile_limit = max(config.recompile_limit, SHAPES)
    return torch.compile(function, dynamic=False)
