"""What lies in a run folder: the records of its stages, its lock, and writes that leave all or nothing.

``STAGE/started.json`` says with which values and parents a stage was begun; ``STAGE/manifest.json``, written last, that it is done.
"""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamer_ray.config import fingerprint
from dreamer_ray.errors import RunError, UserError

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What the folder of a stage says about itself."""

    sections: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Time worked on it so far."""
    fingerprint: str | None = None
    """Names this making of the result: made anew, even from equal values, it is another. None while unfinished."""
    figures: dict[str, Any] = field(default_factory=dict)
    damage: str | None = None
    """Why the folder's records cannot be read, if so."""


def read_record(folder: Path) -> Record | None:
    """What the folder of a stage says about itself; None where nothing was begun there."""
    path = next((file for name in ("manifest.json", "started.json") if (file := folder / name).exists()), None)
    if path is None:
        return None
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            return Record(damage=f"{path} has format {values['format']}, this version reads {FORMAT}")
        made = fingerprint(values) if path.name == "manifest.json" else None
        return Record(values["sections"], values["parents"], values["seconds"], made, values.get("figures", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Record(damage=f"{path} cannot be read ({error!r})")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the run folder and keeps other processes out of it. Hold it around ``plan`` and ``execute``; it ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"run folder {folder}: cannot be written ({error.strerror}); choose another place with --runs DIR") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            raise UserError(
                f"run folder {folder}: process {owner} works in it; wait for it or stop it, or give this run another name="
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")  # the folder may be shared: the number alone finds nobody
        file.flush()
        yield


def discard(folder: Path, *, kept: str | None = None) -> None:
    """Removes a stage's folder; a kill in the middle leaves it whole or gone, never a part of it under its name.

    With ``kept``, a pattern, files of such names stay; the stage's records go first then, so that nothing takes the rest for a result.
    """
    if kept:
        for record in ("manifest.json", "started.json"):
            (folder / record).unlink(missing_ok=True)
        for path in [path for path in folder.rglob("*") if not path.is_dir() and not path.match(kept)]:
            path.unlink()
    elif folder.exists():
        aside = folder.with_name(f".discarded-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.replace(aside)
        shutil.rmtree(aside)


def seconds_of_killed(folder: Path) -> float:
    """How long a killed attempt at a stage worked, as far as its files tell; 0 after one that could still write its record."""
    begun = (folder / "started.json").stat().st_mtime
    return max(path.stat().st_mtime for path in folder.rglob("*")) - begun


def sweep(run_folder: Path) -> None:
    """Removes what a killed ``discard`` has left."""
    for left in run_folder.glob(".discarded-*"):
        shutil.rmtree(left)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes ``values`` to ``path`` whole or not at all. Raises ``RunError`` where the disk refuses."""
    text, partial = json.dumps(values, indent=1), path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        remedy = "make room and run again without --from: finished stages are kept"
        raise RunError(f"{path}: not written ({error.strerror}); {remedy}") from error
