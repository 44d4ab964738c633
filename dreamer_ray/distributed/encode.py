"""Encoding: Ray Data hands out shard files, its actors turn pictures into latents; a file that is there is never made again.

file numbers --Ray Data--> a pool of Encoder actors (each keeps the tokenizer) --> latent files --> statistics and manifest, last
"""

from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy

from dreamer_ray.data.shards import ShardFile, open_shards
from dreamer_ray.distributed.cluster import require
from dreamer_ray.encoding import commit_encoding, encode_file, open_encoder
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import SPLITS

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
    commit_encoding(run, files)
    return {"frames": frames}


class Encoder:
    """Turns the pictures of shard files into latents; one stands in each actor of the pool, with the tokenizer."""

    def __init__(self, run: str, device: str):
        torch.set_num_threads(1)
        self.opened = open_encoder(Path(run), device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The entry of the latents of file number ``row["file"]`` of ``row["split"]``."""
        return {"split": row["split"], "entry": encode_file(self.opened, row["split"], row["file"]).model_dump_json()}
