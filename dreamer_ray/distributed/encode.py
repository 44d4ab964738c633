"""Encoding: Ray Data hands out shard files, its tasks turn pictures into latents; a file that is there is never made again.

file numbers --Ray Data--> tasks (each process keeps the tokenizer) --> latent files --> statistics and manifest, last
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import TaskPoolStrategy

from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.shards import ShardFile, ShardSet, existing_shard, open_shards, read_manifest
from dreamer_ray.distributed.cluster import require
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import encode_episode, trained
from dreamer_ray.training.restore import restore_tokenizer

SPLITS = ("train", "heldout")


def encode(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Encodes both splits of ``run/record`` into ``run/encode``; returns figures for the stage's manifest."""
    require(recipe, "encode", "CPU")
    sources = {split: open_shards(run / "record" / split) for split in SPLITS}
    cluster = recipe.cluster
    rows = [
        {"run": str(run), "device": cluster.replica_device, "split": split, "file": number}
        for split in SPLITS
        for number in range(len(sources[split].files))
    ]
    progress = Progress("encode", sum(int(source.lengths.sum()) for source in sources.values()), "frames")
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _encode_file, compute=TaskPoolStrategy(size=cluster.replicas), num_cpus=1, num_gpus=cluster.gpus_per_replica or None
    )
    files: dict[str, list[ShardFile]] = {split: [] for split in SPLITS}
    frames = 0
    for row in encoded.iter_rows():
        files[row["split"]].append(ShardFile.model_validate_json(row["entry"]))
        frames += files[row["split"]][-1].frames
        progress.update(frames, {})
    tokenizer = trained(run, "tokenizer")
    shape = tokenizer.made_by["tokenizer"]
    for split, source in sources.items():
        commit_latents(
            run / "encode" / split,
            latent_schema(source.schema, shape["latents"], shape["channels"]),
            sorted(files[split], key=lambda file: file.name),
            made_by={},
            parents={"tokenizer": tokenizer.fingerprint, "record": source.fingerprint},
            origin=source.manifest.origin,
        )
    return {"frames": frames}


@dataclass(frozen=True)
class _Opened:
    """What a worker process keeps between files."""

    tokenizer: Tokenizer
    fingerprint: str
    sources: dict[str, ShardSet]


@lru_cache(maxsize=1)
def _open(run: str, device: str) -> _Opened:
    torch.set_num_threads(1)
    checkpoint = trained(Path(run), "tokenizer")
    folders = {split: Path(run) / "record" / split for split in SPLITS}
    sources = {split: ShardSet(folder, read_manifest(folder), cache_bytes=0) for split, folder in folders.items()}
    return _Opened(restore_tokenizer(checkpoint).to(device), checkpoint.fingerprint, sources)


def _encode_file(row: dict[str, Any]) -> dict[str, Any]:
    """Writes the latents of file number ``row["file"]`` of ``row["split"]`` unless they are there."""
    opened, split = _open(row["run"], row["device"]), row["split"]
    source, config = opened.sources[split], opened.tokenizer.config
    file, folder = source.files[row["file"]], Path(row["run"]) / "encode" / split
    schema = latent_schema(source.schema, config.latents, config.channels)
    name = f"{Path(file.name).stem}-{opened.fingerprint[:8]}.parquet"
    entry = existing_shard(folder, name, schema, [episode.name for episode in file.episodes])
    if entry is None:
        first = sum(len(before.episodes) for before in source.files[: row["file"]])
        indices = range(first, first + len(file.episodes))
        encoded = (source.with_frames(i, encode_episode(opened.tokenizer, source.each_frame(i))) for i in indices)
        entry = write_latents(folder, name, encoded, schema)
    return {"split": split, "entry": entry.model_dump_json()}
