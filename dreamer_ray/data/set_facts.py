"""What the manifest of shards or latents says besides their episodes: how they were made, of what, and what was left out."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from dreamer_ray.data.shards import ShardSet


@dataclass(frozen=True)
class SetFacts:
    """Of a committed set."""

    split: str
    """The name of its folder."""
    fingerprint: str
    codec: str
    shape: tuple[int, int]
    """Rows and columns, or latents and channels."""
    files: int
    parents: dict[str, str]
    layout: dict[str, Any] | None
    """How pictures were brought to their size; None where they were made at it."""
    sources: tuple[str, ...]
    """Kind and place of what it was made from, where that were recordings of others."""
    notes: tuple[str, ...]
    """What a reader of results ought to know of it."""
    dropped: dict[str, int]
    """What was left out when it was made, by reason."""
    std: tuple[float, float] | None
    """Of latents: the least and largest deviation of their numbers."""


def set_facts(shards: ShardSet) -> SetFacts:
    """The facts of ``shards``; what its manifest does not say is None or empty."""
    manifest, schema = shards.manifest, shards.schema
    origin = manifest.model_dump(mode="json").get("origin") or {}
    statistics = manifest.made_by.get("statistics")
    return SetFacts(
        split=shards.folder.resolve().name,
        fingerprint=shards.fingerprint,
        codec=schema.codec,
        shape=schema.frame_shape,
        files=len(shards.files),
        parents=dict(manifest.parents),
        layout=origin.get("layout"),
        sources=tuple(f"{source['kind']} {source['place']}" for source in origin.get("sources", ())),
        notes=tuple(origin.get("notes", ())),
        dropped=dict(Counter(origin.get("dropped", {})).most_common()),
        std=_deviations(statistics.get("std") if isinstance(statistics, dict) else None),
    )


def _deviations(rows: Any) -> tuple[float, float] | None:
    parts = [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
    numbers = [value for row in parts for value in row if isinstance(value, float)]
    return (min(numbers), max(numbers)) if numbers else None
