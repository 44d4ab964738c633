"""Recorded episodes and the folders of Parquet files that hold them: rows are frames, a row group is an episode.

A folder is valid once its ``manifest.json`` stands, which is written last. Pictures are kept compressed (see ``coding.py``); the same
files hold latents (see ``latents.py``), with other bytes in the column ``payload``.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dreamer_ray.config import fingerprint
from dreamer_ray.config_file import parse_config
from dreamer_ray.data.coding import decode_frames
from dreamer_ray.data.manifest import EpisodeEntry, Manifest, Origin, ShardFile
from dreamer_ray.data.rows import (
    REMEDY,
    CodedEpisode,
    Episode,
    Rows,
    ShardSchema,
    code_episode,
    events_of,
    from_table,
    table_schema,
    to_table,
)
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import UserError

FORMAT = 1
CACHE_BYTES = 2**30


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
        """Episode number ``index``, its frames still compressed."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        file, group = self._places[index]
        rows = from_table(self.table(self.files[file], [group]), self.schema)
        if not self.episodes[index].labelled:
            rows = rows.unlabelled()
        self._cache[index] = rows
        self._cached += rows.bytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].bytes
        return rows

    def frames(self, index: int, which: slice = slice(None)) -> np.ndarray:
        """Frames of episode number ``index``, decoded; ``which`` has no negative step. Raises what ``each_frame`` does."""
        return np.stack(list(self.each_frame(index, which)))

    def each_frame(self, index: int, which: slice = slice(None)) -> Iterator[np.ndarray]:
        """The frames of ``frames``, decoded one by one. Raises ``UserError`` with file, episode and frame where one is damaged."""
        coded, schema = self.rows(index).coded, self.schema
        numbers = range(len(coded.payload))[which]
        done = 0
        try:
            for frame in decode_frames(coded, numbers, codec=schema.codec, shape=schema.frame_shape, layout=self.manifest.origin.layout):
                yield frame
                done += 1
        except BadRecordingError as error:
            file, shape = self.folder / self.files[self._places[index][0]].name, " x ".join(map(str, schema.frame_shape))
            place = f"shard {file}, episode {self.episodes[index].name}, frame {numbers[done]}"
            raise UserError(f"{place}: a frame of a data set is no {schema.codec} of {shape} ({error}); {REMEDY}") from error

    def read_episode(self, index: int) -> Episode:
        """Episode number ``index``, decoded."""
        return self.with_frames(index, self.frames(index))

    def with_frames(self, index: int, frames: np.ndarray) -> Episode:
        """Episode number ``index`` with ``frames`` in place of its own."""
        rows, entry = self.rows(index), self.episodes[index]
        return Episode(entry.name, frames, rows.actions, rows.labelled, rows.events, rows.continues, dict(entry.info))

    def event_frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Episode, frame and task of every event in the set; one file is in memory at a time."""
        if not self.schema.tasks:
            none = np.zeros(0, np.int64)
            return none, none, none
        found, begin = [np.zeros((2, 0), np.int64)], 0
        for file in self.files:
            if file.episodes:
                known = np.repeat([episode.labelled for episode in file.episodes], [episode.length for episode in file.episodes])
                table = self.table(file, list(range(len(file.episodes))), ["events"])
                row, task = np.nonzero(events_of(table, self.schema) * known[:, None])
                found.append(np.stack([row + begin, task]))
                begin += len(known)
        (row, task), ends = np.concatenate(found, axis=1), np.cumsum(self.lengths)
        episode = np.searchsorted(ends, row, side="right")
        return episode, row - (ends - self.lengths)[episode], task

    def verify(self) -> None:
        """Raises ``UserError`` where a file differs from its checksum."""
        for file in self.files:
            if (found := checksum(self.folder / file.name)) != file.sha256:
                place = f"shard {self.folder / file.name}"
                raise UserError(f"{place}: SHA-256 {found[:12]}.., its manifest says {file.sha256[:12]}..; {REMEDY}")

    def table(self, file: ShardFile, groups: list[int], columns: list[str] | None = None) -> pa.Table:
        """Row groups of ``file``. Raises ``UserError`` where it is damaged, or holds other rows or columns than its entry promises."""
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


def write_shard(
    folder: Path,
    name: str,
    episodes: Iterable[Episode | CodedEpisode],
    schema: ShardSchema,
    *,
    job: str = "",
    dropped: Mapping[str, int] | None = None,
    mended: Mapping[str, int] | None = None,
) -> ShardFile:
    """Writes ``folder/name`` whole or not at all, an episode at a time, and returns its entry for the manifest.

    ``job`` is a fingerprint of what is done, for ``existing_shard``; ``dropped`` may still be filled while ``episodes`` are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / name, folder / f".{name}.partial"
    columns, entries = table_schema(schema), []
    try:
        with pq.ParquetWriter(partial, columns, compression="none", write_page_checksum=True) as writer:
            for episode in episodes:
                coded = code_episode(episode, schema) if isinstance(episode, Episode) else episode
                writer.write_table(to_table(coded.rows, columns), row_group_size=coded.length)
                entries.append(EpisodeEntry(name=coded.name, length=coded.length, info=coded.info))
            file = ShardFile(name=name, sha256="", episodes=tuple(entries), dropped=dict(dropped or {}), mended=dict(mended or {}))
            notes = {"schema": schema.model_dump(mode="json"), "job": job}
            notes |= file.model_dump(mode="json", include={"episodes", "dropped", "mended"})
            writer.add_key_value_metadata({"dreamer_ray": json.dumps(notes | {"sum": fingerprint(notes)})})
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _replace(partial, path)
    return file.model_copy(update={"sha256": checksum(path)})


def commit_manifest(
    folder: Path,
    schema: ShardSchema,
    files: Sequence[ShardFile],
    *,
    made_by: dict[str, Any],
    parents: dict[str, str],
    origin: Origin | None = None,
) -> None:
    """Writes the manifest, which makes the folder a valid set."""
    manifest = Manifest(format=FORMAT, shard_schema=schema, files=tuple(files), made_by=made_by, parents=parents, origin=origin or Origin())
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


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
