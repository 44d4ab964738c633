"""Files of a data set wherever they lie: a local path, http(s), s3 or gs."""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, cast
from urllib.parse import quote, urlsplit

from pyarrow import fs

from dreamer_ray.errors import UserError

CHUNK = 1 << 20
WEB = {"http", "https"}
PAUSES = (0.5, 2.0, 8.0)
"""Seconds before a server that failed is asked again."""
ASK_AGAIN = {408, 429}
"""Of the HTTP statuses below 500, those that another try may change."""
log = logging.getLogger("dreamer_ray")
R = TypeVar("R")


def scheme(path: str) -> str:
    """What stands before ``://``, in lower case; empty for a local path."""
    return path.partition("://")[0].lower() if "://" in path else ""


def join(folder: str, path: str) -> str:
    """``path`` below ``folder``, quoted where that is a URL."""
    return f"{folder.rstrip('/')}/{quote(path) if scheme(folder) else path}"


def open_file(path: str) -> IO[bytes]:
    """The file at a path or URL, to be read from its start on; what ``fetch`` gives can be read in any order.

    A server that fails is asked again a few times, not so one that says that there is no such file. Raises ``OSError``.
    """
    return tried(path, lambda: _open(path))


def fetch(path: str, most: int | None = None) -> IO[bytes]:
    """The file at ``path``, copied first to an unnamed temporary file if it lies elsewhere, so that each byte travels once.

    A copy that breaks off is begun again as in ``open_file``. Raises ``OSError``, also where the file has more than ``most`` bytes.
    """
    if scheme(path):
        return tried(path, lambda: _copied(path, most))
    file = open_file(path)
    if most is not None and (size := os.fstat(file.fileno()).st_size) > most:
        file.close()
        raise OSError(_too_large(size, most))
    return file


def _too_large(size: int, most: int) -> str:
    return f"has {size} bytes or more, and {most} are the most that are read; is it what its name says?"


def plain_file(path: Path, most: int) -> Path:
    """``path``. Raises ``UserError`` where it is a pipe, a device or a folder, or has more than ``most`` bytes."""
    if not path.is_file():
        raise UserError(f"{path}: is not a plain file; put one there, or take this away")
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path}: has {size} bytes, more than {most}; is it what its name says?")
    return path


def _open(path: str) -> IO[bytes]:
    kind = scheme(path)
    if kind in WEB:
        import fsspec

        return cast("IO[bytes]", fsspec.filesystem(kind).open(path, "rb"))
    if not kind:
        if Path(path).exists() and not Path(path).is_file():
            raise OSError("is not a plain file")
        return Path(path).open("rb")
    system, place = filesystem(path)
    return cast("IO[bytes]", system.open_input_file(place))


def _copied(path: str, most: int | None) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with _open(path) as source:
            while data := source.read(CHUNK):
                copy.write(data)
                if most is not None and copy.tell() > most:
                    raise OSError(_too_large(copy.tell(), most))
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def tried(path: str, work: Callable[[], R]) -> R:
    """What ``work`` gives, which is done again a few times while the server of ``path`` fails. Raises ``OSError``."""
    from aiohttp import ClientError

    for pause in (*PAUSES, None):
        try:
            return work()
        except (OSError, ClientError, ValueError) as error:
            cause = error.__cause__ or error  # fsspec calls every failure a missing file
            if pause is not None and (_passing(cause) or _passing(error)):  # of a body that breaks off the cause has a status, 400
                log.debug("%s: %s %s; asked again in %g s", path, type(cause).__name__, cause, pause)
                time.sleep(pause)
                continue
            if isinstance(error, OSError) and error is cause:
                raise
            raise OSError(f"{urlsplit(path).netloc}: {type(cause).__name__} {cause}") from error
    raise AssertionError("the last try returns or raises")


def _passing(cause: BaseException) -> bool:
    """Whether another try may do: a server's own trouble, silence, or a connection that broke."""
    from aiohttp import ClientConnectionError, ClientPayloadError

    if (status := getattr(cause, "status", None)) is not None:
        return status >= 500 or status in ASK_AGAIN
    return isinstance(cause, TimeoutError | ConnectionError | ClientConnectionError | ClientPayloadError)


def read_bytes(path: str) -> bytes:
    """All of the file at ``path``. Raises ``OSError``."""
    with fetch(path) as file:
        return file.read()


def list_files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths below ``folder``, at any depth and sorted, that end in one of ``suffixes``, without hidden ones. Raises ``OSError``.

    Of a local folder links to folders are not followed, which may lead round in a circle.
    """
    below = _remote_files(folder) if scheme(folder) else _local_files(folder)
    return sorted(path for path in below if path.lower().endswith(suffixes) and not path.rpartition("/")[2].startswith("."))


def _local_files(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise error

    walk = os.walk(folder, onerror=refuse, followlinks=False)
    return [os.path.relpath(os.path.join(place, name), folder) for place, _, names in walk for name in names]  # noqa: PTH118


def _remote_files(folder: str) -> list[str]:
    try:
        system, place = filesystem(folder)
        found = system.get_file_info(fs.FileSelector(place, recursive=True))
    except ValueError as error:
        raise OSError(str(error)) from error
    return [entry.path.removeprefix(place).lstrip("/") for entry in found if entry.type == fs.FileType.File]


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Where ``path`` lies, and its name there. Raises ``ValueError`` for a scheme that is not known."""
    if scheme(path):
        return fs.FileSystem.from_uri(f"gs://{path[6:]}" if scheme(path) == "gcs" else path)
    return fs.LocalFileSystem(), path
