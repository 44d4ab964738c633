"""Rows of a LeRobot data set: columns of numbers, and pictures that lie among them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float
from PIL import Image

from dreamer_ray.data.foreign import inside
from dreamer_ray.data.sources import BadRecordingError

NUMBERS = {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
"""Data types of features that are numbers."""


def numbers(table: pa.Table, name: str, width: int, path: Path) -> Float[np.ndarray, "t width"]:
    """Column ``name``, ``width`` finite numbers a row. Raises ``BadRecordingError`` naming ``path`` and the column."""
    try:
        column = pa.concat_arrays(table[name].chunks) if table.num_rows else pa.array([], pa.float64())
        nested = _is_list(column.type)
        even = not nested or len(pc.call_function("list_value_length", [column]).unique()) == 1
        while _is_list(column.type) and not column.null_count:
            column = column.flatten()
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise BadRecordingError(f"{path}: column {name} is {table.schema.field(name).type}, wanted numbers ({error})") from error
    if not even or column.null_count or values.size != table.num_rows * width:
        raise BadRecordingError(f"{path}: column {name} does not hold {width} numbers in each of its {table.num_rows} rows")
    values = values.reshape(-1, width)
    if (bad := ~np.isfinite(values).all(axis=1)).any():
        raise BadRecordingError(f"{path}: column {name} is not finite in row {int(bad.argmax())} of the episode")
    return values


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def pictures_in(table: pa.Table, camera: str, folder: Path) -> Iterator[np.ndarray]:
    """The pictures of column ``camera``, uint8 ``[y, x, 3]`` RGB: bytes of a PNG or JPEG, or its path. Raises ``BadRecordingError``."""
    for t, cell in enumerate(table[camera]):
        value = cell.as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
        if not isinstance(data, bytes) and not isinstance(path, str):
            raise BadRecordingError(f"{folder}: column {camera}, row {t} of the episode: neither bytes nor the path of a picture")
        try:
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else inside(folder, str(path)), formats=["PNG", "JPEG"]) as picture:
                yield np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadRecordingError(f"{folder}: column {camera}, row {t} of the episode: no picture ({error})") from error
