"""Frames a second that are recorded, written and read."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from dreamer_ray.bench.rates import Rate
from dreamer_ray.data.batches import BatchConfig, BatchPlan, load
from dreamer_ray.data.crafter import episode_plan, record_episode, shard_schema
from dreamer_ray.data.latents import LatentSet, commit_latents, latent_schema, open_latents, write_latents
from dreamer_ray.data.shards import ShardSet, commit_manifest, open_shards, write_shard
from dreamer_ray.domain import domain_of
from dreamer_ray.errors import UserError
from dreamer_ray.estimate import seconds_of
from dreamer_ray.recipe import Recipe

EPISODES = 4
"""Recorded for the measurement."""


def data_rates(recipe: Recipe, *, seconds: float) -> Iterator[Rate]:
    """Frames a second of recording, of writing shards and of reading batches of pictures and latents, in one process."""
    if (config := recipe.data.crafter) is None:
        raise UserError(
            "bench data: records and reads Crafter, and the data of this recipe are recordings; name a recipe with data.crafter"
        )
    plans, schema = episode_plan(config)[:EPISODES], shard_schema(config)
    ladder = domain_of(recipe, schema).ladder
    begun = perf_counter()
    episodes = [record_episode(config, plan) for plan in plans]
    frames = sum(len(episode.frames) for episode in episodes)
    yield Rate(name="record (played by script)", per_second=frames / (perf_counter() - begun), unit="frames")
    with TemporaryDirectory() as folder:
        place = Path(folder) / "pictures"
        writing = seconds_of(lambda: write_shard(place, "a.parquet", episodes, schema), seconds)
        yield Rate(name="write shards of pictures", per_second=frames / writing, unit="frames")
        commit_manifest(place, schema, [write_shard(place, "a.parquet", episodes, schema)], made_by={}, parents={})
        yield _reading("read batches of pictures", open_shards(place), recipe.tokenizer.batches, ladder, seconds)
        sizes = recipe.tokenizer.model
        latents = latent_schema(schema, sizes.latents, sizes.channels)
        place = Path(folder) / "latents"
        made_up = [replace(e, frames=np.zeros((len(e.frames), sizes.latents, sizes.channels), np.float16)) for e in episodes]
        files = [write_latents(place, "a.parquet", made_up, latents)]
        commit_latents(place, latents, files, made_by={}, parents={"tokenizer": ""})
        yield _reading("read batches of latents", open_latents(place, tokenizer_fingerprint=""), recipe.dynamics.batches, ladder, seconds)


def _reading(name: str, source: ShardSet | LatentSet, config: BatchConfig, ladder: tuple[str, ...], seconds: float) -> Rate:
    plan, step = BatchPlan(source, config, steps=10**5, tasks=ladder), count()
    taken = seconds_of(lambda: load(source, plan, next(step), rank=0, world=1), seconds)
    frames = [len(plan.refs(i)) * plan.refs(i)[0].length for i in range(100)]
    return Rate(name=name, per_second=float(np.mean(frames)) / taken, unit="frames")
