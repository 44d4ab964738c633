"""Phase 1a: the tokenizer as a masked autoencoder, MSE + 0.2 perceptual distance, each over its running RMS (Dreamer 4, Eq. 5)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.numerics import masked_mean
from dreamer_ray.objectives.lpips import perceptual_distance
from dreamer_ray.objectives.reconstruction import draw_mask, squared_error
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import Clip, Loss


class TokenizerPretraining(Phase):
    """Trains ``tokenizer`` on batches of ``Clip``."""

    def __init__(self, tokenizer: Tokenizer):
        config = tokenizer.config
        weights = {"mse": 1.0} if config.perceptual == "none" else {"mse": 1.0, "perceptual": config.perceptual_weight}
        super().__init__(weights)
        self.tokenizer = tokenizer
        self.distance = None if config.perceptual == "none" else perceptual_distance(config.perceptual, weights=config.perceptual_weights)

    def forward(self, batch: Clip, *, generator: torch.Generator, progress: float) -> Loss:
        config = self.tokenizer.config
        frames = shift(batch.frames, config.random_crop, generator) if config.random_crop else batch.frames
        patches = self.tokenizer.grid[0] * self.tokenizer.grid[1]
        masked = draw_mask((frames.shape[0], frames.shape[1], patches), config.mask_max, generator).to(frames.device)
        latents = self.tokenizer.encode(frames, masked=masked)
        decoded, truth = self.tokenizer.decode(latents), frames / 255
        terms = {"mse": masked_mean(squared_error(decoded, truth))}
        if self.distance is not None:
            count = max(1, round(config.perceptual_share * frames.shape[0] * frames.shape[1]))
            chosen = torch.randperm(frames.shape[0] * frames.shape[1], generator=generator)[:count].to(frames.device)
            pictures = (_channels_first(decoded)[chosen], _channels_first(truth)[chosen])
            terms["perceptual"] = masked_mean(self.distance(*pictures))
        return self.weigh(terms, saturated=(latents.detach().abs() > 0.97).float().mean())


def shift(frames: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Random crop: each clip moves by up to ``pixels`` rows and columns, all its frames alike, its border repeated."""
    rows, columns = frames.shape[2:4]
    planes = frames.movedim(-1, 2).flatten(1, 2).float()
    padded = F.pad(planes, (pixels,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * pixels + 1, (frames.shape[0], 2), generator=generator).tolist()
    moved = torch.stack([clip[:, y : y + rows, x : x + columns] for clip, (y, x) in zip(padded, offsets, strict=True)])
    return moved.unflatten(1, (-1, 3)).movedim(2, -1).to(frames.dtype)


def _channels_first(pictures: Tensor) -> Tensor:
    return pictures.flatten(0, 1).movedim(-1, 1)
