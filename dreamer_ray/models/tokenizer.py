"""The causal tokenizer: pictures to a few bounded latents and back, trained as a masked autoencoder (Dreamer 4, section 3.1)."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from dreamer_ray.config import Config
from dreamer_ray.nn.layers import sine_grid
from dreamer_ray.nn.tokens import TokenLayout
from dreamer_ray.nn.transformer import Transformer, TransformerCache, TransformerConfig


class TokenizerConfig(Config):
    """Sizes and switches of the tokenizer."""

    patch: int = Field(gt=0)
    """Side of a square patch in pixels; pictures are zero-padded to a multiple of it."""
    latents: int = Field(gt=0)
    """N_b, latent tokens a frame."""
    channels: int = Field(gt=0)
    """D_b, numbers of a latent."""
    encoder: TransformerConfig
    decoder: TransformerConfig
    mask_max: float = Field(default=0.9, ge=0, lt=1)
    """Patches are masked with a probability drawn from U(0, mask_max) per picture."""
    mean_frame: bool = False
    """Subtract the data's mean picture from the input and add it to the output (not in the paper)."""
    grid_start: bool = False
    """Start positions as 2D sine codes and keys equal to queries, so that tokens of one place find each other (not in the paper)."""
    random_crop: int = Field(default=0, ge=0)
    """In training shift pictures by up to this many pixels, the border repeated; 0 is off."""
    perceptual: Literal["lpips_alex", "lite0", "none"] = "lpips_alex"
    perceptual_weight: float = Field(default=0.2, ge=0)
    perceptual_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the pictures of a batch on which the perceptual term is computed."""
    perceptual_weights: str | None = None
    """Path of the backbone's weights for lpips_alex; None lets torchvision fetch them."""


class Tokenizer(nn.Module):
    """Encoder, tanh bottleneck and decoder over pictures of ``frame_shape`` (rows, columns)."""

    mean: Tensor
    encoder_mask: Tensor
    decoder_mask: Tensor

    def __init__(self, config: TokenizerConfig, frame_shape: tuple[int, int]):
        super().__init__()
        self.config, self.frame_shape = config, frame_shape
        self.grid = (-(-frame_shape[0] // config.patch), -(-frame_shape[1] // config.patch))
        patches, pixels = self.grid[0] * self.grid[1], 3 * config.patch**2
        wide, narrow = config.encoder.width, config.decoder.width
        layout = TokenLayout({"patches": patches, "latents": config.latents})
        self.layout = layout
        self.register_buffer("mean", torch.full((*self.padded_shape, 3), 0.5))
        self.register_buffer("encoder_mask", layout.mask({"patches": {"patches"}, "latents": {"patches", "latents"}}), persistent=False)
        self.register_buffer("decoder_mask", layout.mask({"patches": {"patches", "latents"}, "latents": {"latents"}}), persistent=False)
        self.embed = nn.Linear(pixels, wide)
        self.masked_patch = nn.Parameter(torch.randn(wide) * 0.02)
        self.encoder_positions = nn.Parameter(torch.randn(layout.total, wide) * 0.02)
        self.encoder = Transformer(config.encoder)
        self.bottleneck = nn.Linear(wide, config.channels)
        self.expand = nn.Linear(config.channels, narrow)
        self.decoder_positions = nn.Parameter(torch.randn(layout.total, narrow) * 0.02)
        self.decoder = Transformer(config.decoder)
        self.pixels = nn.Linear(narrow, pixels)
        with torch.no_grad():
            self.pixels.weight.mul_(0.1)
            nn.init.zeros_(self.pixels.bias)
            if config.grid_start:
                self._start_on_grid()

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Rows and columns after zero-padding to whole patches."""
        return self.grid[0] * self.config.patch, self.grid[1] * self.config.patch

    def encode(
        self, frames: UInt8[Tensor, "b t y x 3"], *, masked: Bool[Tensor, "b t p"] | None = None, cache: TransformerCache | None = None
    ) -> Float[Tensor, "b t l c"]:
        """Latents in (-1, 1); patches where ``masked`` are replaced by the learned embedding.

        A ``cache`` from ``new_encoder_cache`` continues running sequences by one frame and is advanced.
        """
        x = self.embed(self._to_patches(frames))
        if masked is not None:
            x = torch.where(masked.unsqueeze(-1), self.masked_patch.to(x.dtype), x)
        latents = x.new_zeros(*x.shape[:2], self.config.latents, x.shape[-1])
        x = torch.cat([x, latents], dim=2) + self.encoder_positions
        y = self._transform(self.encoder, x, self.encoder_mask, cache)
        return torch.tanh(self.bottleneck(y[:, :, self.layout.slice("latents")]))

    def decode(self, latents: Float[Tensor, "b t l c"], *, cache: TransformerCache | None = None) -> Float[Tensor, "b t y x 3"]:
        """Pictures, about 0 to 1 but not clipped.

        A ``cache`` from ``new_decoder_cache`` continues running sequences by one frame, or takes in the first frames of new ones.
        """
        x = self.expand(latents.to(self.expand.weight.dtype))
        queries = x.new_zeros(*x.shape[:2], self.grid[0] * self.grid[1], x.shape[-1])
        x = torch.cat([queries, x], dim=2) + self.decoder_positions
        y = self._transform(self.decoder, x, self.decoder_mask, cache)
        patches = self.pixels(y[:, :, self.layout.slice("patches")])
        pictures = rearrange(
            patches, "b t (gy gx) (py px k) -> b t (gy py) (gx px) k", gy=self.grid[0], py=self.config.patch, px=self.config.patch
        )
        return (pictures + self.mean)[:, :, : self.frame_shape[0], : self.frame_shape[1]]

    def new_encoder_cache(self, batch: int) -> TransformerCache:
        """An empty cache for ``batch`` sequences that are encoded frame by frame."""
        return self.encoder.new_cache(batch, self.layout.total, self.mean.device)

    def new_decoder_cache(self, batch: int) -> TransformerCache:
        """An empty cache for ``batch`` sequences that are decoded frame by frame."""
        return self.decoder.new_cache(batch, self.layout.total, self.mean.device)

    def set_mean(self, mean: Float[Tensor, "y x 3"]) -> None:
        """Takes the data's mean picture (0 to 1) as the offset of input and output."""
        self.mean[: self.frame_shape[0], : self.frame_shape[1]] = mean

    def _to_patches(self, frames: UInt8[Tensor, "b t y x 3"]) -> Float[Tensor, "b t p k"]:
        pictures = frames.to(self.mean.dtype) / 255
        bottom, right = (padded - size for padded, size in zip(self.padded_shape, self.frame_shape, strict=True))
        pictures = nn.functional.pad(pictures, (0, 0, 0, right, 0, bottom)) - self.mean
        return rearrange(pictures, "b t (gy py) (gx px) k -> b t (gy gx) (py px k)", py=self.config.patch, px=self.config.patch)

    def _transform(self, transformer: Transformer, x: Tensor, mask: Tensor, cache: TransformerCache | None) -> Tensor:
        if cache is None or x.shape[1] > 1:
            return transformer(x, space_mask=mask, cache=cache)
        y = transformer.step(x, cache, space_mask=mask)
        cache.advance()
        return y

    def _start_on_grid(self) -> None:
        rows = max(divisor for divisor in range(1, int(self.config.latents**0.5) + 1) if self.config.latents % divisor == 0)
        for positions, transformer in ((self.encoder_positions, self.encoder), (self.decoder_positions, self.decoder)):
            width = positions.shape[-1]
            positions.copy_(torch.cat([sine_grid(*self.grid, width), sine_grid(rows, self.config.latents // rows, width)]))
            for attention in transformer.attentions():
                share = attention.heads // attention.kv_heads
                attention.key.weight.copy_(attention.query.weight.unflatten(0, (attention.kv_heads, share, -1))[:, 0].flatten(0, 1))
