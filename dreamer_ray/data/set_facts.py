"""What the manifest of shards or latents says besides their episodes: how they were made, of what, and what was left out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from dreamer_ray.data.foreign import Foreign, checked, read_bytes
from dreamer_ray.data.rows import REMEDY
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.errors import UserError

ACCOUNT = "report.json"


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
    bad: dict[str, str]
    """Recordings that could not be used when it and the other side of its split were made, with the reason."""
    left_out: dict[str, int]
    """Entries of the sources' indexes that are no recordings, by reason."""
    std: tuple[float, float] | None
    """Of latents: the least and largest deviation of their numbers."""


class _Bad(Foreign):
    recording: str
    reason: str


class _Account(Foreign):
    """``report.json`` beside the folders of an ingest."""

    bad: tuple[_Bad, ...] = ()
    left_out_of_index: dict[str, int] = Field(default_factory=dict)


def set_facts(shards: ShardSet) -> SetFacts:
    """The facts of ``shards``; what neither its manifest nor the account beside its folder says is None or empty.

    Raises ``UserError`` where the account is damaged.
    """
    manifest, schema = shards.manifest, shards.schema
    origin = manifest.model_dump(mode="json").get("origin") or {}
    account = _account(shards.folder.resolve().parent)
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
        bad={bad.recording: bad.reason for bad in account.bad},
        left_out=dict(account.left_out_of_index),
        std=_deviations(statistics.get("std") if isinstance(statistics, dict) else None),
    )


def _account(folder: Path) -> _Account:
    path = folder / ACCOUNT
    if not path.is_file():
        return _Account()
    try:
        return checked(_Account, read_bytes(path), str(path))
    except BadRecordingError as error:
        raise UserError(f"{error}; {REMEDY}") from error


def _deviations(rows: Any) -> tuple[float, float] | None:
    parts = [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
    numbers = [value for row in parts for value in row if isinstance(value, float)]
    return (min(numbers), max(numbers)) if numbers else None
