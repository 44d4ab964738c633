"""Encoding: Ray Data hands out shard files, its tasks turn pictures into latents; a file that is there is never made again.

file numbers --Ray Data--> tasks (each process keeps the tokenizer) --> latent files --> statistics and manifest, last
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import TaskPoolStrategy

from dreamer_ray.data.shards import ShardFile, open_shards
from dreamer_ray.distributed.cluster import require
from dreamer_ray.encoding import Encoder, commit_encoding, encode_file, open_encoder
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import SPLITS


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
    commit_encoding(run, files)
    return {"frames": frames}


@lru_cache(maxsize=1)
def _open(run: str, device: str) -> Encoder:
    torch.set_num_threads(1)
    return open_encoder(Path(run), device)


def _encode_file(row: dict[str, Any]) -> dict[str, Any]:
    """The entry of the latents of file number ``row["file"]`` of ``row["split"]``."""
    return {"split": row["split"], "entry": encode_file(_open(row["run"], row["device"]), row["split"], row["file"]).model_dump_json()}
