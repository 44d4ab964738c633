"""Batches of the sizes of a recipe, of random values: speed does not depend on them."""

import torch

from dreamer_ray.domain import domain_of
from dreamer_ray.recipe import Recipe
from dreamer_ray.types import ActionComponent, Annotations, Binary, Categorical, Clip, LatentClip


def pictures(recipe: Recipe, rows: int, frames: int) -> Clip:
    """Clips of pictures of the recipe's size."""
    shape = (rows, frames, *recipe.data.frame_shape, 3)
    return Clip(torch.randint(0, 256, shape, dtype=torch.uint8), _notes(recipe, rows, frames))


def latent_clip(recipe: Recipe, rows: int, frames: int) -> LatentClip:
    """Clips of latents of the recipe's tokenizer."""
    sizes = recipe.tokenizer.model
    return LatentClip(torch.rand(rows, frames, sizes.latents, sizes.channels) * 2 - 1, _notes(recipe, rows, frames))


def _notes(recipe: Recipe, rows: int, frames: int) -> Annotations:
    domain = domain_of(recipe)
    return Annotations(
        actions={name: _actions(component, rows, frames) for name, component in domain.action_space.items()},
        labelled=torch.full((rows, frames), bool(domain.action_space)),
        rewards=torch.zeros(rows, frames),
        continues=torch.ones(rows, frames),
        task=torch.randint(0, max(1, len(domain.tasks)), (rows,)),
        relevant=torch.arange(rows) % 2 == 0,
        enrichment=torch.ones(rows),
    )


def _actions(component: ActionComponent, rows: int, frames: int) -> torch.Tensor:
    if isinstance(component, Categorical):
        return torch.randint(0, component.size, (rows, frames))
    if isinstance(component, Binary):
        return torch.randint(0, 2, (rows, frames, component.size))
    return torch.rand(rows, frames, component.size) * 2 - 1
