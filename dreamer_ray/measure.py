"""The evaluate stage's figures and pictures of one run, from its checkpoints and held-out episodes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamer_ray.data.batches import BatchConfig, BatchPlan, load
from dreamer_ray.data.shards import open_shards
from dreamer_ray.envs.crafter import ACTION_SPACE, LADDER
from dreamer_ray.evaluation.heldout import (
    Dreams,
    action_counts,
    agent_figures,
    dream_figures,
    dream_windows,
    mean_policy,
    reconstruct,
    tokenizer_figures,
)
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import acting_agent, latents, mean_frame, trained
from dreamer_ray.training.restore import restore_agent, restore_tokenizer
from dreamer_ray.types import Clip, LatentClip

AGENT_ROWS = 256
SHOWN_PICTURES = 8
SHOWN_DREAMS = 3
SHOWN_CONTEXT = 4
"""Frames of the context that a video shows before its dream."""


@dataclass(frozen=True)
class Measurements:
    """Figures by name, and uint8 pictures and probabilities for the report."""

    figures: dict[str, float]
    arrays: dict[str, Tensor]


def measure(recipe: Recipe, run: Path) -> Measurements:
    """Everything that is measured without playing."""
    figures: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    for part in (_tokenizer, _dreams, _agents):
        found = part(recipe, run)
        figures |= found.figures
        arrays |= found.arrays
    return Measurements(figures, arrays)


def _tokenizer(recipe: Recipe, run: Path) -> Measurements:
    tokenizer, length = restore_tokenizer(trained(run, "tokenizer")), recipe.tokenizer.batches.length
    rows = max(1, recipe.evaluation.pictures // length)
    clip = _heldout_pictures(run, rows=rows, length=length, seed=0)
    figures = tokenizer_figures(tokenizer, clip, mean_frame(open_shards(run / "record" / "train")))
    shown = clip.rows(slice(0, SHOWN_PICTURES))
    return Measurements(figures, {"originals": shown.frames[:, -1], "reconstructions": _bytes(reconstruct(tokenizer, shown)[:, -1])})


def _dreams(recipe: Recipe, run: Path) -> Measurements:
    tokenizer, agent = restore_tokenizer(trained(run, "tokenizer")), restore_agent(trained(run, "dynamics"))
    context = recipe.dynamics.model.transformer.context - 1
    section = recipe.evaluation
    clip = _heldout_pictures(run, rows=section.windows, length=context + section.dream_frames, seed=1)
    generator = torch.Generator().manual_seed(1)
    dreams = dream_windows(tokenizer, agent.dynamics, clip, context=context, steps=section.sampling_steps, generator=generator)
    return Measurements(
        dream_figures(dreams, tile=recipe.data.crafter.size // 9), _shown(dreams, clip.frames[:, max(0, context - SHOWN_CONTEXT) : context])
    )


def _shown(dreams: Dreams, before: Tensor) -> dict[str, Tensor]:
    movement = (dreams.truth - dreams.last).square().mean((1, 2, 3, 4))
    liveliest = movement.argsort(descending=True)[:SHOWN_DREAMS]
    given = before[liveliest]
    shown = {"dream_truth": dreams.truth, "dream": dreams.dream}
    return {name: torch.cat([given, _bytes(pictures[liveliest])], dim=1) for name, pictures in shown.items()}


def _agents(recipe: Recipe, run: Path) -> Measurements:
    length = recipe.agent.batches.length
    clip = _latent_clips(run, "heldout", rows=AGENT_ROWS, length=length)
    counts = action_counts(_relevant(_latent_clips(run, "train", rows=4 * AGENT_ROWS, length=length)), ACTION_SPACE["action"].size)
    marginal = ((counts + 1) / (counts + 1).sum()).log()
    figures: dict[str, float] = {}
    arrays = {"policy_data": marginal.exp()}
    for variant in ["agent", *(["agent_scratch"] if recipe.agent.scratch else []), "imagination"]:
        agent = acting_agent(run, variant)
        generator = torch.Generator().manual_seed(2)
        found = agent_figures(agent, clip, marginal, generator)
        figures |= {f"{name}_{variant}": value for name, value in found.items()}
        arrays[f"policy_{variant}"] = mean_policy(agent, _relevant(clip), generator)
    return Measurements(figures, arrays)


def refuse_poor_data(recipe: Recipe, run: Path) -> None:
    """Raises ``UserError`` where the recorded episodes are too few or too short for any stage that is still to come."""
    relevant = BatchConfig(batch_size=1, length=recipe.agent.batches.length, relevant_fraction=0.5)
    window = recipe.dynamics.model.transformer.context - 1 + recipe.evaluation.dream_frames
    trained_on = [recipe.tokenizer.batches, recipe.dynamics.batches, recipe.agent.batches, recipe.imagination.contexts]
    needs = {"train": [*trained_on, relevant], "heldout": [recipe.tokenizer.batches, BatchConfig(batch_size=1, length=window), relevant]}
    for split, configs in needs.items():
        shards = open_shards(run / "record" / split)
        for config in configs:
            BatchPlan(shards, config, steps=1, tasks=LADDER)


def _heldout_pictures(run: Path, *, rows: int, length: int, seed: int) -> Clip:
    shards = open_shards(run / "record" / "heldout")
    plan = BatchPlan(shards, BatchConfig(batch_size=rows, length=length, seed=seed), steps=1, tasks=LADDER)
    clip = load(shards, plan, 0, rank=0, world=1)
    assert isinstance(clip, Clip)
    return clip


def _latent_clips(run: Path, split: str, *, rows: int, length: int) -> LatentClip:
    source = latents(run, split)
    plan = BatchPlan(source, BatchConfig(batch_size=rows, length=length, relevant_fraction=0.5, seed=2), steps=1, tasks=LADDER)
    clip = load(source, plan, 0, rank=0, world=1)
    assert isinstance(clip, LatentClip)
    return clip


def _relevant(clip: LatentClip) -> LatentClip:
    return clip.rows(clip.notes.relevant)


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)
