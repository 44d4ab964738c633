"""Sets of latents: the files of ``shards.py`` with half-precision latents for frames, bound to the tokenizer that made them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dreamer_ray.config import Config
from dreamer_ray.config_file import parse_config
from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import Origin, ShardFile, ShardSet, commit_manifest, open_shards, write_shard
from dreamer_ray.errors import UserError


class Statistics(Config):
    """Of each number of a latent over all frames of a set, ``[l, c]``."""

    mean: tuple[tuple[float, ...], ...]
    std: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...]


class LatentSet(ShardSet):
    """A committed folder of latents with the mean and deviation of each of their numbers, ``[l, c]``."""

    mean: Tensor
    std: Tensor


def latent_schema(pictures: ShardSchema, latents: int, channels: int) -> ShardSchema:
    """The schema of the latents of a set of pictures."""
    return pictures.model_copy(update={"codec": "float16", "frame_shape": (latents, channels)})


def write_latents(folder: Path, name: str, episodes: Iterable[Episode], schema: ShardSchema) -> ShardFile:
    """Like ``write_shard``, and keeps the sums that the statistics of the set are made from."""
    sums, squares, frames = np.zeros(schema.frame_shape), np.zeros(schema.frame_shape), 0

    def summed() -> Iterator[Episode]:
        nonlocal sums, squares, frames
        for episode in episodes:
            numbers = episode.frames.astype(np.float64)
            sums, squares, frames = sums + numbers.sum(0), squares + (numbers**2).sum(0), frames + len(numbers)
            yield episode

    file = write_shard(folder, f".{name}.first", summed(), schema)
    kept = {"count": frames, "sum": sums.tolist(), "squares": squares.tolist()}
    (folder / f"{name}.sums.json").write_text(json.dumps(kept))
    (folder / file.name).replace(folder / name)
    return file.model_copy(update={"name": name})


def commit_latents(
    folder: Path,
    schema: ShardSchema,
    files: Sequence[ShardFile],
    *,
    made_by: dict[str, Any],
    parents: dict[str, str],
    origin: Origin | None = None,
) -> None:
    """Computes the statistics over all ``files`` and writes the manifest; ``parents["tokenizer"]`` is the tokenizer's fingerprint.

    Raises ``UserError`` where a latent is not finite.
    """
    parts = [json.loads((folder / f"{file.name}.sums.json").read_text()) for file in files]
    count = sum(part["count"] for part in parts)
    mean, squares = (np.sum([part[name] for part in parts], axis=0) / count for name in ("sum", "squares"))
    if not np.isfinite(mean).all() or not np.isfinite(squares).all():
        raise UserError(f"latents {folder}: hold values that are not finite; the tokenizer diverged, train it again with --from tokenizer")
    statistics = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(squares - mean**2, 0)).tolist()}
    commit_manifest(folder, schema, files, made_by=made_by | {"statistics": statistics}, parents=parents, origin=origin)


def open_latents(folder: Path, *, tokenizer_fingerprint: str) -> LatentSet:
    """Opens a committed folder of latents. Raises ``UserError`` where another tokenizer made them or their statistics do not fit."""
    manifest = open_shards(folder).manifest
    made_by_tokenizer = manifest.parents.get("tokenizer")
    if made_by_tokenizer != tokenizer_fingerprint:
        raise UserError(
            f"latents {folder}: made by tokenizer {made_by_tokenizer}, but this run's tokenizer is {tokenizer_fingerprint}; "
            "encode again with --from encode"
        )
    latents = LatentSet(folder, manifest)
    statistics = parse_config(Statistics, manifest.made_by.get("statistics"), f"latents {folder}: statistics")
    count, channels = manifest.shard_schema.frame_shape
    if any([len(row) for row in rows] != [channels] * count for rows in (statistics.mean, statistics.std)):
        raise UserError(f"latents {folder}: their statistics are not {count} x {channels} numbers; encode again with --from encode")
    latents.mean, latents.std = torch.tensor(statistics.mean), torch.tensor(statistics.std)
    return latents
