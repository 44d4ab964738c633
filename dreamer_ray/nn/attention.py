"""Grouped-query attention with QK-norm, rotary positions, logit soft-cap and a ring cache of keys and values."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dreamer_ray.nn.layers import Rotary, rotate


@dataclass
class RingCache:
    """Keys and values of the last ``window`` frames of one time layer, frame ``t`` in slot ``t % window``.

    Shapes never change: a new frame overwrites the frame that leaves the window, and a frame still in denoising overwrites itself.
    """

    keys: Float[Tensor, "b n g w e"]
    values: Float[Tensor, "b n g w e"]

    def write(self, keys: Float[Tensor, "b n g 1 e"], values: Float[Tensor, "b n g 1 e"], slots: Int[Tensor, "b"]) -> None:
        """Stores one frame's keys and values of the first ``n`` tokens in each sequence's own slot."""
        count = keys.shape[1]
        rows = torch.arange(len(slots), device=slots.device)
        self.keys[rows, :count, :, slots] = keys.squeeze(3)
        self.values[rows, :count, :, slots] = values.squeeze(3)

    def fill(self, keys: Float[Tensor, "b n g t e"], values: Float[Tensor, "b n g t e"]) -> None:
        """Stores frames ``0 .. t-1`` of a new sequence; only the last ``window`` of them stay."""
        window, length, count = self.keys.shape[3], keys.shape[3], keys.shape[1]
        frames = torch.arange(max(0, length - window), length, device=keys.device)
        self.keys[:, :count, :, frames % window] = keys[..., frames, :]
        self.values[:, :count, :, frames % window] = values[..., frames, :]


def attend(
    q: Float[Tensor, "*s h i e"],
    k: Float[Tensor, "*s g j e"],
    v: Float[Tensor, "*s g j e"],
    *,
    mask: Bool[Tensor, "*m 1 i j"] | None,
    soft_cap: float | None,
) -> Float[Tensor, "*s h i e"]:
    """``softmax(cap tanh(q k^T / sqrt(e) / cap)) v`` where ``mask``; ``h / g`` query heads share each key and value head.

    ``mask`` broadcasts over the leading dimensions; its head dimension is 1. Without a soft-cap PyTorch's fused attention is used.
    """
    if soft_cap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[-3] != k.shape[-3])
    heads, groups = q.shape[-3], k.shape[-3]
    grouped = q.unflatten(-3, (groups, heads // groups))
    scores = (grouped * (q.shape[-1] ** -0.5 / soft_cap)) @ k.unsqueeze(-3).transpose(-1, -2)
    scores = torch.tanh(scores) * soft_cap
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-3), float("-inf"))
    return (scores.softmax(-1) @ v.unsqueeze(-3)).flatten(-4, -3)


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
        self.query_norm = nn.RMSNorm(self.head_width, eps=1e-6)
        self.key_norm = nn.RMSNorm(self.head_width, eps=1e-6)

    def project(self, x: Float[Tensor, "*s n d"], rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[*s h n e]`` and keys, values ``[*s g n e]`` of ``x``."""
        q = self.query_norm(self.query(x).unflatten(-1, (self.heads, -1))).transpose(-2, -3)
        k = self.key_norm(self.key(x).unflatten(-1, (self.kv_heads, -1))).transpose(-2, -3)
        v = self.value(x).unflatten(-1, (self.kv_heads, -1)).transpose(-2, -3)
        return (q, k, v) if rotary is None else (rotate(q, rotary), rotate(k, rotary), v)

    def merge(self, y: Float[Tensor, "*s h n e"]) -> Float[Tensor, "*s n d"]:
        """The output projection over all heads."""
        return self.output(y.transpose(-2, -3).flatten(-2))
