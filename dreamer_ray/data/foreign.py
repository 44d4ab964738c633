"""Files of other people's data sets, none of which is trusted: paths that stay in their folder, checked JSON, arrays without pickles."""

import hashlib
import io
import lzma
import os
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from dreamer_ray.data.sources import BadRecordingError

ARRAYS_BYTES = 2**31
"""Size, unpacked, from which on the arrays of one file are refused."""


class Foreign(BaseModel):
    """Base of what is read of a foreign JSON file: no conversion between types, finite numbers; unknown keys are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


F = TypeVar("F", bound=BaseModel)


def optional(default: Any) -> WrapValidator:
    """Of a field that a file may lack: what is not of its type is ``default``, and its name goes into the set that is the context."""

    def known(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo[set[str]]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            if info.context is not None:
                info.context.add(str(info.field_name))
            return default

    return WrapValidator(known)


def inside(folder: Path, name: str) -> Path:
    """The file ``name`` below ``folder``.

    Raises ``BadRecordingError`` where ``name`` is absolute, holds ``..``, is a link that leads out of ``folder``, or is no file.
    """
    path = folder / within(name)
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            remedy = "copy the data set with its links resolved (cp -rL), or name the folder that holds the files"
            raise BadRecordingError(f"{path}: is a link that leads out of {folder}; {remedy}")
        if not real.is_file():
            raise BadRecordingError(f"{path}: is not a file")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise BadRecordingError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    return path


def within(name: str) -> PurePosixPath:
    """``name`` as a relative path that does not climb. Raises ``BadRecordingError``."""
    path = PurePosixPath(name)
    if not path.parts or len(name) > 1000 or path.is_absolute() or ".." in path.parts or not set(name).isdisjoint("\\\0"):
        raise BadRecordingError(f"path {name!r:.200}: leads out of the data set's folder, or is no path")
    return path


def plain_name(path: str) -> str:
    """A recording's name for ``path``: of letters, digits, ``.``, ``_`` and ``-``, and another one for every path."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path)
    if plain == path and len(path) <= 200:
        return path
    return f"{plain[:150]}-{hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()}"


def read_bytes(path: Path) -> bytes:
    """All of a file. Raises ``BadRecordingError``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRecordingError(f"{path}: cannot be read ({error.strerror})") from error


def checked(model: type[F], text: bytes, place: str) -> F:
    """``text``, which is JSON, as a ``model``. Raises ``BadRecordingError`` naming ``place``, the key and its value."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explained(error, place) from None


def checked_values(model: type[F], values: dict, place: str) -> F:
    """The same of values that are read already."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error, place) from None


def _explained(error: ValidationError, place: str) -> BadRecordingError:
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    found = "" if first["type"] == "missing" else f" (found {first['input']!r:.80})"
    return BadRecordingError(f"{place}: {key + ': ' if key else ''}{first['msg']}{found}")


def checked_lines(model: type[F], path: Path) -> list[F]:
    """A file of one JSON object a line; blank lines are passed over. Raises ``BadRecordingError`` naming the line."""
    lines = enumerate(read_bytes(path).splitlines(), start=1)
    return [checked(model, line, f"{path}, line {number}") for number, line in lines if line.strip()]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name. Raises ``BadRecordingError``, also for arrays of objects, which would run code when read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if (size := sum(entry.file_size for entry in entries)) > ARRAYS_BYTES:
                raise BadRecordingError(f"{path}: unpacks to {size} bytes, more than {ARRAYS_BYTES}")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except (OSError, EOFError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError, SyntaxError) as error:
        raise BadRecordingError(f"{path}: cannot be read as arrays ({error})") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise BadRecordingError(f"{path}: is damaged ({error})") from error


def _array(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
