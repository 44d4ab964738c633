"""Weights of networks of others that judge pictures and videos."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from dreamer_ray.errors import UserError


def read_published(path: Path, sha256: str, *, what: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file, the only form in which their authors publish them, by name; nothing else in it is read.

    Raises ``UserError`` with ``what`` and ``remedy`` where it cannot be read, or where its SHA-256 does not begin with ``sha256``.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror}); {remedy}") from error
    if not digest.startswith(sha256):
        raise UserError(f"{what} {path}: SHA-256 {digest[:8]}..., expected {sha256[:8]}...: another or a damaged file; {remedy}")
    return torch.load(path, map_location="cpu", weights_only=True)
