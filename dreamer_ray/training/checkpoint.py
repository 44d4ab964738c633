"""Checkpoints: folders of safetensors with a manifest of checksums, written whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamer_ray.errors import RunError, UserError

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint folder.

    ``made_by`` is the configuration of what it contains, the recipe's section by which it was trained and the fingerprints of its parents.
    """

    path: Path
    step: int
    made_by: dict[str, Any]
    checksums: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a hash over all files."""
        return hashlib.sha256(json.dumps(self.checksums, sort_keys=True).encode()).hexdigest()[:16]

    def read(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``name``.safetensors, verified against the manifest."""
        path = self.path / f"{name}.safetensors"
        self._verify(path)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"checkpoint {path}: cannot be read ({error}); {_REMEDY}") from error

    def verify(self) -> None:
        """Raises ``UserError`` where a file is not what the manifest says."""
        for name in self.checksums:
            self._verify(self.path / name)

    def _verify(self, path: Path) -> None:
        try:
            found, expected = _checksum(path), self.checksums.get(path.name, "none")
        except OSError as error:
            raise UserError(f"checkpoint {path}: cannot be read ({error}); {_REMEDY}") from error
        if found != expected:
            raise UserError(f"checkpoint {path}: SHA-256 {found[:12]}.. but its manifest says {expected[:12]}..; {_REMEDY}")

    def weights(self) -> dict[str, Tensor]:
        """Weights to use: the moving averages where there are, the last ones elsewhere."""
        ema = self.read("ema") if "ema.safetensors" in self.checksums else {}
        return self.read("weights") | ema


_REMEDY = "delete this folder to let an unfinished stage go on from the checkpoint before it, or redo the stage with --from"


def save_checkpoint(
    folder: Path, step: int, *, made_by: dict[str, Any], tensors: dict[str, dict[str, Tensor]], keep: int = 2
) -> Checkpoint:
    """Writes ``folder/step-########`` with one safetensors file per entry of ``tensors``, then deletes all but the last ``keep``.

    A crash at any moment leaves either the whole new checkpoint or none of it. Raises ``RunError`` where the disk is full.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f".partial-{step:08d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, values in tensors.items():
            save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, partial / f"{name}.safetensors")
        checksums = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "step": step, "made_by": made_by, "checksums": checksums}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in partial.iterdir():
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        free = shutil.disk_usage(folder).free / 2**20 if folder.exists() else 0.0
        cause = f"the disk is full ({free:.0f} MiB free)" if full else str(error)
        raise RunError(
            f"checkpoint {target}: not written, {cause}; make room and run again without --from: it resumes from the checkpoint before"
        ) from error
    for old in _committed(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(target, step, made_by, checksums)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest committed checkpoint in ``folder``, or None. Raises ``UserError`` where its manifest is damaged."""
    paths = _committed(folder)
    return open_checkpoint(paths[-1]) if paths else None


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads the manifest of one checkpoint folder; its tensors are verified when they are read."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"checkpoint {path}: format {manifest['format']}, this version reads {FORMAT}; use the version that wrote it")
        return Checkpoint(path, int(manifest["step"]), manifest["made_by"], dict(manifest["checksums"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {path}: its manifest.json cannot be read ({error!r}); {_REMEDY}") from error


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
