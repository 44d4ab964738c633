"""Checkpoints: folders of safetensors with a manifest of checksums, written whole or not at all, by one rank or by all together.

Where ranks hold rows of tensors each writes files of its own, ``NAME-R-of-N.safetensors``, which are read by any number of ranks.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamer_ray.errors import RunError, UserError

FORMAT = 2
SUM = ".sha256"


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
        """The tensors of ``name``, verified against the manifest."""
        return dict(self.each(name))

    def each(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors of ``name`` one after the other, whole, from files that are verified against the manifest first."""
        paths = [self.path / file for file in self._files(name)] or [self.path / f"{name}.safetensors"]
        for path in paths:
            self._verify(path)
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
                for key in files[0].keys():  # noqa: SIM118
                    parts = [file.get_tensor(key) for file in files if key in file.keys()]  # noqa: SIM118
                    yield key, parts[0] if len(parts) == 1 else torch.cat(parts)
            except (OSError, SafetensorError) as error:
                raise UserError(f"checkpoint {paths[0]}: cannot be read ({error}); {_REMEDY}") from error

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
        return self.read("weights") | (self.read("ema") if self._files("ema") else {})

    def _files(self, name: str) -> list[str]:
        return sorted(file for file in self.checksums if file == f"{name}.safetensors" or fnmatch(file, f"{name}-*-of-*.safetensors"))


_REMEDY = "delete this folder to let an unfinished stage go on from the checkpoint before it, or redo the stage with --from"


def save_checkpoint(
    folder: Path, step: int, *, made_by: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], keep: int = 2, ranks: int = 1
) -> Checkpoint:
    """Writes ``folder/step-########`` with the safetensors of each entry of ``tensors``, then deletes all but the last ``keep``.

    Where several ``ranks`` hold rows of the tensors all of them call it, each with its own, into a folder that all see. A crash of any
    of them at any moment leaves either the whole new checkpoint or none of it. Raises ``RunError`` where the disk is full.
    """
    target, partial = folder / f"step-{step:08d}", folder / f".partial-{step:08d}-{secrets.token_hex(4)}"
    rank = dist.get_rank() if ranks > 1 else 0
    try:
        if rank == 0:
            for left in folder.glob(".partial-*"):
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)
        partial = folder / _of_first_rank(partial.name, ranks)  # a group that was cut off, and writes on, never writes into that of another
        for name, values in tensors.items():
            _write(values, partial / (f"{name}-{rank:05d}-of-{ranks:05d}.safetensors" if ranks > 1 else f"{name}.safetensors"))
        _wait_for_all(ranks)
        if rank == 0:
            _finish(partial, target, {"format": FORMAT, "step": step, "made_by": made_by}, files=ranks * len(tensors))
        _wait_for_all(ranks)
    except (OSError, SafetensorError) as error:
        if ranks == 1:  # else others may be writing there; the next save removes it
            shutil.rmtree(partial, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        free = shutil.disk_usage(folder).free / 2**20 if folder.exists() else 0.0
        cause = f"the disk is full ({free:.0f} MiB free)" if full else str(error)
        raise RunError(
            f"checkpoint {target}: not written, {cause}; make room and run again without --from: it resumes from the checkpoint before"
        ) from error
    for old in _committed(folder)[:-keep] if rank == 0 else ():
        shutil.rmtree(old, ignore_errors=True)
    return open_checkpoint(target)


def _of_first_rank(name: str, ranks: int) -> str:
    """What rank 0 calls it; the others wait for that."""
    names = [name]
    if ranks > 1:
        dist.broadcast_object_list(names)
    return names[0]


def _wait_for_all(ranks: int) -> None:
    if ranks > 1:
        dist.barrier()


def _write(values: Mapping[str, Tensor], path: Path) -> None:
    """A file of tensors, and beside it its checksum, for the manifest."""
    save_file({key: value.detach().cpu().contiguous() for key, value in values.items()}, path)
    path.with_suffix(SUM).write_text(_checksum(path))
    _sync(path)


def _finish(partial: Path, target: Path, manifest: dict[str, Any], *, files: int) -> None:
    checksums, written = {}, sorted(partial.glob(f"*{SUM}"))
    if len(written) != files:
        raise OSError(f"{len(written)} of {files} files of all ranks are in {partial}; the run folder must be one that all nodes share")
    for path in written:
        checksums[path.with_suffix(".safetensors").name] = path.read_text()
        path.unlink()
    (partial / "manifest.json").write_text(json.dumps(manifest | {"checksums": checksums}, indent=1))
    _sync(partial / "manifest.json")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    _sync(target.parent)


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
