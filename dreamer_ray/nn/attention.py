"""Grouped-query attention with QK-norm, rotary positions, logit soft-cap and a ring cache of keys and values."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from dreamer_ray.nn.layers import RMSNorm, Rotary, rms_norm, rotate

FLEX_WIDTHS = (16, 32, 64, 128, 256)
"""Widths of a head for which PyTorch has a kernel of flex attention."""


@dataclass
class RingCache:
    """Keys and values of the last ``w`` frames of one time layer, frame ``t`` in slot ``t % w``.

    Shapes never change: a new frame overwrites the oldest, and a frame still in denoising overwrites itself. Tokens come first, so that
    those of the first ones are one block of memory.
    """

    keys: Float[Tensor, "n b g w e"]
    values: Float[Tensor, "n b g w e"]

    def write(self, keys: Float[Tensor, "b f n g e"], values: Float[Tensor, "b f n g e"], slots: Int[Tensor, "b f"]) -> None:
        """Stores the keys and values of the first ``n`` tokens of some frames in each sequence's own slots."""
        count = keys.shape[2]
        rows = torch.arange(len(slots), device=slots.device).unsqueeze(1)
        self.keys[:count, rows, :, slots] = keys
        self.values[:count, rows, :, slots] = values

    def fill(self, keys: Float[Tensor, "b n g t e"], values: Float[Tensor, "b n g t e"]) -> None:
        """Stores frames ``0 .. t-1`` of a new sequence; only the last ``w`` of them stay."""
        slots, length, count = self.keys.shape[3], keys.shape[3], keys.shape[1]
        frames = torch.arange(max(0, length - slots), length, device=keys.device)
        self.keys[:count, :, :, frames % slots] = keys[..., frames, :].transpose(0, 1)
        self.values[:count, :, :, frames % slots] = values[..., frames, :].transpose(0, 1)


def attend(
    q: Float[Tensor, "*s h i e"],
    k: Float[Tensor, "*s g j e"],
    v: Float[Tensor, "*s g j e"],
    *,
    mask: Bool[Tensor, "*m 1 i j"] | None,
    soft_cap: float | None,
) -> Float[Tensor, "*s h i e"]:
    """``softmax(cap tanh(q k^T / cap)) v`` where ``mask``, for scaled queries; ``h / g`` query heads share each key and value head.

    ``mask`` broadcasts over the leading dimensions; its head dimension is 1. Without a soft-cap PyTorch's fused attention is used, with
    one, compiled and on a GPU, its flex attention.
    """
    if soft_cap is None:
        return _fused(q, k, v, mask)
    if q.is_cuda and torch.compiler.is_compiling() and q.shape[-1] in FLEX_WIDTHS:
        return flex_attend(q, k, v, mask=mask, soft_cap=soft_cap)
    heads, groups, rows = q.shape[-3], k.shape[-3], q.shape[-2]
    grouped = q.unflatten(-3, (groups, heads // groups)).flatten(-3, -2)
    scores = torch.tanh(grouped @ k.transpose(-1, -2) / soft_cap).unflatten(-2, (-1, rows))
    if mask is None:
        scores = scores * soft_cap
    else:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        scores = torch.add(bias.unsqueeze(-3), scores, alpha=soft_cap)
    return (scores.softmax(-1).flatten(-3, -2) @ v).unflatten(-2, (-1, rows)).flatten(-4, -3)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    rows = q.shape[:-3]
    seen = None if mask is None else mask.expand(*rows, *mask.shape[-3:]).flatten(0, -4)
    q, k, v = (part.flatten(0, -4) for part in (q, k, v))  # the fused kernels take four dimensions
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0, enable_gqa=q.shape[1] != k.shape[1]).unflatten(0, rows)


def flex_attend(
    q: Float[Tensor, "*s h i e"],
    k: Float[Tensor, "*s g j e"],
    v: Float[Tensor, "*s g j e"],
    *,
    mask: Bool[Tensor, "*m 1 i j"] | None,
    soft_cap: float,
) -> Float[Tensor, "*s h i e"]:
    """``attend`` by one kernel, which keeps no scores; queries and keys take the type of the values."""
    rows, grouped = q.shape[:-3], q.shape[-3] != k.shape[-3]
    q, k, v = (part.to(v.dtype).flatten(0, -4) for part in (q, k, v))
    seen = None if mask is None else mask.flatten(0, -3)
    share = 1 if seen is None else len(q) // len(seen)

    def capped(score: Tensor, row: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        score = soft_cap * torch.tanh(score / soft_cap)
        return score if seen is None else torch.where(seen[row // share, i, j], score, float("-inf"))

    found = flex_attention(q, k, v, score_mod=capped, scale=1.0, enable_gqa=grouped)
    assert isinstance(found, Tensor)
    return found.unflatten(0, rows)


class Attention(nn.Module):
    """Projections around ``attend``. Queries and keys are RMS-normalised per head (QK-norm), then rotated by their positions."""

    def __init__(self, width: int, *, heads: int, kv_heads: int, soft_cap: float | None = 50.0):
        super().__init__()
        if width % heads or heads % kv_heads or (width // heads) % 2:
            raise ValueError(
                f"Attention: width {width}, heads {heads}, kv_heads {kv_heads}: each must divide the one before, heads be even"
            )
        self.head_width, self.heads, self.kv_heads, self.soft_cap = width // heads, heads, kv_heads, soft_cap
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(self.head_width)
        self.key_norm = RMSNorm(self.head_width)

    def scales(self) -> Float[Tensor, "hg e"]:
        """The weights of the norms of all heads of queries, with ``e^(-1/2)``, and of keys."""
        query = (self.query_norm.weight * self.head_width**-0.5).expand(self.heads, -1)
        return torch.cat([query, self.key_norm.weight.expand(self.kv_heads, -1)])

    def project(self, x: Float[Tensor, "*s d"], rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries ``[*s h e]`` and keys, values ``[*s g e]`` of ``x``."""
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        heads = F.linear(x, weight).unflatten(-1, (-1, self.head_width))
        qk, v = heads.split([self.heads + self.kv_heads, self.kv_heads], -2)
        qk = rms_norm(qk, self.scales())
        q, k = (qk if rotary is None else rotate(qk, rotary)).split([self.heads, self.kv_heads], -2)
        return q, k, v
