"""Files of a data set wherever they lie: a local path, http(s), s3 or gs."""

import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, urlsplit

from pyarrow import fs

CHUNK = 1 << 20
WEB = {"http", "https"}


def scheme(path: str) -> str:
    """What stands before ``://``, in lower case; empty for a local path."""
    return path.partition("://")[0].lower() if "://" in path else ""


def join(folder: str, path: str) -> str:
    """``path`` below ``folder``, quoted where that is a URL."""
    return f"{folder.rstrip('/')}/{quote(path) if scheme(folder) else path}"


def open_file(path: str) -> IO[bytes]:
    """The file at a path or URL, to be read from its start on; what ``fetch`` gives can be read in any order. Raises ``OSError``."""
    kind = scheme(path)
    if kind in WEB:
        import fsspec
        from aiohttp import ClientError

        try:
            return cast("IO[bytes]", fsspec.filesystem(kind).open(path, "rb"))
        except (ClientError, ValueError) as error:
            raise OSError(f"{urlsplit(path).netloc}: {type(error).__name__} {error}") from error
    if not kind:
        return Path(path).open("rb")
    try:
        system, place = filesystem(path)
        return cast("IO[bytes]", system.open_input_file(place))
    except ValueError as error:
        raise OSError(str(error)) from error


def fetch(path: str) -> IO[bytes]:
    """The file at ``path``, copied first to an unnamed temporary file if it lies elsewhere, so that each byte travels once.

    Raises ``OSError``.
    """
    if not scheme(path):
        return open_file(path)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with open_file(path) as source:
            _copy(source, copy)
    except OSError:
        copy.close()
        raise
    copy.seek(0)
    return copy


def read_bytes(path: str) -> bytes:
    """All of the file at ``path``. Raises ``OSError``."""
    with fetch(path) as file:
        return file.read()


def list_files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths below ``folder``, at any depth and sorted, that end in one of ``suffixes``, without hidden ones. Raises ``OSError``."""
    try:
        system, place = filesystem(folder)
        found = system.get_file_info(fs.FileSelector(place, recursive=True))
    except ValueError as error:
        raise OSError(str(error)) from error
    below = [entry.path.removeprefix(place).lstrip("/") for entry in found if entry.type == fs.FileType.File]
    return sorted(path for path in below if path.lower().endswith(suffixes) and not path.rpartition("/")[2].startswith("."))


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Where ``path`` lies, and its name there. Raises ``ValueError`` for a scheme that is not known."""
    if scheme(path):
        return fs.FileSystem.from_uri(f"gs://{path[6:]}" if scheme(path) == "gcs" else path)
    return fs.LocalFileSystem(), path


def _copy(source: Any, target: Any) -> None:
    from aiohttp import ClientError

    try:
        shutil.copyfileobj(source, target, CHUNK)
    except ClientError as error:
        raise OSError(f"{type(error).__name__} {error}") from error
