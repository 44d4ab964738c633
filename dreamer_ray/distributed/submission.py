"""A run as Ray's jobs take it: the command, the folder that is uploaded with it, and what it will need.

recipe + overrides --> Submission --upload of the working directory, entrypoint--> dashboard
"""

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from dreamer_ray.distributed.jobs import Dashboard
from dreamer_ray.errors import UserError

PACKAGE_LIMIT = 100 * 2**20
"""Bytes of a request that the dashboard takes; more is answered with status code 413 after the whole upload."""
ZIP_ENTRY_BYTES, ZIP_END_BYTES = 76, 22
"""What a file adds to the archive besides its content (which is stored as it is) and twice its name, and what the archive ends with."""
EXCLUDES = (".git", ".venv", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "/runs", "/data", "/build", "/dist")
"""Never needed by a run; patterns as in .gitignore, which counts besides. /data is that of the project, not one of a package in it."""
STOP_SECONDS = 60
"""From SIGTERM to SIGKILL; Ray's own 3 seconds are less than a checkpoint may take."""


@dataclass(frozen=True)
class Submission:
    """A job as it is submitted; ``command`` and ``submit`` say the same to Ray."""

    name: str
    working_dir: Path
    entrypoint: tuple[str, ...]
    metadata: dict[str, str]
    excludes: tuple[str, ...] = EXCLUDES

    @property
    def runtime_env(self) -> dict[str, Any]:
        """What every process of the job gets, without the working directory."""
        mode = {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if os.environ.get(name)}  # the run asks for it, the head may lack it
        return {"excludes": list(self.excludes), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)} | mode}

    def command(self, address: str, environment: Mapping[str, str], *, wait: bool = True) -> str:
        """The line for a shell with ``environment`` that submits the same."""
        unset = [f"{name}=" for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if environment.get(name)]
        words = ["ray", "job", "submit", "--address", address, "--submission-id", self.name, "--working-dir", str(self.working_dir)]
        words += ["--runtime-env-json", json.dumps(self.runtime_env), "--metadata-json", json.dumps(self.metadata)]
        words += [] if wait else ["--no-wait"]
        return " ".join([*unset, f"RAY_AUTH_MODE={environment.get('RAY_AUTH_MODE', '')}", shlex.join([*words, "--", *self.entrypoint])])

    def submit(self, dashboard: Dashboard) -> None:
        """Uploads the working directory and submits the job."""
        dashboard.submit_job(
            entrypoint=shlex.join(self.entrypoint),
            submission_id=self.name,
            runtime_env=self.runtime_env | {"working_dir": str(self.working_dir)},
            metadata=dict(self.metadata),
        )


def packed_files(folder: Path, excludes: Sequence[str] = EXCLUDES) -> dict[str, int]:
    """Names and sizes of the files that Ray would upload of ``folder``, found by Ray's own rules; .gitignore and .rayignore count."""
    folder, found = folder.absolute(), {}

    def note(path: Path) -> None:
        if path.is_file():
            found[str(path.relative_to(folder))] = path.stat().st_size

    silent = logging.getLogger("dreamer_ray.packed_files")
    silent.disabled = True
    by_git = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    _dir_travel(folder, [_get_excludes(folder, list(excludes))], note, include_gitignore=by_git, logger=silent)
    return found


def package_bytes(files: Mapping[str, int]) -> int:
    """Size of the archive of ``files``. Raises ``UserError`` naming the largest where the dashboard would not take it."""
    total = sum(size + 2 * len(name.encode()) + ZIP_ENTRY_BYTES for name, size in files.items()) + ZIP_END_BYTES
    if total < PACKAGE_LIMIT:
        return total
    largest = sorted(files.items(), key=lambda item: -item[1])[:5]
    listed = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in largest)
    raise UserError(
        f"the working directory has {total / 2**20:.0f} MiB in {len(files)} files to upload, Ray takes less than "
        f"{PACKAGE_LIMIT / 2**20:.0f}; largest: {listed}; leave out what the run does not need with --exclude PATTERN, or choose "
        "--working-dir DIR"
    )
