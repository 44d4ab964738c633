"""Downloads that go on where they were cut, are checked, and appear whole or not at all; the files of a Zenodo record."""

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any

from pydantic import Field

from dreamer_ray.data.foreign import Foreign, checked, within
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import RunError, UserError

ZENODO = "https://zenodo.org/api/records/"
BLOCK = 2**20
TIMEOUT = 60.0
ATTEMPTS = 8
"""How often in a row a connection may fail without a byte gained."""
BROKEN = (OSError, http.client.HTTPException)
"""What a connection that does not come about, or is cut, raises; ``urllib.error.URLError`` is an ``OSError``."""


class Links(Foreign):
    """Where a file is."""

    url: str = Field(alias="self", pattern=r"^https?://")


class RemoteFile(Foreign):
    """A file as a Zenodo record lists it."""

    key: str
    size: int = Field(ge=0, lt=2**50)
    checksum: str = Field(pattern=r"^md5:[0-9a-f]{32}$")
    links: Links


class _Record(Foreign):
    files: tuple[RemoteFile, ...] = Field(min_length=1)


def zenodo_files(record: int, address: str = ZENODO) -> tuple[RemoteFile, ...]:
    """The files of a Zenodo record. Raises ``RunError`` where it cannot be asked, ``UserError`` where the answer is none."""
    url = f"{address}{record}"
    try:
        with _opened(url) as answer:
            text = answer.read(2**24)
    except BROKEN as error:
        raise RunError(f"{url}: cannot be asked ({error}); is this machine online?") from error
    try:
        listed = checked(_Record, text, url)
        if wrong := [file.key for file in listed.files if len(within(file.key).parts) > 1]:
            raise BadRecordingError(f"{url}: file {wrong[0]!r:.100} would lie in another folder")
    except BadRecordingError as error:
        raise UserError(f"{error}; is {record} a Zenodo record with files?") from error
    return listed.files


def fetch(file: RemoteFile, folder: Path, *, pause: float = 1.0) -> Path:
    """``file`` below ``folder``; what is there of it already, also of a run that was killed, is not sent again.

    A connection that is cut is taken up again after ``pause`` seconds, twice as many after each failure. Raises ``RunError`` where nothing
    more comes, the disk is too small or the checksum differs; all but the last of these can be run again and go on.
    """
    target, partial = folder / file.key, folder / f".{file.key}.partial"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < file.size - _size(partial):
        raise RunError(f"{target}: needs {file.size - _size(partial)} bytes, the disk has {free} left")
    failures = 0
    while (before := _size(partial)) < file.size:
        error = _append(file, partial)
        failures = 0 if _size(partial) > before else failures + 1
        if failures == ATTEMPTS or (isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)):
            raise RunError(f"{file.links.url}: cut at {before} of {file.size} bytes ({error}); these are kept, run it again to go on")
        if _size(partial) < file.size:
            time.sleep(min(pause * 2**failures, 60))
    with partial.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != file.checksum.removeprefix("md5:"):
        partial.unlink()
        raise RunError(
            f"{target}: its md5 is {found}, Zenodo says {file.checksum.removeprefix('md5:')}; removed, run it again to begin anew"
        )
    partial.replace(target)
    return target


def _append(file: RemoteFile, partial: Path) -> Exception | None:
    """Adds to ``partial`` what one connection gives; the result is why it ended early, where it says so."""
    have = _size(partial)
    try:
        with _opened(file.links.url, {"Range": f"bytes={have}-"} if have else {}) as answer:
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            have = have if resumed else 0
            with partial.open("ab" if resumed else "wb") as stream:
                while have < file.size and (block := answer.read(min(BLOCK, file.size - have))):
                    have += stream.write(block)
    except BROKEN as error:
        return error
    return None


def _opened(url: str, headers: dict[str, str] | None = None) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "dreamer-ray"} | (headers or {})), timeout=TIMEOUT)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip to ``folder``, which appears whole or not at all.

    Raises ``RunError`` where the archive is damaged, leads out of the folder or does not fit on the disk.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            size, free = sum(entry.file_size for entry in opened.infolist()), shutil.disk_usage(archive.parent).free
            if size > free:
                raise RunError(f"{archive}: unpacks to {size} bytes, the disk has {free} left")
            for entry in opened.infolist():
                within(entry.filename)
            opened.extractall(partial)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, BadRecordingError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{archive}: cannot be unpacked ({error}); remove it and run again") from error
    partial.replace(folder)
