"""An episode as columns of a table, a row a frame: what the Parquet files of ``shards.py`` hold."""

import io
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError
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

    codec: Literal["png", "float16"]
    frame_shape: tuple[Count, Count]
    """Rows and columns of a picture (codec png), or latents and channels (codec float16)."""
    action_space: ActionSpace
    tasks: tuple[str, ...] = ()
    fps: float


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


def decode_frame(payload: bytes, schema: ShardSchema) -> np.ndarray:
    """One frame: uint8 ``[y, x, 3]``, or float16 ``[l, c]``. Raises ``UserError`` where ``payload`` is not one of the schema's."""
    try:
        if schema.codec == "float16":
            return np.frombuffer(payload, np.float16).reshape(schema.frame_shape)
        picture = Image.open(io.BytesIO(payload), formats=["PNG"])
        if (picture.height, picture.width, picture.mode) != (*schema.frame_shape, "RGB"):
            raise ValueError(f"{picture.mode} picture of {picture.height} x {picture.width}")
        return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        shape = " x ".join(map(str, schema.frame_shape))
        raise UserError(f"a frame of a data set is no {schema.codec} of {shape} ({error}); {REMEDY}") from error


def encode_frame(frame: np.ndarray, schema: ShardSchema) -> bytes:
    """The bytes that ``decode_frame`` reads."""
    if schema.codec == "float16":
        return frame.astype(np.float16).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def table_schema(schema: ShardSchema) -> pa.Schema:
    """Columns and their types."""
    fields = [pa.field("payload", pa.binary()), pa.field("labelled", pa.bool_()), pa.field("continues", pa.float32())]
    fields += [pa.field("events", pa.binary(len(schema.tasks) or -1))]
    for name, component in schema.action_space.items():
        kind = pa.float32() if isinstance(component, Continuous) else pa.int64()
        fields.append(pa.field(f"action.{name}", kind if isinstance(component, Categorical) else pa.list_(kind, component.size)))
    return pa.schema(fields)


def to_table(episode: Episode, schema: ShardSchema, columns_schema: pa.Schema) -> pa.Table:
    """``episode`` as a table of ``columns_schema``, its frames encoded."""
    columns: dict[str, Any] = {
        "payload": [encode_frame(frame, schema) for frame in episode.frames],
        "labelled": episode.labelled,
        "continues": episode.continues.astype(np.float32),
        "events": [row.tobytes() for row in np.ascontiguousarray(episode.events, np.uint8)],
    }
    columns |= {f"action.{name}": list(values) for name, values in episode.actions.items()}
    arrays = {name: pa.array(columns[name], columns_schema.field(name).type) for name in columns_schema.names}
    return pa.table(arrays, schema=columns_schema)


def from_table(table: pa.Table, schema: ShardSchema) -> Rows:
    """The inverse of ``to_table``, with the frames still encoded."""
    actions = {}
    for name, component in schema.action_space.items():
        column = table[f"action.{name}"].combine_chunks()
        flat = column if isinstance(component, Categorical) else column.flatten()
        values = flat.to_numpy(zero_copy_only=False)
        actions[name] = values if isinstance(component, Categorical) else values.reshape(-1, component.size)
    labelled, continues = table["labelled"].to_numpy(), table["continues"].to_numpy()
    return Rows(table["payload"].to_pylist(), actions, labelled, events_of(table, schema), continues)


def events_of(table: pa.Table, schema: ShardSchema) -> np.ndarray:
    """The column of events, uint8 ``[T, m]``."""
    return np.frombuffer(b"".join(table["events"].to_pylist()), np.uint8).reshape(table.num_rows, len(schema.tasks))
