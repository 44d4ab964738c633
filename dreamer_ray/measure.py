"""The evaluate stage's figures and pictures of one run, from its checkpoints and held-out episodes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamer_ray.data.batches import BatchConfig, BatchPlan, clips_an_epoch, load
from dreamer_ray.data.shards import ShardSet, open_shards
from dreamer_ray.domain import Domain, domain_of
from dreamer_ray.evaluation.frechet import FrechetDistance, feature_distance, refuse_few, video_features
from dreamer_ray.evaluation.heldout import (
    Dreams,
    agent_figures,
    dream_figures,
    dream_windows,
    policy_shares,
    reconstruct,
    tokenizer_figures,
)
from dreamer_ray.evaluation.marginal import Marginal
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import acting_agent, agent_of, latents, mean_frame, trained
from dreamer_ray.training.restore import restore_dynamics, restore_tokenizer
from dreamer_ray.types import Clip, LatentClip

AGENT_ROWS = 256
SHOWN_PICTURES = 8
SHOWN_DREAMS = 3
MOST_WINDOWS, WINDOWS_AT_ONCE = 256, 32
"""Of a distance of videos."""
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
    domain = domain_of(recipe, open_shards(run / "record" / "heldout").schema)
    for part in (_tokenizer, _dreams, *([_agents] if recipe.agent else [])):
        found = part(recipe, run, domain)
        figures |= found.figures
        arrays |= found.arrays
    return Measurements(figures, arrays)


def _tokenizer(recipe: Recipe, run: Path, domain: Domain) -> Measurements:
    tokenizer, length = restore_tokenizer(trained(run, "tokenizer")), recipe.tokenizer.batches.length
    rows = max(1, recipe.evaluation.pictures // length)
    clip = _heldout_pictures(run, domain, BatchConfig(batch_size=rows, length=length, seed=0))
    figures = tokenizer_figures(tokenizer, clip, mean_frame(open_shards(run / "record" / "train")))
    shown = clip.rows(slice(0, SHOWN_PICTURES))
    return Measurements(figures, {"originals": shown.frames[:, -1], "reconstructions": _bytes(reconstruct(tokenizer, shown)[:, -1])})


def _dreams(recipe: Recipe, run: Path, domain: Domain) -> Measurements:
    tokenizer, dynamics = restore_tokenizer(trained(run, "tokenizer")), restore_dynamics(trained(run, "dynamics"))
    context = recipe.dynamics.model.transformer.context - 1
    section = recipe.evaluation
    clip = _heldout_pictures(run, domain, BatchConfig(batch_size=section.windows, length=context + section.dream_frames, seed=1))
    generator = torch.Generator().manual_seed(1)
    dreams = dream_windows(tokenizer, dynamics, clip, context=context, steps=section.sampling_steps, generator=generator)
    before = clip.frames[:, max(0, context - SHOWN_CONTEXT) : context]
    return Measurements(dream_figures(dreams, tile=domain.tile), _shown(dreams, before))


def _shown(dreams: Dreams, before: Tensor) -> dict[str, Tensor]:
    movement = (dreams.truth - dreams.last).square().mean((1, 2, 3, 4))
    liveliest = movement.argsort(descending=True)[:SHOWN_DREAMS]
    given = before[liveliest]
    shown = {"dream_truth": dreams.truth, "dream": dreams.dream}
    return {name: torch.cat([given, _bytes(pictures[liveliest])], dim=1) for name, pictures in shown.items()}


def _agents(recipe: Recipe, run: Path, domain: Domain) -> Measurements:
    section = agent_of(recipe)
    clip = _latent_clips(run, "heldout", domain, rows=AGENT_ROWS, length=section.batches.length)
    recorded = _relevant(_latent_clips(run, "train", domain, rows=4 * AGENT_ROWS, length=section.batches.length))
    marginal, countable = Marginal(domain.action_space, recorded.notes.actions, recorded.notes.labelled), domain.countable
    figures: dict[str, float] = {}
    arrays = {"policy_data": torch.cat([marginal.shares(name) for name in countable])} if countable else {}
    for variant in ["agent", *(["agent_scratch"] if section.scratch else []), *(["imagination"] if recipe.imagination else [])]:
        agent = acting_agent(run, variant)
        generator = torch.Generator().manual_seed(2)
        found = agent_figures(agent, clip, marginal, generator)
        figures |= {f"{name}_{variant}": value for name, value in found.items()}
        if countable:
            arrays[f"policy_{variant}"] = policy_shares(agent, _relevant(clip), generator, countable)
    return Measurements(figures, arrays)


def video_distances(recipe: Recipe, run: Path) -> dict[str, FrechetDistance]:
    """How far from the true ends of held-out windows lie ``dream``, ``reconstruction``, and ``still``: the last frame before, held on.

    Of as many windows as there are without overlap, up to ``MOST_WINDOWS``. Raises ``UserError`` where these are too few.
    """
    device, context, section = recipe.cluster.replica_device, recipe.dynamics.model.transformer.context - 1, recipe.evaluation
    tokenizer = restore_tokenizer(trained(run, "tokenizer")).to(device)
    dynamics = restore_dynamics(trained(run, "dynamics")).to(device)
    shards, length = open_shards(run / "record" / "heldout"), context + section.dream_frames
    rows = min(MOST_WINDOWS, int(clips_an_epoch(shards.lengths, length).sum()))
    refuse_few(rows)
    plan = BatchPlan(shards, BatchConfig(batch_size=rows, length=length, seed=3), steps=1, tasks=())
    generator, parts = torch.Generator().manual_seed(3), -(-rows // WINDOWS_AT_ONCE)
    found: dict[str, list[np.ndarray]] = {"truth": [], "dream": [], "reconstruction": [], "still": []}
    for part in range(parts):
        clip = load(shards, plan, 0, rank=part, world=parts).to(device)
        assert isinstance(clip, Clip)
        dreams = dream_windows(tokenizer, dynamics, clip, context=context, steps=section.sampling_steps, generator=generator)
        shown = {"truth": dreams.truth, "dream": dreams.dream, "reconstruction": dreams.reconstruction}
        for name, videos in (shown | {"still": dreams.last.expand_as(dreams.truth)}).items():
            found[name].append(video_features(videos))
    features = {name: np.concatenate(chunks) for name, chunks in found.items()}
    return {name: feature_distance(of, features["truth"]) for name, of in features.items() if name != "truth"}


def refuse_poor_data(recipe: Recipe, run: Path) -> None:
    """Raises ``UserError`` where the recorded episodes are too few or too short for any stage that is still to come."""
    window = recipe.dynamics.model.transformer.context - 1 + recipe.evaluation.dream_frames
    needs = {"train": [*recipe.clips.values()], "heldout": [recipe.tokenizer.batches, BatchConfig(batch_size=1, length=window)]}
    if recipe.agent is not None:
        relevant = BatchConfig(batch_size=1, length=recipe.agent.batches.length, relevant_fraction=0.5)
        needs["train"].append(relevant)
        # Crafter can be recorded for longer; among recordings of others events are what they are, and figures then go without them.
        needs["heldout"].append(relevant if recipe.data.crafter else relevant.model_copy(update={"relevant_fraction": 0.0}))
    for split, configs in needs.items():
        shards = open_shards(run / "record" / split)
        for config in configs:
            BatchPlan(shards, config, steps=1, tasks=domain_of(recipe, shards.schema).ladder)


def _heldout_pictures(run: Path, domain: Domain, config: BatchConfig) -> Clip:
    shards = open_shards(run / "record" / "heldout")
    clip = load(shards, BatchPlan(shards, config, steps=1, tasks=domain.ladder), 0, rank=0, world=1)
    assert isinstance(clip, Clip)
    return clip


def _latent_clips(run: Path, split: str, domain: Domain, *, rows: int, length: int) -> LatentClip:
    """Half of them task-relevant, where events of the tasks were recorded."""
    source = latents(run, split)
    share = 0.5 if _any_event(source, domain, length) else 0.0
    plan = BatchPlan(source, BatchConfig(batch_size=rows, length=length, relevant_fraction=share, seed=2), steps=1, tasks=domain.ladder)
    clip = load(source, plan, 0, rank=0, world=1)
    assert isinstance(clip, LatentClip)
    return clip


def _any_event(source: ShardSet, domain: Domain, length: int) -> bool:
    """Whether a clip of ``length`` frames can hold an event of the ladder and the frame before it."""
    episode, frame, task = source.event_frames()
    return bool(((frame >= 1) & (source.lengths[episode] >= length) & np.isin(task, list(domain.rungs.values()))).any())


def _relevant(clip: LatentClip) -> LatentClip:
    """The task-relevant ones, or all where there are none."""
    return clip.rows(clip.notes.relevant) if clip.notes.relevant.any() else clip


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)
