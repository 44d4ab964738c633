"""Encoding: Ray Data hands out shard files, its actors turn pictures into latents; a file that is there is never made again.

file numbers --Ray Data--> a pool of Encoder actors (each keeps the tokenizer) --> latent files --> statistics and manifest, last
"""

from itertools import accumulate
from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy

from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.shards import ShardFile, ShardSet, existing_shard, open_shards, read_manifest
from dreamer_ray.distributed.cluster import require
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import encode_episode, trained
from dreamer_ray.training.restore import restore_tokenizer

SPLITS = ("train", "heldout")
IN_FLIGHT = 2


def encode(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Encodes both splits of ``run/record`` into ``run/encode``; returns figures for the stage's manifest."""
    require(recipe, "encode", "CPU")
    sources = {split: open_shards(run / "record" / split) for split in SPLITS}
    cluster = recipe.cluster
    rows = [{"split": split, "file": number} for split in SPLITS for number in range(len(sources[split].files))]
    progress = Progress("encode", sum(int(source.lengths.sum()) for source in sources.values()), "frames")
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Encoder,  # pyright: ignore[reportArgumentType] - Ray takes a class whose instances are callable
        fn_constructor_args=(str(run), cluster.replica_device),
        compute=ActorPoolStrategy(size=min(cluster.replicas, len(rows)), max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
        num_gpus=cluster.gpus_per_replica or None,
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


class Encoder:
    """Turns the pictures of shard files into latents; one stands in each actor of the pool, with the tokenizer."""

    def __init__(self, run: str, device: str):
        torch.set_num_threads(1)
        self.run, checkpoint = Path(run), trained(Path(run), "tokenizer")
        folders = {split: self.run / "record" / split for split in SPLITS}
        self.tokenizer, self.fingerprint = restore_tokenizer(checkpoint).to(device), checkpoint.fingerprint
        self.sources = {split: ShardSet(folder, read_manifest(folder), cache_bytes=0) for split, folder in folders.items()}
        self.firsts = {
            split: list(accumulate((len(file.episodes) for file in source.files), initial=0)) for split, source in self.sources.items()
        }

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes the latents of file number ``row["file"]`` of ``row["split"]`` unless they are there."""
        split, number = row["split"], row["file"]
        source, config = self.sources[split], self.tokenizer.config
        file, folder = source.files[number], self.run / "encode" / split
        schema = latent_schema(source.schema, config.latents, config.channels)
        name = f"{Path(file.name).stem}-{self.fingerprint[:8]}.parquet"
        entry = existing_shard(folder, name, schema, [episode.name for episode in file.episodes])
        if entry is None:
            indices = range(self.firsts[split][number], self.firsts[split][number + 1])
            encoded = (source.with_frames(i, encode_episode(self.tokenizer, source.each_frame(i))) for i in indices)
            entry = write_latents(folder, name, encoded, schema)
        return {"split": split, "entry": entry.model_dump_json()}
