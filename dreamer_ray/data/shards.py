"""Recorded episodes and the folders of Parquet files that hold them: rows are frames, a row group is an episode.

A folder is valid once its ``manifest.json`` stands, which is written last. Pictures are kept as PNG, lossless; the same files hold
latents (see ``latents.py``), with other bytes in the column ``payload``.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.config_file import parse_config
from dreamer_ray.data.rows import (
    REMEDY,
    Count,
    Episode,
    Rows,
    ShardSchema,
    decode_frame,
    events_of,
    from_table,
    table_schema,
    to_table,
)
from dreamer_ray.errors import UserError

FORMAT = 1
CACHE_BYTES = 2**30


class EpisodeEntry(Config):
    """An episode as the manifest lists it."""

    name: str
    length: Count
    info: dict[str, float | int | str]


class ShardFile(Config):
    """A Parquet file as the manifest lists it."""

    name: Annotated[str, Field(max_length=200)]
    sha256: str
    episodes: tuple[EpisodeEntry, ...]

    @property
    def frames(self) -> int:
        """Rows of the file."""
        return sum(episode.length for episode in self.episodes)


class Manifest(Config):
    """The manifest of a folder."""

    format: int
    shard_schema: ShardSchema
    files: tuple[ShardFile, ...]
    made_by: dict[str, Any]
    parents: dict[str, str]


class ShardSet:
    """A committed folder, open for reading. Encoded episodes are kept in a cache of ``cache_bytes``."""

    def __init__(self, folder: Path, manifest: Manifest, cache_bytes: int = CACHE_BYTES):
        self.folder, self.manifest, self.schema, self.files = folder, manifest, manifest.shard_schema, manifest.files
        self.episodes = [episode for file in manifest.files for episode in file.episodes]
        self.lengths = np.array([episode.length for episode in self.episodes])
        self._places = [(i, group) for i, file in enumerate(manifest.files) for group in range(len(file.episodes))]
        self._cache: OrderedDict[int, Rows] = OrderedDict()
        self._cache_bytes, self._cached = cache_bytes, 0

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the manifest."""
        return self.manifest.fingerprint()

    def rows(self, index: int) -> Rows:
        """Episode number ``index``, encoded."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        file, group = self._places[index]
        rows = from_table(self._table(self.files[file], [group]), self.schema)
        self._cache[index] = rows
        self._cached += rows.bytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].bytes
        return rows

    def frames(self, index: int, which: slice = slice(None)) -> np.ndarray:
        """Frames of episode number ``index``, decoded. Raises ``UserError`` with file, episode and frame where one is damaged."""
        payload, frames = self.rows(index).payload, []
        for number in range(len(payload))[which]:
            try:
                frames.append(decode_frame(payload[number], self.schema))
            except UserError as error:
                file = self.folder / self.files[self._places[index][0]].name
                raise UserError(f"shard {file}, episode {self.episodes[index].name}, frame {number}: {error}") from error
        return np.stack(frames)

    def read_episode(self, index: int) -> Episode:
        """Episode number ``index``, decoded."""
        rows, entry = self.rows(index), self.episodes[index]
        return Episode(entry.name, self.frames(index), rows.actions, rows.labelled, rows.events, rows.continues, dict(entry.info))

    def event_frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episode, frame and task of every event in the set."""
        tables = [self._table(file, list(range(len(file.episodes))), ["events"]) for file in self.files if file.episodes]
        parts = [events_of(table, self.schema) for table in tables]
        row, task = np.nonzero(np.concatenate(parts))
        ends = np.cumsum(self.lengths)
        episode = np.searchsorted(ends, row, side="right")
        return episode, row - (ends - self.lengths)[episode], task

    def verify(self) -> None:
        """Raises ``UserError`` where a file differs from its checksum."""
        for file in self.files:
            if (found := _checksum(self.folder / file.name)) != file.sha256:
                place = f"shard {self.folder / file.name}"
                raise UserError(f"{place}: SHA-256 {found[:12]}.., its manifest says {file.sha256[:12]}..; {REMEDY}")

    def _table(self, file: ShardFile, groups: list[int], columns: list[str] | None = None) -> pa.Table:
        """Row groups of ``file``, whose rows and columns are those that the manifest promises."""
        path, lengths = self.folder / file.name, [episode.length for episode in file.episodes]
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
                found = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
                fits = found == lengths and parquet.schema_arrow.equals(table_schema(self.schema))
                table = parquet.read_row_groups(groups, columns=columns) if fits else None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"shard {path}: cannot be read ({' '.join(str(error).split())}); {REMEDY}") from error
        if table is None or any(column.null_count for column in table.columns):
            raise UserError(f"shard {path}: its rows or columns are not those of its manifest; {REMEDY}")
        return table


def write_shard(folder: Path, name: str, episodes: Sequence[Episode], schema: ShardSchema) -> ShardFile:
    """Writes ``folder/name`` whole or not at all and returns its entry for the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / name, folder / f".{name}.partial"
    entries = [EpisodeEntry(name=e.name, length=len(e.frames), info=e.info) for e in episodes]
    notes = {"schema": schema.model_dump(mode="json"), "episodes": [entry.model_dump(mode="json") for entry in entries]}
    columns = table_schema(schema).with_metadata({"dreamer_ray": json.dumps(notes)})
    with pq.ParquetWriter(partial, columns, compression="none", write_page_checksum=True) as writer:
        for episode in episodes:
            writer.write_table(to_table(episode, schema, columns), row_group_size=len(episode.frames))
    _replace(partial, path)
    return ShardFile(name=name, sha256=_checksum(path), episodes=tuple(entries))


def existing_shard(folder: Path, name: str, schema: ShardSchema, episodes: Sequence[str]) -> ShardFile | None:
    """The entry of ``folder/name`` where an interrupted stage has already written it with this schema and these episodes."""
    path = folder / name
    try:
        notes = json.loads((pq.read_schema(path).metadata or {})[b"dreamer_ray"])
    except (OSError, ValueError, KeyError):  # not there, cut short (ArrowInvalid is a ValueError), or not one of ours
        return None
    if not isinstance(notes, dict) or notes.get("schema") != schema.model_dump(mode="json"):
        return None
    if [entry["name"] for entry in notes["episodes"]] != list(episodes):
        return None
    entries = tuple(parse_config(EpisodeEntry, entry, str(path)) for entry in notes["episodes"])
    return ShardFile(name=name, sha256=_checksum(path), episodes=entries)


def commit_manifest(
    folder: Path, schema: ShardSchema, files: Sequence[ShardFile], *, made_by: dict[str, Any], parents: dict[str, str]
) -> None:
    """Writes the manifest, which makes the folder a valid set."""
    manifest = Manifest(format=FORMAT, shard_schema=schema, files=tuple(files), made_by=made_by, parents=parents)
    partial = folder / ".manifest.partial"
    partial.write_text(manifest.model_dump_json(indent=1))
    _replace(partial, folder / "manifest.json")


def open_shards(folder: Path) -> ShardSet:
    """Opens a committed folder. Raises ``UserError`` where it is unfinished, empty, of another format, or lacks files."""
    return ShardSet(folder, read_manifest(folder))


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest of ``folder``; see ``open_shards``."""
    path = folder / "manifest.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"data set {folder}: has no manifest.json, so the stage that makes it has not finished; run it first") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data set {path}: cannot be read ({error}); {REMEDY}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"data set {path}: format {found}, this version reads {FORMAT}; {REMEDY}")
    manifest = parse_config(Manifest, values, str(path))
    for file in manifest.files:
        if Path(file.name).name != file.name:
            raise UserError(f"data set {path}: file name {file.name!r} leads out of the folder")
        if not (folder / file.name).is_file():
            raise UserError(f"data set {path}: its file {file.name} is missing; {REMEDY}")
    if not any(file.episodes for file in manifest.files):
        raise UserError(f"data set {folder}: holds no episode; record or ingest some first")
    return manifest


def _replace(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
