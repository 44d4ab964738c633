"""How fast this machine dreams, trains and reads data with the sizes of a recipe, beside what the machine itself can do.

Weights and data are made up for it: speed does not depend on their values. Parts are timed one by one, "rest" is what the whole takes
beyond their sum: Python, bookkeeping and, for a frame, the random numbers.
"""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamer_ray.config import Config, parse_config
from dreamer_ray.data.batches import BatchConfig, BatchPlan, load
from dreamer_ray.data.crafter import episode_plan, record_episode, shard_schema
from dreamer_ray.data.latents import LatentSet, commit_latents, latent_schema, open_latents, write_latents
from dreamer_ray.data.shards import ShardSet, commit_manifest, open_shards, write_shard
from dreamer_ray.envs.crafter import ACTION_SPACE, LADDER, TASKS
from dreamer_ray.errors import UserError
from dreamer_ray.estimate import matrix_product_speed, seconds_of
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling, commit_frame, commit_pass, sample_frame
from dreamer_ray.models.actions import no_actions
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.models.dynamics import Conditioning
from dreamer_ray.nn.transformer import TransformerCache
from dreamer_ray.phases.agent_finetuning import AgentFinetuning
from dreamer_ray.phases.dynamics_pretraining import DynamicsPretraining
from dreamer_ray.phases.phase import Phase
from dreamer_ray.phases.tokenizer_pretraining import TokenizerPretraining
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import new_models
from dreamer_ray.training.optimizer import OptimizerConfig, make_optimizer
from dreamer_ray.types import Annotations, Clip, LatentClip

Kind = Literal["engine", "train", "data"]
ROUNDS = 3
"""In which the parts of a whole are timed by turns."""
EPISODES = 4
"""Recorded for the measurement of data."""
COPIED_BYTES = 2**27


class Machine(Config):
    """Where it was measured, and what big matrix products and copies reach there."""

    name: str
    device: str
    threads: int
    torch: str
    operations_per_second: float
    bytes_per_second: float
    """Read and written together."""


class Rate(Config):
    """One line of a table."""

    name: str
    per_second: float
    unit: str
    operations_per_second: float | None = None
    """Floating point operations of matrix products and attention."""
    bytes_per_second: float | None = None
    """The least that must move: weights and caches once a pass."""
    shares: dict[str, float] = Field(default_factory=dict)
    """Of the time, by part."""


class Bench(Config):
    """One table, as it is saved."""

    kind: Kind
    recipe: str
    recipe_fingerprint: str
    machine: Machine
    rates: tuple[Rate, ...]


def bench(kind: Kind, recipe: Recipe, *, worlds: Sequence[int], seconds: float, device: str, report: Callable[[Rate], object]) -> Bench:
    """Measures everything of ``kind``, about ``seconds`` for each figure; ``report`` hears of each line as it is there."""
    lines = {
        "engine": engine_rates(recipe, worlds=worlds, seconds=seconds, device=device),
        "train": training_rates(recipe, seconds=seconds, device=device),
        "data": data_rates(recipe, seconds=seconds),
    }
    machine, rates = this_machine(seconds, device), []
    for rate in lines[kind]:  # measured as they are asked for
        report(rate)
        rates.append(rate)
    return Bench(kind=kind, recipe=recipe.name, recipe_fingerprint=recipe.fingerprint(), machine=machine, rates=tuple(rates))


def this_machine(seconds: float, device: str) -> Machine:
    """The speed of a product of big matrices and of a copy of more than a processor's cache."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copying = seconds_of(lambda: target.copy_(source), seconds)
    return Machine(
        name=torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine(),
        device=device,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        operations_per_second=matrix_product_speed(4096 if device.startswith("cuda") else 1024, seconds, device),
        bytes_per_second=2 * COPIED_BYTES / copying,
    )


@torch.no_grad()
def engine_rates(recipe: Recipe, *, worlds: Sequence[int], seconds: float, device: str) -> Iterator[Rate]:
    """Dreamed frames a second, acted, judged and decoded, of so many worlds at once; with the commit pass and without it."""
    tokenizer, agent = new_models(recipe)
    for model in (tokenizer, agent):
        model.to(device).requires_grad_(False).eval()
    sampling = Sampling(steps=recipe.imagination.sampling_steps)
    for rows in worlds:
        for chosen in (sampling, replace(sampling, commit=False)):
            engine = DreamEngine(agent.dynamics, slots=rows, agent=agent, tokenizer=tokenizer)
            context = _latent_clip(recipe, rows, recipe.dynamics.model.transformer.context).to(device)
            engine.join(context, list(range(rows)), sampling=chosen)
            name = f"{rows} world{'s' if rows > 1 else ''}" + ("" if chosen.commit else ", no commit")
            yield _engine_rate(name, engine, chosen, seconds)


def _engine_rate(name: str, engine: DreamEngine, sampling: Sampling, seconds: float) -> Rate:
    def frame() -> None:
        engine.dream(engine.act(sampling=sampling), sampling=sampling)

    with FlopCounterMode(display=False) as operations:
        frame()
    parts = _seconds_of_each({"whole": frame} | _engine_parts(engine, sampling), seconds)
    whole = parts.pop("whole")
    rows, moved = len(engine.streams.rows), (sampling.steps + sampling.commit) * _bytes(engine.dynamics.transformer, engine.cache)
    if engine.tokenizer is not None and engine.decoder_cache is not None:
        moved += _bytes(engine.tokenizer.decoder, engine.decoder_cache)
    return Rate(
        name=name,
        per_second=rows / whole,
        unit="frames",
        operations_per_second=operations.get_total_flops() / whole,
        bytes_per_second=moved / whole,
        shares={part: taken / whole for part, taken in parts.items()} | {"rest": 1 - sum(parts.values()) / whole},
    )


def _engine_parts(engine: DreamEngine, sampling: Sampling) -> dict[str, Callable[[], object]]:
    agent, tokenizer, dynamics, streams = engine.agent, engine.tokenizer, engine.dynamics, engine.streams
    assert agent is not None
    assert tokenizer is not None
    rows, device = len(streams.rows), engine.device
    noise = streams.normal(1, *dynamics.latent_mean.shape)
    uniform, clean = streams.uniform(draw_count(dynamics.actions.space)), dynamics.restore(noise)
    known = torch.ones(rows, 1, dtype=torch.bool, device=device)
    actions = {key: value.unsqueeze(1) for key, value in no_actions(dynamics.actions.space, rows, device).items()}
    told = Conditioning(actions, known)
    asked = replace(told, agent=agent.prompt(engine.task, 1))
    first = told if sampling.commit else asked

    def heads() -> None:
        agent.policy.now(engine.states).sample(uniform, 1.0)
        _ = agent.reward.now(engine.states).mean, agent.continues.probability(engine.states)

    parts: dict[str, Callable[[], object]] = {
        f"{sampling.steps} passes": lambda: sample_frame(dynamics, engine.cache, first, steps=sampling.steps, noise=noise),
        "heads": heads,
        "decode": lambda: tokenizer.decode(clean, cache=engine.decoder_cache),
    }
    if sampling.commit:
        parts["commit"] = lambda: commit_frame(dynamics, engine.cache, commit_pass(dynamics, asked, latents=noise, noise=noise))
    return parts


def training_rates(recipe: Recipe, *, seconds: float, device: str) -> Iterator[Rate]:
    """Frames a second of one training step of each supervised phase, bootstrapped rows included, on one worker."""
    tokenizer, agent = new_models(recipe)
    jobs = {
        "tokenizer": (TokenizerPretraining(tokenizer), recipe.tokenizer, _pictures),
        "dynamics": (DynamicsPretraining(agent.dynamics, recipe.dynamics.forcing), recipe.dynamics, _latent_clip),
        "agent": (AgentFinetuning(agent, recipe.agent.finetuning), recipe.agent, _latent_clip),
    }
    for name, (phase, section, made_up) in jobs.items():
        batch = made_up(recipe, section.batches.batch_size, section.batches.length).to(device)
        yield _training_rate(name, phase.to(device), batch, section.fit.optimizer, seconds)


def _training_rate(name: str, phase: Phase, batch: Clip | LatentClip, config: OptimizerConfig, seconds: float) -> Rate:
    optimizer, generator = make_optimizer(phase, config), torch.Generator().manual_seed(0)

    def forward() -> Tensor:
        return phase(batch, generator=generator, progress=1 - 1e-6).total

    def update() -> None:
        nn.utils.clip_grad_norm_(phase.parameters(), config.clip)
        optimizer.step()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        update()

    step()
    with FlopCounterMode(display=False) as operations:
        forward().backward()
    taken = _seconds_of_each({"whole": step, "forward": forward, "optimizer": update}, seconds)
    whole = taken.pop("whole")
    shares = {part: each / whole for part, each in taken.items()}
    frames = len(batch.notes.labelled.flatten())
    return Rate(
        name=f"{name}, {batch.notes.labelled.shape[0]} x {batch.notes.labelled.shape[1]} frames",
        per_second=frames / whole,
        unit="frames",
        operations_per_second=operations.get_total_flops() / whole,
        shares=shares | {"backward": 1 - sum(shares.values())},
    )


def data_rates(recipe: Recipe, *, seconds: float) -> Iterator[Rate]:
    """Frames a second of recording, of writing shards and of reading batches of pictures and latents, in one process."""
    plans, schema = episode_plan(recipe.data.crafter)[:EPISODES], shard_schema(recipe.data.crafter)
    begun = perf_counter()
    episodes = [record_episode(recipe.data.crafter, plan) for plan in plans]
    frames = sum(len(episode.frames) for episode in episodes)
    yield Rate(name="record (played by script)", per_second=frames / (perf_counter() - begun), unit="frames")
    with TemporaryDirectory() as folder:
        place = Path(folder) / "pictures"
        writing = seconds_of(lambda: write_shard(place, "a.parquet", episodes, schema), seconds)
        yield Rate(name="write shards of pictures", per_second=frames / writing, unit="frames")
        commit_manifest(place, schema, [write_shard(place, "a.parquet", episodes, schema)], made_by={}, parents={})
        yield _reading("read batches of pictures", open_shards(place), recipe.tokenizer.batches, seconds)
        sizes = recipe.tokenizer.model
        latents = latent_schema(schema, sizes.latents, sizes.channels)
        place = Path(folder) / "latents"
        made_up = [replace(e, frames=np.zeros((len(e.frames), sizes.latents, sizes.channels), np.float16)) for e in episodes]
        files = [write_latents(place, "a.parquet", made_up, latents)]
        commit_latents(place, latents, files, made_by={}, parents={"tokenizer": ""})
        yield _reading("read batches of latents", open_latents(place, tokenizer_fingerprint=""), recipe.dynamics.batches, seconds)


def _reading(name: str, source: ShardSet | LatentSet, config: BatchConfig, seconds: float) -> Rate:
    plan, step = BatchPlan(source, config, steps=10**5, tasks=LADDER), count()
    taken = seconds_of(lambda: load(source, plan, next(step), rank=0, world=1), seconds)
    frames = [len(plan.refs(i)) * plan.refs(i)[0].length for i in range(100)]
    return Rate(name=name, per_second=float(np.mean(frames)) / taken, unit="frames")


def read_bench(path: Path, kind: Kind, recipe: Recipe) -> Bench:
    """The table saved at ``path``. Raises ``UserError`` where it cannot be read, or is of another kind or another recipe."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no table that bench saved ({' '.join(str(error).split())})") from error
    saved = parse_config(Bench, values, str(path))
    if saved.kind != kind:
        raise UserError(f"{path}: holds a table of {saved.kind}, not of {kind}")
    if saved.recipe_fingerprint != recipe.fingerprint():
        raise UserError(f"{path}: the recipe {saved.recipe} had other values when it was saved; rates of equal recipes can be compared")
    return saved


def _seconds_of_each(jobs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each job; rounds of all jobs follow each other, so that a change of the machine's speed meets all of them."""
    rounds = [{name: seconds_of(job, seconds / ROUNDS) for name, job in jobs.items()} for _ in range(ROUNDS)]
    return {name: median(found[name] for found in rounds) for name in jobs}


def _bytes(module: nn.Module, cache: TransformerCache) -> int:
    tensors = [*module.parameters(), *(tensor for ring in cache.rings for tensor in (ring.keys, ring.values))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _pictures(recipe: Recipe, rows: int, frames: int) -> Clip:
    side = recipe.data.crafter.size
    return Clip(torch.randint(0, 256, (rows, frames, side, side, 3), dtype=torch.uint8), _notes(rows, frames))


def _latent_clip(recipe: Recipe, rows: int, frames: int) -> LatentClip:
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
