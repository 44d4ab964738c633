"""An episode as columns of a table, a row a frame: what the Parquet files of ``shards.py`` hold."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.codecs import H264, Jpeg
from dreamer_ray.data.coding import PACKETS, Coded, Kind, code_latents, code_pictures
from dreamer_ray.data.links import Links, read_links
from dreamer_ray.types import ActionSpace, Categorical, Continuous

Count = Annotated[int, Field(gt=0, lt=2**31)]
REMEDY = "redo the stage that made it with --from"


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

    codec: Kind
    frame_shape: tuple[Count, Count]
    """Rows and columns of a picture, or latents and channels (codec float16)."""
    action_space: ActionSpace
    """Empty where no action is known."""
    tasks: tuple[str, ...]
    fps: float


@dataclass(frozen=True)
class Rows:
    """One episode as it lies in the file, its frames still compressed."""

    coded: Coded
    actions: dict[str, np.ndarray]
    labelled: np.ndarray
    events: np.ndarray
    continues: np.ndarray

    @property
    def bytes(self) -> int:
        """Memory of the compressed frames."""
        return self.coded.bytes

    def unlabelled(self) -> "Rows":
        """The same frames without what is known of them: no actions, no events."""
        actions = {name: np.zeros_like(values) for name, values in self.actions.items()}
        return Rows(self.coded, actions, np.zeros_like(self.labelled), np.zeros_like(self.events), self.continues)


@dataclass(frozen=True)
class CodedEpisode:
    """An episode ready to be written."""

    name: str
    rows: Rows
    info: dict[str, float | int | str]

    @property
    def length(self) -> int:
        """Frames."""
        return len(self.rows.coded.payload)


def code_episode(episode: Episode, schema: ShardSchema) -> CodedEpisode:
    """``episode`` with its frames compressed; JPEG and H.264 as they are by default."""
    if schema.codec == "float16":
        coded = code_latents(episode.frames)
    else:
        codec = {"h264": H264(), "jpeg": Jpeg()}.get(schema.codec)
        coded = code_pictures(episode.frames, codec, shape=schema.frame_shape, fps=schema.fps)
    return CodedEpisode(episode.name, Rows(coded, episode.actions, episode.labelled, episode.events, episode.continues), episode.info)


def table_schema(schema: ShardSchema) -> pa.Schema:
    """Columns and their types."""
    fields = [pa.field("labelled", pa.bool_()), pa.field("continues", pa.float32())]
    if schema.codec == "link":
        fields = [pa.field("video", pa.string()), *(pa.field(name, pa.int64()) for name in ("offset", "size", "crc32")), *fields]
    else:
        fields.insert(0, pa.field("payload", pa.binary()))
    if schema.codec in PACKETS:
        fields += [pa.field("begins", pa.bool_()), pa.field("extradata", pa.binary())]
    if schema.tasks:
        fields.append(pa.field("events", pa.binary(len(schema.tasks))))
    for name, component in schema.action_space.items():
        kind = pa.float32() if isinstance(component, Continuous) else pa.int64()
        fields.append(pa.field(f"action.{name}", kind if isinstance(component, Categorical) else pa.list_(kind, component.size)))
    return pa.schema(fields)


def to_table(rows: Rows, columns_schema: pa.Schema) -> pa.Table:
    """``rows`` as a table of ``columns_schema``."""
    columns: dict[str, Any] = {
        "payload": rows.coded.payload,
        "labelled": rows.labelled,
        "continues": rows.continues.astype(np.float32),
        "begins": rows.coded.begins,
        "extradata": [rows.coded.extradata] * len(rows.coded.payload),
        "events": [row.tobytes() for row in np.ascontiguousarray(rows.events, np.uint8)],
    }
    columns |= {f"action.{name}": list(values) for name, values in rows.actions.items()}
    if links := rows.coded.links:
        columns |= {"video": [links.video] * len(links.offsets), "offset": links.offsets, "size": links.sizes, "crc32": links.checksums}
    arrays = {name: pa.array(columns[name], columns_schema.field(name).type) for name in columns_schema.names}
    return pa.table(arrays, schema=columns_schema)


def from_table(table: pa.Table, schema: ShardSchema) -> Rows:
    """The inverse of ``to_table``. Raises ``UserError`` where a linked video has changed."""
    actions = {}
    for name, component in schema.action_space.items():
        column = table[f"action.{name}"].combine_chunks()
        flat = column if isinstance(component, Categorical) else column.flatten()
        values = flat.to_numpy(zero_copy_only=False)
        actions[name] = values if isinstance(component, Categorical) else values.reshape(-1, component.size)
    return Rows(_coded(table, schema), actions, table["labelled"].to_numpy(), events_of(table, schema), table["continues"].to_numpy())


def _coded(table: pa.Table, schema: ShardSchema) -> Coded:
    if schema.codec not in PACKETS:
        return Coded(table["payload"].to_pylist(), np.ones(table.num_rows, bool))
    links = None
    if schema.codec == "link":
        links = Links(table["video"][0].as_py(), *(table[name].to_numpy() for name in ("offset", "size", "crc32")))
    payload = read_links(links) if links else table["payload"].to_pylist()
    return Coded(payload, table["begins"].to_numpy(), table["extradata"][0].as_py(), links)


def events_of(table: pa.Table, schema: ShardSchema) -> np.ndarray:
    """The column of events, uint8 ``[T, m]``."""
    if not schema.tasks:
        return np.zeros((table.num_rows, 0), np.uint8)
    return np.frombuffer(b"".join(table["events"].to_pylist()), np.uint8).reshape(-1, len(schema.tasks))
