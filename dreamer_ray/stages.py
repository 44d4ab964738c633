"""What each stage of a recipe is, without Ray: which phase it trains from which parents, what a replica dreams, what an encoder writes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_ray.data.batches import BatchConfig, BatchPlan, load
from dreamer_ray.data.latents import LatentSet, open_latents
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.shards import ShardSet, open_shards
from dreamer_ray.domain import domain_of, with_null_choices
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import following, imagine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.imagination.tuning import tune_dreams
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.imagination_training import ImaginationTraining, WholeImaginationTraining
from dreamer_ray.phases.phase import Phase
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.recipe import AgentSection, DynamicsSection, ImaginationSection, Recipe, TokenizerSection
from dreamer_ray.run_folder import read_record
from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint
from dreamer_ray.training.loop import FitConfig
from dreamer_ray.training.restore import begin_agent, describe_agent, describe_dynamics, describe_tokenizer, load_heads, restore_agent
from dreamer_ray.types import Clip, LatentClip, Trajectory

MEAN_FRAME_SAMPLES = 2048
SPLITS = ("train", "heldout")
REHEARSAL = "rehearsal"
"""Recorded clips for imagination training of all weights."""


@dataclass(frozen=True)
class Supervised:
    """One supervised phase, ready to be fitted."""

    phase: Phase
    made_by: dict[str, Any]
    fit: FitConfig


@dataclass(frozen=True)
class Feed:
    """What a supervised stage reads: a set of clips and which of them each step takes."""

    source: ShardSet | LatentSet
    plan: BatchPlan

    def load(self, step: int, *, rank: int, world: int) -> Clip | LatentClip:
        """The rows of ``rank`` of the batch of ``step``."""
        return load(self.source, self.plan, step, rank=rank, world=world)


def feed(stage: str, recipe: Recipe, run: Path) -> Feed:
    """The clips and the plan of a supervised stage, of the contexts of imagination or of its rehearsal: clips like those of the agent."""
    source = open_shards(run / "record" / "train") if stage == "tokenizer" else latents(run, "train")
    (clips, steps), due = _clips(stage, recipe), stage == "imagination" and dreams_of(recipe).prompts == "ladder"
    return Feed(source, BatchPlan(source, clips, steps=steps, tasks=domain_of(recipe, source.schema).ladder, due=due))


def _clips(stage: str, recipe: Recipe) -> tuple[BatchConfig, int]:
    if stage in ("imagination", REHEARSAL):
        dreams, agent = dreams_of(recipe), agent_of(recipe)
        rehearsed = agent.batches.model_copy(update={"seed": dreams.contexts.seed})
        return rehearsed if stage == REHEARSAL else dreams.contexts, dreams.fit.steps
    section = section_of(stage, recipe)
    return section.batches, section.fit.steps


def section_of(stage: str, recipe: Recipe) -> TokenizerSection | DynamicsSection | AgentSection:
    """The section of a supervised stage."""
    return {"tokenizer": recipe.tokenizer, "dynamics": recipe.dynamics}.get(stage) or agent_of(recipe)


def agent_of(recipe: Recipe) -> AgentSection:
    """The section of a recipe that has an agent, as all stages know that work on one."""
    assert recipe.agent is not None
    return recipe.agent


def dreams_of(recipe: Recipe) -> ImaginationSection:
    """The section of a recipe whose agent is trained in imagination, as all stages know that do so."""
    assert recipe.imagination is not None
    return recipe.imagination


def trained(run: Path, stage: str) -> Checkpoint:
    """The last checkpoint of a stage of the run in folder ``run``: the one with which a finished stage ended, or none."""
    checkpoint, record = latest_checkpoint(run / stage / "checkpoints"), read_record(run / stage)
    if checkpoint is None:
        raise RunError(f"{run / stage}: holds no checkpoint; run the stage {stage} first (--from {stage})")
    last = record.figures.get("checkpoint") if record else None
    if last not in (None, checkpoint.fingerprint):
        raise UserError(
            f"checkpoint {checkpoint.path}: fingerprint {checkpoint.fingerprint}, but the stage {stage} ended with {last}, which is gone; "
            f"do it again with --from {stage}"
        )
    return checkpoint


def latents(run: Path, split: str) -> LatentSet:
    """The latents of the train or held-out split, refused where another tokenizer made them."""
    return open_latents(run / "encode" / split, tokenizer_fingerprint=trained(run, "tokenizer").fingerprint)


def check_inputs(run: Path, stages: Iterable[str]) -> None:
    """Raises an error where a result of ``stages`` is damaged: missing, cut, changed, or latents of another tokenizer."""
    for stage in stages:
        if stage == "record":
            for split in SPLITS:
                open_shards(run / stage / split).verify()
        elif stage == "encode":
            for split in SPLITS:
                latents(run, split).verify()
        elif stage != "evaluate":
            trained(run, stage).verify()


def supervised(stage: str, recipe: Recipe, run: Path) -> Supervised:
    """The phase of ``stage`` with its initial weights (from its parents' checkpoints or the stage's seed)."""
    if stage == "tokenizer":
        return _tokenizer(recipe, run)
    if stage == "dynamics":
        return _dynamics(recipe, run)
    return _agent(recipe, run, scratch=stage == "agent_scratch")


def _tokenizer(recipe: Recipe, run: Path) -> Supervised:
    section, shards = recipe.tokenizer, open_shards(run / "record" / "train")
    with _seeded(section.fit.seed):
        tokenizer = Tokenizer(section.model, shards.schema.frame_shape)
        if section.model.mean_frame:
            tokenizer.set_mean(mean_frame(shards))
        phase = TokenizerPretraining(tokenizer)
    made_by = describe_tokenizer(tokenizer) | {"parents": {"record": shards.fingerprint}, "recipe": section.model_dump(mode="json")}
    return Supervised(phase, made_by, section.fit)


def new_models(recipe: Recipe) -> tuple[Tokenizer, Dynamics]:
    """The models of ``recipe`` with random weights, by which what they need and how fast they are can be measured."""
    domain, sizes = domain_of(recipe), recipe.tokenizer.model
    dynamics = Dynamics(recipe.dynamics.model, latents=sizes.latents, channels=sizes.channels, action_space=domain.action_space)
    return Tokenizer(sizes, domain.frame_shape), dynamics


def new_agent(recipe: Recipe, dynamics: Dynamics) -> Agent:
    """The agent of ``recipe``, which has one, around ``dynamics``, with new heads."""
    return Agent(agent_of(recipe).model, dynamics, tasks=len(domain_of(recipe).tasks))


def finetuning_of(recipe: Recipe, schema: ShardSchema | None = None) -> FinetuningConfig:
    """How the agent of ``recipe`` is finetuned on recordings of ``schema``, or of its sources."""
    return with_null_choices(agent_of(recipe).finetuning, domain_of(recipe, schema))


def _new_dynamics(recipe: Recipe, source: LatentSet) -> Dynamics:
    count, channels = source.schema.frame_shape
    dynamics = Dynamics(recipe.dynamics.model, latents=count, channels=channels, action_space=source.schema.action_space)
    dynamics.set_latent_statistics(source.mean, source.std)
    return dynamics


def _dynamics(recipe: Recipe, run: Path) -> Supervised:
    section, source = recipe.dynamics, latents(run, "train")
    with _seeded(section.fit.seed):
        dynamics = _new_dynamics(recipe, source)
    made_by = describe_dynamics(dynamics, list(source.schema.tasks))
    made_by |= {"parents": {"encode": source.fingerprint}, "recipe": section.model_dump(mode="json")}
    return Supervised(DynamicsPretraining(dynamics, section.forcing), made_by, section.fit)


def _agent(recipe: Recipe, run: Path, *, scratch: bool) -> Supervised:
    section, source = agent_of(recipe), latents(run, "train")
    parents, finetuning = {"encode": source.fingerprint}, finetuning_of(recipe, source.schema)
    if scratch:  # cloning without a world model: neither pretrained nor trained beside
        finetuning = finetuning.model_copy(update={"dynamics_weight": 0.0})
        with _seeded(section.fit.seed):
            agent = Agent(section.model, _new_dynamics(recipe, source), tasks=len(source.schema.tasks))
    else:
        checkpoint = trained(run, "dynamics")
        parents["dynamics"] = checkpoint.fingerprint
        with _seeded(section.fit.seed):
            agent = begin_agent(checkpoint, section.model)
    agent.requires_grad_(True)
    made_by = describe_agent(agent, list(source.schema.tasks))
    made_by |= {"parents": parents, "recipe": section.model_dump(mode="json", exclude={"scratch"})}
    return Supervised(AgentFinetuning(agent, finetuning), made_by, section.fit)


def imagination(recipe: Recipe, run: Path) -> tuple[ImaginationTraining | WholeImaginationTraining, dict[str, Any]]:
    """The phase of the imagination stage and the ``made_by`` of its checkpoints; it starts from agent finetuning."""
    section, checkpoint = dreams_of(recipe), trained(run, "agent")
    made_by = {"parents": {"agent": checkpoint.fingerprint}, "recipe": section.model_dump(mode="json")}
    with _seeded(section.fit.seed):
        agent = restore_agent(checkpoint)
        if section.finetune == "heads":
            return ImaginationTraining(agent, section.loss), made_by
        source = latents(run, "train")
        made_by |= describe_agent(agent, list(source.schema.tasks))
        made_by["parents"]["encode"] = source.fingerprint
        rehearsal = agent_of(recipe)
        made_by["recipe"] |= {"rehearsal": rehearsal.model_dump(mode="json", include={"finetuning", "batches"})}
        return WholeImaginationTraining(agent, section.loss, finetuning_of(recipe, source.schema)), made_by


def acting_agent(run: Path, variant: str, checkpoint: Checkpoint | None = None) -> Agent:
    """The agent after ``agent``, ``agent_scratch`` or ``imagination``, or at a ``checkpoint`` of that stage, frozen."""
    found = checkpoint or trained(run, variant)
    if variant == "imagination":
        agent = trained(run, "agent")
        if found.made_by["parents"]["agent"] != agent.fingerprint:
            raise UserError(f"checkpoint {found.path}: it was trained on another agent than {agent.path}; use --from imagination")
        return restore_agent(found) if "dynamics" in found.made_by else load_heads(restore_agent(agent), found)
    return restore_agent(found)


class Dreamer:
    """Dreams numbered calls: call i starts from the contexts that the plan gives it and has its own seed, whoever dreams it.

    ``agent`` moves to ``device``; trajectories come back to the CPU.
    """

    def __init__(self, recipe: Recipe, run: Path, agent: Agent, *, device: str):
        self.config, self.agent, self.contexts = dreams_of(recipe), agent, feed("imagination", recipe, run)
        ladder, tasks = self.contexts.plan.tasks, len(self.contexts.source.schema.tasks)
        self.following = following(ladder, tasks, device) if self.config.prompts == "ladder" else None
        tuning = recipe.cluster.dreaming.on(device)
        tune_dreams(agent.to(device), tuning)
        self.engine = DreamEngine(agent.dynamics, slots=self.config.dreams_per_call, agent=agent, graph=tuning.graph)
        self.calls_per_update = self.config.contexts.batch_size // self.config.dreams_per_call

    def dream(self, call: int, version: int) -> Trajectory:
        """The rollouts of ``call``, by the agent as it is now, whose weights are of ``version``."""
        update, part = divmod(call, self.calls_per_update)
        context = self.contexts.load(update, rank=part, world=self.calls_per_update)
        assert isinstance(context, LatentClip)
        generator = torch.Generator().manual_seed(self.config.fit.seed * 1_000_003 + call)
        seeds = torch.randint(2**62, (context.latents.shape[0],), generator=generator).tolist()
        how = {"horizon": self.config.horizon, "sampling": Sampling(steps=self.config.sampling_steps), "following": self.following}
        trajectory = imagine(self.engine, context.to(self.engine.device), seeds=seeds, version=version, **how)
        return (trajectory if self.config.finetune == "all" else replace(trajectory, frames=None)).to("cpu")


def join(parts: list[Trajectory]) -> Trajectory:
    """One batch out of the calls of one update; its version is the oldest of theirs."""
    joined = iter([torch.cat(same) for same in zip(*(part.tensors() for part in parts), strict=True)])
    return replace(parts[0].map(lambda _: next(joined)), version=min(part.version for part in parts))


@torch.no_grad()
def encode_episode(tokenizer: Tokenizer, frames: Iterable[np.ndarray], chunk: int = 128) -> np.ndarray:
    """Latents float16 ``[T, l, c]`` of the pictures ``[y, x, 3]`` of one episode, as one pass over the whole episode would give them.

    Pictures are taken a chunk at a time, the next chunk while one is encoded. A frame sees at most (context - 1) frames back per time
    layer, so each chunk is encoded with that many frames before it.
    """
    transformer, coming, before, parts = tokenizer.encoder, iter(frames), [], []
    reach = transformer.axes.count("time") * (transformer.config.context - 1)
    with ThreadPoolExecutor(1) as ahead:
        taken = ahead.submit(lambda: list(islice(coming, chunk)))
        while new := taken.result():
            taken = ahead.submit(lambda: list(islice(coming, chunk)))
            window = [*before, *new]
            latents = tokenizer.encode(torch.from_numpy(np.stack(window)).unsqueeze(0).to(tokenizer.mean.device))
            parts.append(latents[0, len(before) :].half().cpu().numpy())
            before = window[max(0, len(window) - reach) :]
    return np.concatenate(parts)


def mean_frame(shards: ShardSet, samples: int = MEAN_FRAME_SAMPLES) -> Tensor:
    """Mean picture ``[y, x, 3]`` in 0 .. 1 over about so many evenly spaced frames of a set: of large sets one of some episodes."""
    total, count = torch.zeros(*shards.schema.frame_shape, 3, dtype=torch.float64), 0
    per_episode = -(-samples // len(shards.episodes))
    for index in range(0, len(shards.episodes), max(1, len(shards.episodes) // samples)):
        chosen = shards.frames(index, slice(None, None, max(1, int(shards.lengths[index]) // per_episode)))
        total += torch.from_numpy(chosen).double().sum(0)
        count += len(chosen)
    return (total / (255 * count)).float()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights from a seed, leaving PyTorch's global generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
