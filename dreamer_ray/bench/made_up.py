"""Batches of the sizes of a recipe, of random values: speed does not depend on them."""

import torch

from dreamer_ray.envs.crafter import ACTION_SPACE, TASKS
from dreamer_ray.recipe import Recipe
from dreamer_ray.types import Annotations, Clip, LatentClip


def pictures(recipe: Recipe, rows: int, frames: int) -> Clip:
    """Clips of pictures of the recipe's size."""
    side = recipe.data.crafter.size
    return Clip(torch.randint(0, 256, (rows, frames, side, side, 3), dtype=torch.uint8), _notes(rows, frames))


def latent_clip(recipe: Recipe, rows: int, frames: int) -> LatentClip:
    """Clips of latents of the recipe's tokenizer."""
    sizes = recipe.tokenizer.model
    return LatentClip(torch.rand(rows, frames, sizes.latents, sizes.channels) * 2 - 1, _notes(rows, frames))


def _notes(rows: int, frames: int) -> Annotations:
    return Annotations(
        actions={"action": torch.randint(0, ACTION_SPACE["action"].size, (rows, frames))},
        labelled=torch.ones(rows, frames, dtype=torch.bool),
        rewards=torch.zeros(rows, frames),
        continues=torch.ones(rows, frames),
        task=torch.randint(0, len(TASKS), (rows,)),
        relevant=torch.arange(rows) % 2 == 0,
    )
