"""What the manifest of shards or latents says besides their episodes: how they were made, of what, and what was left out."""

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
    dropped: dict[str, int]
    """What was left out when it was made, by reason."""
    bad: dict[str, str]
    """Recordings that could not be used when it was made, with the reason."""
    std: tuple[float, float] | None
    """Of latents: the least and largest deviation of their numbers."""


def set_facts(shards: ShardSet) -> SetFacts:
    """The facts of ``shards``; what its manifest does not say, or says in another form, is None or empty."""
    made_by, schema = shards.manifest.made_by, shards.schema
    dropped = {reason: count for reason, count in _section(made_by, "dropped").items() if isinstance(count, int)}
    bad = {name: reason for name, reason in _section(made_by, "bad").items() if isinstance(reason, str)}
    return SetFacts(
        split=shards.folder.resolve().name,
        fingerprint=shards.fingerprint,
        codec=schema.codec,
        shape=schema.frame_shape,
        files=len(shards.files),
        parents=dict(shards.manifest.parents),
        layout=_section(made_by, "layout") or None,
        dropped=dropped,
        bad=bad,
        std=_deviations(_section(made_by, "statistics").get("std")),
    )


def _section(made_by: dict[str, Any], name: str) -> dict[str, Any]:
    """The section ``name`` of ``made_by``, or of a section of it."""
    for values in (made_by, *(part for part in made_by.values() if isinstance(part, dict))):
        if isinstance(section := values.get(name), dict):
            return section
    return {}


def _deviations(rows: Any) -> tuple[float, float] | None:
    numbers = [value for row in rows for value in row if isinstance(value, float)] if _is_table(rows) else []
    return (min(numbers), max(numbers)) if numbers else None


def _is_table(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, list) for row in rows)
