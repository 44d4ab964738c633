"""The block-causal transformer: space layers within a frame, and every few layers a causal, windowed time layer."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamer_ray.config import Config
from dreamer_ray.nn.attention import Attention, RingCache, attend
from dreamer_ray.nn.columns import Columns
from dreamer_ray.nn.frame import FrameBlock, compiled
from dreamer_ray.nn.layers import RMSNorm, Rotary, SwiGLU, rotary_code

Axis = Literal["space", "time"]
"""Along which a layer attends."""
Compiled = Literal["whole", "blocks"] | None
"""As a whole a step starts fastest; block by block it compiles in a time that does not grow with the layers."""


class TransformerConfig(Config):
    """Sizes of one transformer."""

    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    """Grouped-query attention where smaller than ``heads``."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden width of the SwiGLU over ``width``, rounded to a multiple of 16 (other widths make slow matrix products)."""
    time_every: int = Field(default=4, gt=0)
    """Layers ``time_every - 1``, ``2 time_every - 1``, ... (from 0) attend over time instead of space."""
    context: int = Field(gt=0)
    """C: a frame attends to itself and the C - 1 frames before it."""
    rope: bool = True
    """Rotary positions in the space layers; the time layers always have them."""
    soft_cap: float | None = Field(default=50.0, gt=0)

    @property
    def hidden(self) -> int:
        """Hidden width of the SwiGLU."""
        return 16 * max(1, round(self.mlp_ratio * self.width / 16))

    def product_widths(self) -> tuple[int, ...]:
        """Sides of the matrices of a block as ``FrameBlock`` multiplies with them."""
        return self.width, self.hidden, self.width + 2 * self.kv_heads * (self.width // self.heads)

    @model_validator(mode="after")
    def _heads_fit(self) -> "TransformerConfig":
        if self.width % self.heads or self.heads % self.kv_heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"width = {self.width}, heads = {self.heads}, kv_heads = {self.kv_heads}: kv_heads must divide heads, heads the width, "
                "and a head must have an even width"
            )
        return self


class Block(nn.Module):
    """Pre-norm attention over one axis, then a pre-norm SwiGLU."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config.width, heads=config.heads, kv_heads=config.kv_heads, soft_cap=config.soft_cap)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = SwiGLU(config.width, config.hidden)
        self.recompute = False
        """Whether the backward pass computes the block again instead of keeping its activations."""

    def forward(
        self, x: Float[Tensor, "b t n d"], axis: Axis, *, rotary: Rotary | None, mask: Tensor | None, ring: RingCache | None = None
    ) -> Float[Tensor, "b t n d"]:
        """Tokens attend to those of their frame, or over time to their own index in other frames; a new ``ring`` takes in keys and values.

        ``rotary`` is ``[n 1 e/2]``, over time ``[t 1 1 e/2]``; ``mask`` is ``[1 n n]``, over time ``[b 1 1 t t]``.
        """
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, axis, rotary, mask, ring, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, axis, rotary, mask, ring)

    def _forward(self, x: Tensor, axis: Axis, rotary: Rotary | None, mask: Tensor | None, ring: RingCache | None) -> Tensor:
        together = {"space": "b t h n e", "time": "b n h t e"}[axis]
        projected = self.attention.project(self.attention_norm(x), rotary)
        q, k, v = (rearrange(part, f"b t n h e -> {together}") for part in projected)
        if ring is not None:
            ring.fill(k, v)
        found = attend(q, k, v, mask=mask, soft_cap=self.attention.soft_cap)
        x = x + self.attention.output(rearrange(found, f"{together} -> b t n (h e)"))
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class Places:
    """Where the frames of a pass stand in a running sequence, for its time layers."""

    slots: Int[Tensor, "b f"]
    hidden: Bool[Tensor, "1 b 1 f 1 w"]
    """Frames of the rings that each frame does not see."""
    rotary: Rotary
    """``[b*f 1 1 e/2 2]``."""


@dataclass
class TransformerCache:
    """State of running sequences: a ring of keys and values for each time layer, and each sequence's own clock."""

    rings: list[RingCache]
    frame: Int[Tensor, "b"]
    """Index of the frame that the next pass computes."""
    space: Rotary | None
    """Rotary code of the tokens of a frame."""

    def tensors(self) -> list[Tensor]:
        """Keys and values of all layers."""
        return [tensor for ring in self.rings for tensor in (ring.keys, ring.values)]

    def advance(self) -> None:
        """Ends the current frame in every sequence."""
        self.frame += 1

    def put(self, rows: Int[Tensor, "r"], other: "TransformerCache") -> None:
        """The sequences in ``rows`` go on where those of ``other`` are."""
        self.frame[rows] = other.frame
        for ring, new in zip(self.rings, other.rings, strict=True):
            ring.keys[:, rows], ring.values[:, rows] = new.keys, new.values


class Transformer(nn.Module):
    """``config.layers`` blocks over tokens ``[b t n d]`` and a final RMSNorm."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.axes: list[Axis] = ["time" if (i + 1) % config.time_every == 0 else "space" for i in range(config.layers)]
        blocks = [Block(config) for _ in self.axes]
        self.blocks = nn.ModuleList(blocks)
        self._frame_blocks: list[FrameBlock] = []
        self.compiled: Compiled = None
        """What of ``step`` is compiled."""
        self.columns: type[Columns] = Columns
        """How the weights of ``step`` are laid out."""
        self.norm = RMSNorm(config.width)
        for block in blocks:
            for last in (block.attention.output, block.mlp.down):
                nn.init.normal_(last.weight, std=(2 * config.layers * last.in_features) ** -0.5)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_frame_blocks": []}  # a copy lays out its own weights

    def attentions(self) -> list[Attention]:
        """The attention layers, first to last."""
        return [module for module in self.modules() if isinstance(module, Attention)]

    def new_cache(self, batch: int, tokens: int, device: torch.device | str = "cpu") -> TransformerCache:
        """An empty cache for ``batch`` sequences: ``2 * time layers * batch * tokens * kv_heads * (context + 1) * e`` numbers.

        The further frame lets ``step`` pass over two frames at once. Lays out the weights for ``step`` where they are not yet, and reads
        the scales of its queries and keys: weights that are loaded later are for new caches.
        """
        weight = self.norm.weight
        if not all(block.fits(weight, self.columns) for block in self._frame_blocks):
            self._frame_blocks = []
        for block in self._frame_blocks:
            block.refresh()
        self._frame_blocks = self._frame_blocks or [
            FrameBlock((b.attention_norm, b.mlp_norm), b.attention, b.mlp, self.columns) for b in self.blocks if isinstance(b, Block)
        ]
        head_width = self.config.width // self.config.heads
        shape = (tokens, batch, self.config.kv_heads, self.config.context + 1, head_width)
        rings = [
            RingCache(torch.zeros(shape, dtype=weight.dtype, device=device), torch.zeros(shape, dtype=weight.dtype, device=device))
            for axis in self.axes
            if axis == "time"
        ]
        return TransformerCache(rings, torch.zeros(batch, dtype=torch.long, device=device), self._space_code(tokens, device))

    def forward(
        self,
        x: Float[Tensor, "b t n d"],
        *,
        space_mask: Bool[Tensor, "n n"] | None = None,
        images: Bool[Tensor, "b"] | None = None,
        cache: TransformerCache | None = None,
    ) -> Float[Tensor, "b t n d"]:
        """One pass over whole sequences, in the type of the weights.

        Rows marked in ``images`` are separate pictures: their frames do not see each other. With a new ``cache`` the pass also fills it
        (the context of a dream).
        """
        length = x.shape[1]
        if cache is not None and images is None and length <= self.config.context and not (x.is_cuda or torch.is_grad_enabled()):
            places, cache.frame = self.places(cache, length), cache.frame + length
            return self._step(x, cache, places, space_mask)  # faster on a CPU
        frames = torch.arange(length, device=x.device)
        mask = ((age := frames.unsqueeze(1) - frames) >= 0) & (age < self.config.context)
        if images is not None:
            mask = mask & (~images.view(-1, 1, 1, 1, 1) | (age == 0))
        else:
            mask = mask.view(1, 1, 1, length, length)
        if cache is not None:
            cache.frame += length
        time = self._rotary(frames)[:, None, None]
        space = self._space_code(x.shape[2], x.device)
        seen = None if space_mask is None else space_mask.unsqueeze(0)
        rings, y = iter(cache.rings if cache is not None else ()), x.to(self.norm.weight.dtype)
        for axis, block in zip(self.axes, self.blocks, strict=True):
            if axis == "space":
                y = block(y, axis, rotary=space, mask=seen)
            else:
                y = block(y, axis, rotary=time, mask=mask, ring=next(rings, None))
        return self.norm(y).to(x.dtype)

    def places(self, cache: TransformerCache, frames: int) -> Places:
        """Of the current ``frames``. Apart from ``step``: compiled with it each number of a layer would compute its own angle."""
        positions = cache.frame.unsqueeze(1) + torch.arange(frames, device=cache.frame.device)
        ring = torch.arange(self.config.context + 1, device=positions.device)
        age = (positions.unsqueeze(2) - ring) % len(ring)
        hidden = age > positions.clamp(max=self.config.context - 1).unsqueeze(2)
        rotary = self._rotary(positions).flatten(0, 1)[:, None, None]
        return Places(positions % len(ring), hidden[None, :, None, :, None], rotary)

    def step(
        self,
        x: Float[Tensor, "b f n d"],
        cache: TransformerCache,
        space_mask: Bool[Tensor, "n n"] | None = None,
        places: Places | None = None,
    ) -> Float[Tensor, "b f n d"]:
        """One pass over the current frame of each sequence, or over it and the next one.

        Run again it overwrites them, until ``cache.advance()``. ``places`` are found where not given. For inference: no gradients.
        """
        step = compiled(Transformer._step) if self.compiled == "whole" else Transformer._step
        with torch.no_grad():
            return step(self, x, cache, places or self.places(cache, x.shape[1]), space_mask)

    def laid_out(self) -> list[Tensor]:
        """What caches brought with them besides the model's own weights, while these are frozen."""
        return [tensor for block in self._frame_blocks for weights in block.weights() for tensor in weights.tensors()]

    def step_numbers(self, rows: int, tokens: int) -> int:
        """Numbers that ``step`` holds at once besides weights and cache, for ``rows`` frames of ``tokens``.

        ``rows * tokens * (5 width + max(2 hidden, 4 kv_heads * head width + 2 heads * tokens))``: in an MLP or in attention.
        """
        config = self.config
        attention = 4 * config.kv_heads * (config.width // config.heads) + 2 * config.heads * tokens
        return rows * tokens * (5 * config.width + max(2 * config.hidden, attention))

    def _step(self, x: Tensor, cache: TransformerCache, places: Places, space_mask: Tensor | None) -> Tensor:
        tokens = x.shape[2]
        space = None if cache.space is None else cache.space[:tokens]
        hidden = None if space_mask is None else ~space_mask
        over_space, over_time = FrameBlock.space, FrameBlock.time
        if self.compiled == "blocks":
            over_space, over_time = compiled(over_space), compiled(over_time)
        rings, y = iter(cache.rings), x.flatten(0, 2).to(self.norm.weight.dtype)
        for axis, block in zip(self.axes, self._frame_blocks, strict=True):
            if axis == "space":
                y = over_space(block, y, tokens, space, hidden)
            else:
                y = over_time(block, y, tokens, places.rotary, places.hidden, next(rings), places.slots)
        return self.norm(y).view_as(x).to(x.dtype)

    def _space_code(self, tokens: int, device: torch.device | str) -> Rotary | None:
        return self._rotary(torch.arange(tokens, device=device)).unsqueeze(1) if self.config.rope else None

    def _rotary(self, positions: Tensor) -> Rotary:
        return rotary_code(positions, self.config.width // self.config.heads)
