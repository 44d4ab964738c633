"""Recorded episodes and the folders of Parquet files that hold them: rows are frames, a row group is an episode.

A folder is valid once its ``manifest.json`` stands, which is written last. Pictures are kept as PNG, lossless; the same files hold
latents (see ``latents.py``), with other bytes in the column ``payload``.
"""

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamer_ray.config import Config, parse_config
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Categorical, Continuous

FORMAT = 1
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Episode:
    """One recording on the host, frames and what is known of them, all of ``T`` frames."""

    name: str
    """Unique in its data set, such as ``train-000017``."""
    frames: np.ndarray
    """uint8 ``[T, y, x, 3]``, RGB; in a set of latents float16 ``[T, l, c]``."""
    actions: dict[str, np.ndarray]
    """``[T, ...]`` by component: ``a_t``, taken after ``o_t``; the last one is zeros, since it was never taken."""
    labelled: np.ndarray
    """bool ``[T]``: whether ``a_t`` is known; False at the last frame."""
    events: np.ndarray
    """uint8 ``[T, m]``: the tasks' events arriving with ``o_t``."""
    continues: np.ndarray
    """float32 ``[T]``: 0 only where ``o_t`` is terminal, such as death; 1 also on truncation."""
    info: dict[str, float | int | str]
    """Provenance: seed, skill and the like."""


class ShardSchema(Config):
    """What every row of a set is."""

    codec: Literal["png", "float16"]
    frame_shape: tuple[int, int]
    """Rows and columns of a picture (codec png), or latents and channels (codec float16)."""
    action_space: ActionSpace
    tasks: tuple[str, ...]
    fps: float


class EpisodeEntry(Config):
    """An episode as the manifest lists it."""

    name: str
    length: int
    info: dict[str, float | int | str]


class ShardFile(Config):
    """A Parquet file as the manifest lists it."""

    name: str
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


@dataclass(frozen=True)
class Rows:
    """One episode as it lies in the file, its frames still encoded."""

    payload: list[bytes]
    actions: dict[str, np.ndarray]
    labelled: np.ndarray
    events: np.ndarray
    continues: np.ndarray

    @property
    def bytes(self) -> int:
        """Memory of the encoded frames."""
        return sum(map(len, self.payload))


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
        path = self.folder / self.files[file].name
        try:
            rows = _from_table(pq.ParquetFile(path).read_row_group(group), self.schema)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"shard {path}, episode {self.episodes[index].name}: cannot be read ({error}); {_REMEDY}") from error
        self._cache[index] = rows
        self._cached += rows.bytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].bytes
        return rows

    def read_episode(self, index: int) -> Episode:
        """Episode number ``index``, decoded."""
        rows, entry = self.rows(index), self.episodes[index]
        frames = np.stack([decode_frame(frame, self.schema) for frame in rows.payload])
        return Episode(entry.name, frames, rows.actions, rows.labelled, rows.events, rows.continues, dict(entry.info))

    def event_frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episode, frame and task of every event in the set."""
        parts = []
        for file in self.files:
            column = pq.read_table(self.folder / file.name, columns=["events"])["events"]
            parts.append(np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, len(self.schema.tasks)))
        row, task = np.nonzero(np.concatenate(parts))
        ends = np.cumsum(self.lengths)
        episode = np.searchsorted(ends, row, side="right")
        return episode, row - (ends - self.lengths)[episode], task

    def verify(self) -> None:
        """Raises ``UserError`` where a file differs from its checksum."""
        for file in self.files:
            if (found := _checksum(self.folder / file.name)) != file.sha256:
                place = f"shard {self.folder / file.name}"
                raise UserError(f"{place}: SHA-256 {found[:12]}.., its manifest says {file.sha256[:12]}..; {_REMEDY}")


_REMEDY = "redo the stage that made it with --from"


def write_shard(folder: Path, name: str, episodes: Sequence[Episode], schema: ShardSchema) -> ShardFile:
    """Writes ``folder/name`` whole or not at all and returns its entry for the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / name, folder / f".{name}.partial"
    entries = [EpisodeEntry(name=e.name, length=len(e.frames), info=e.info) for e in episodes]
    notes = {"schema": schema.model_dump(mode="json"), "episodes": [entry.model_dump(mode="json") for entry in entries]}
    table_schema = _table_schema(schema).with_metadata({"dreamer_ray": json.dumps(notes)})
    with pq.ParquetWriter(partial, table_schema, compression={"payload": "none"}) as writer:
        for episode in episodes:
            writer.write_table(_to_table(episode, schema, table_schema), row_group_size=len(episode.frames))
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
    except (OSError, ValueError) as error:
        raise UserError(f"data set {path}: cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"data set {path}: format {found}, this version reads {FORMAT}; {_REMEDY}")
    manifest = parse_config(Manifest, values, str(path))
    for file in manifest.files:
        if Path(file.name).name != file.name:
            raise UserError(f"data set {path}: file name {file.name!r} leads out of the folder")
        if not (folder / file.name).is_file():
            raise UserError(f"data set {path}: its file {file.name} is missing; {_REMEDY}")
    if not any(file.episodes for file in manifest.files):
        raise UserError(f"data set {folder}: holds no episode; record or ingest some first")
    return manifest


def decode_frame(payload: bytes, schema: ShardSchema) -> np.ndarray:
    """One frame: uint8 ``[y, x, 3]``, or float16 ``[l, c]``."""
    if schema.codec == "float16":
        return np.frombuffer(payload, np.float16).reshape(schema.frame_shape)
    return np.asarray(Image.open(io.BytesIO(payload)))


def _encode_frame(frame: np.ndarray, schema: ShardSchema) -> bytes:
    if schema.codec == "float16":
        return frame.astype(np.float16).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _table_schema(schema: ShardSchema) -> pa.Schema:
    fields = [pa.field("payload", pa.binary()), pa.field("labelled", pa.bool_()), pa.field("continues", pa.float32())]
    fields += [pa.field("events", pa.binary(len(schema.tasks)))]
    for name, component in schema.action_space.items():
        kind = pa.float32() if isinstance(component, Continuous) else pa.int64()
        fields.append(pa.field(f"action.{name}", kind if isinstance(component, Categorical) else pa.list_(kind, component.size)))
    return pa.schema(fields)


def _to_table(episode: Episode, schema: ShardSchema, table_schema: pa.Schema) -> pa.Table:
    columns: dict[str, Any] = {
        "payload": [_encode_frame(frame, schema) for frame in episode.frames],
        "labelled": episode.labelled,
        "continues": episode.continues.astype(np.float32),
        "events": [row.tobytes() for row in np.ascontiguousarray(episode.events, np.uint8)],
    }
    columns |= {f"action.{name}": list(values) for name, values in episode.actions.items()}
    return pa.table({name: pa.array(columns[name], table_schema.field(name).type) for name in table_schema.names}, schema=table_schema)


def _from_table(table: pa.Table, schema: ShardSchema) -> Rows:
    actions = {}
    for name, component in schema.action_space.items():
        column = table[f"action.{name}"].combine_chunks()
        flat = column if isinstance(component, Categorical) else column.flatten()
        values = flat.to_numpy(zero_copy_only=False)
        actions[name] = values if isinstance(component, Categorical) else values.reshape(-1, component.size)
    events = np.frombuffer(b"".join(table["events"].to_pylist()), np.uint8).reshape(-1, len(schema.tasks))
    return Rows(table["payload"].to_pylist(), actions, table["labelled"].to_numpy(), events, table["continues"].to_numpy())


def _replace(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
