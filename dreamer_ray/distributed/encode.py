"""Encoding: Ray Data reads the shard files, tokenizer actors turn pictures into latents; a file that is there is never made again.

    file names --Ray Data--> Encoder actors (tokenizer) --> latent files --> statistics and manifest, last
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext

from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.shards import Episode, ShardFile, ShardSet, existing_shard, open_shards
from dreamer_ray.distributed.cluster import require_cpus
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import encode_episode, trained
from dreamer_ray.training.restore import restore_tokenizer

SPLITS = ("train", "heldout")


def encode(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Encodes both splits of ``run/record`` into ``run/encode``; returns figures for the stage's manifest."""
    require_cpus(recipe.cluster.replicas + 1, "encoding")
    sources = {split: open_shards(run / "record" / split) for split in SPLITS}
    rows = [{"run": str(run), "split": split, "file": number} for split in SPLITS for number in range(len(sources[split].files))]
    progress = Progress("encode", sum(int(source.lengths.sum()) for source in sources.values()), "frames")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Encoder, compute=ActorPoolStrategy(size=recipe.cluster.replicas), num_cpus=1
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
        )
    return {"frames": frames}


class Encoder:
    """Encodes one file of episodes a call; Ray Data keeps a pool of these."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.run: Path | None = None

    def _open(self, run: Path) -> None:
        checkpoint = trained(run, "tokenizer")
        self.run, self.fingerprint = run, checkpoint.fingerprint
        self.tokenizer = restore_tokenizer(checkpoint)
        self.sources = {split: open_shards(run / "record" / split) for split in SPLITS}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes the latents of file number ``row["file"]`` of ``row["split"]`` unless they are there."""
        if self.run is None:
            self._open(Path(row["run"]))
        assert self.run is not None
        split, source = row["split"], self.sources[row["split"]]
        file = source.files[row["file"]]
        folder = self.run / "encode" / split
        config = self.tokenizer.config
        schema = latent_schema(source.schema, config.latents, config.channels)
        name = f"{Path(file.name).stem}-{self.fingerprint[:8]}.parquet"
        entry = existing_shard(folder, name, schema, [episode.name for episode in file.episodes])
        if entry is None:
            first = sum(len(before.episodes) for before in source.files[: row["file"]])
            episodes = [self._encode(source, first + i) for i in range(len(file.episodes))]
            entry = write_latents(folder, name, episodes, schema)
        return {"split": split, "entry": entry.model_dump_json()}

    def _encode(self, source: ShardSet, index: int) -> Episode:
        episode = source.read_episode(index)
        return replace(episode, frames=encode_episode(self.tokenizer, episode.frames))
