"""The encode stage, without Ray: the latents of one file of pictures, and the sets that all files make."""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from dreamer_ray.data.existing_shards import existing_shard
from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.shards import ShardFile, ShardSet, open_shards, read_manifest
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.stages import SPLITS, encode_episode, trained
from dreamer_ray.training.restore import restore_tokenizer


@dataclass(frozen=True)
class OpenEncoder:
    """What is kept between files."""

    run: Path
    tokenizer: Tokenizer
    fingerprint: str
    sources: dict[str, ShardSet]
    firsts: dict[str, list[int]]
    """Number of each file's first episode."""


def open_encoder(run: Path, device: str) -> OpenEncoder:
    """The tokenizer of ``run`` on ``device``, and its recordings."""
    checkpoint = trained(run, "tokenizer")
    folders = {split: run / "record" / split for split in SPLITS}
    sources = {split: ShardSet(folder, read_manifest(folder), cache_bytes=0) for split, folder in folders.items()}
    firsts = {split: list(accumulate((len(file.episodes) for file in source.files), initial=0)) for split, source in sources.items()}
    return OpenEncoder(run, restore_tokenizer(checkpoint).to(device), checkpoint.fingerprint, sources, firsts)


def encode_file(encoder: OpenEncoder, split: str, number: int) -> ShardFile:
    """Writes the latents of file ``number`` of ``split`` unless they are there."""
    source, config = encoder.sources[split], encoder.tokenizer.config
    file, folder = source.files[number], encoder.run / "encode" / split
    schema = latent_schema(source.schema, config.latents, config.channels)
    name = latents_name(file, encoder.fingerprint)
    entry = existing_shard(folder, name, schema, [episode.name for episode in file.episodes])
    if entry is not None:
        return entry
    indices = range(*encoder.firsts[split][number : number + 2])
    encoded = (source.with_frames(i, encode_episode(encoder.tokenizer, source.each_frame(i))) for i in indices)
    return write_latents(folder, name, encoded, schema)


def latents_name(file: ShardFile, tokenizer: str) -> str:
    """Name of the latents of ``file`` by the tokenizer of this fingerprint."""
    return f"{Path(file.name).stem}-{tokenizer[:8]}.parquet"


def commit_encoding(run: Path, files: dict[str, list[ShardFile]]) -> None:
    """Makes a set of latents of the ``files`` of each split, in the order of its recordings."""
    tokenizer = trained(run, "tokenizer")
    shape = tokenizer.made_by["tokenizer"]
    for split, done in files.items():
        source = open_shards(run / "record" / split)
        places = {latents_name(file, tokenizer.fingerprint): place for place, file in enumerate(source.files)}
        commit_latents(
            run / "encode" / split,
            latent_schema(source.schema, shape["latents"], shape["channels"]),
            sorted(done, key=lambda file: places[file.name]),
            made_by={},
            parents={"tokenizer": tokenizer.fingerprint, "record": source.fingerprint},
            origin=source.manifest.origin,
        )
