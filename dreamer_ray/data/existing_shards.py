"""Files of a set that are there already, and which of them a stage may take for its own: whole, and made from the same."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamer_ray.config import fingerprint
from dreamer_ray.config_file import parse_config
from dreamer_ray.data.manifest import Manifest, ShardFile
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.shards import FORMAT, ShardSet, checksum
from dreamer_ray.errors import UserError


def existing_shard(
    folder: Path, name: str, schema: ShardSchema, episodes: Sequence[str] | None = None, *, job: str = ""
) -> ShardFile | None:
    """The entry of ``folder/name`` where it was already written with this schema, ``job`` and these episodes, and is not damaged."""
    path = folder / name
    try:
        notes = json.loads((pq.read_metadata(path).metadata or {})[b"dreamer_ray"])
    except (OSError, ValueError, KeyError, pa.ArrowException):  # not there, cut short, damaged, or not one of ours
        return None
    if not isinstance(notes, dict) or notes.pop("sum", None) != fingerprint(notes):
        return None
    if notes.get("schema") != schema.model_dump(mode="json") or notes.get("job", "") != job:
        return None
    if episodes is not None and [entry["name"] for entry in notes["episodes"]] != list(episodes):
        return None
    counts = {key: notes.get(key, {}) for key in ("dropped", "mended")}
    file = parse_config(ShardFile, {"name": name, "sha256": checksum(path), "episodes": notes["episodes"]} | counts, str(path))
    return file if _whole(folder, file, schema) else None


def _whole(folder: Path, file: ShardFile, schema: ShardSchema) -> bool:
    """Whether every page has the checksum with which it was written: that of the file is taken now, and tells nothing of damage before."""
    found = ShardSet(folder, Manifest(format=FORMAT, shard_schema=schema, files=(file,), made_by={}, parents={}))
    try:
        for group in range(len(file.episodes)):
            found.table(file, [group])
    except UserError:
        return False
    return True
