"""Frozen configuration models."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of all configurations: frozen, no unknown keys, no silent conversion between types, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal configs have equal fingerprints."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(values: Any) -> str:
    """First 16 hex digits of the SHA-256 of ``values`` as canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
