"""What lies at a path: a data set in one of the formats that are read, one file of it, a set of ours, or a run."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dreamer_ray.config_file import parse_config
from dreamer_ray.data.files import scheme
from dreamer_ray.data.lerobot import LeRobotConfig
from dreamer_ray.data.minari_sets import MinariConfig
from dreamer_ray.data.minerl import FILES as MINERL_FILES
from dreamer_ray.data.minerl import MinerlConfig
from dreamer_ray.data.open_source import open_source
from dreamer_ray.data.set_source import SetSource
from dreamer_ray.data.shards import open_shards
from dreamer_ray.data.sources import Source
from dreamer_ray.data.videos import ACTION_FILE, VIDEOS, VideosConfig, VideosSource
from dreamer_ray.data.vpt import INDEX, VptConfig
from dreamer_ray.data.vpt_lines import VptLines
from dreamer_ray.errors import UserError

Kind = Literal["vpt", "minerl", "lerobot", "minari", "videos", "shards", "latents", "run"]
CONFIGS: dict[Kind, type[VptConfig | MinerlConfig | LeRobotConfig | MinariConfig | VideosConfig]] = {
    "vpt": VptConfig,
    "minerl": MinerlConfig,
    "lerobot": LeRobotConfig,
    "minari": MinariConfig,
    "videos": VideosConfig,
}
SETS = ("record", "encode")
"""Stages whose folders hold sets."""
SPLITS = ("train", "heldout")
HEAD_BYTES = 1 << 20
WANTED = (
    "a VPT index (.json, .json.gz) or folder of mp4 and jsonl pairs, MineRL-v0 (rendered.npz), LeRobot (meta/info.json), "
    f"Minari (data/metadata.json), videos ({', '.join(VIDEOS)}), shards or latents of ours (manifest.json), or the folder of a run (record)"
)


@dataclass(frozen=True)
class Found:
    """What can be looked at, as a source."""

    kind: Kind
    path: str
    source: Source
    file: str | None = None
    """Where one file was named: the only one that counts."""


def recognise(path: str) -> Kind:
    """The kind of what lies at ``path``. Raises ``UserError`` that says what was looked for."""
    if scheme(path):
        if path.lower().endswith(INDEX):
            return "vpt"
        raise UserError(f"{path}: a URL can be the index of VPT recordings (.json, .json.gz); say with --kind what else it is")
    place = Path(path)
    try:
        kind = _of_folder(place) if place.is_dir() else _of_file(place) if place.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if kind is not None:
        return kind
    if not place.exists():
        raise UserError(f"{path}: is not there; wanted {WANTED}, or a Minari id with --kind minari")
    raise UserError(f"{path}: not recognised; looked for {WANTED}; if it is one, say which with --kind {'|'.join(get_args(Kind))}")


def _of_file(path: Path) -> Kind | None:
    if path.name.lower().endswith(INDEX):
        return "vpt"
    if path.suffix.lower() == ".jsonl":
        return "vpt" if _is_vpt(path) else None
    if path.suffix.lower() in VIDEOS:
        return "vpt" if _is_vpt(path.with_suffix(".jsonl")) else "videos"
    return None


def _of_folder(folder: Path) -> Kind | None:
    if (folder / "manifest.json").is_file() and (kind := _of_manifest(folder / "manifest.json")):
        return kind
    if (folder / "meta" / "info.json").is_file():
        return "lerobot"
    if (folder / "data" / "metadata.json").is_file():
        return "minari"
    if any((folder / stage).is_dir() for stage in SETS) or any((folder / split / "manifest.json").is_file() for split in SPLITS):
        return "run"
    if (folder / ACTION_FILE).is_file():
        return "videos"
    return _of_first_recordings(folder)


def _of_manifest(path: Path) -> Kind | None:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "shards"  # opening it says what is wrong with it
    schema = values.get("shard_schema") if isinstance(values, dict) else None
    if schema is None:
        return None
    return "latents" if isinstance(schema, dict) and schema.get("codec") == "float16" else "shards"


def _of_first_recordings(folder: Path) -> Kind | None:
    """By the first folder, from ``folder`` downward, that holds recordings."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        if MINERL_FILES[0] in names:
            return "minerl"
        if any(_is_vpt(Path(place) / name) for name in names if name.lower().endswith(".jsonl")):
            return "vpt"
        if any(name.lower().endswith(VIDEOS) for name in names):
            return "videos"
    return None


def _is_vpt(path: Path) -> bool:
    """Whether a line at the head of a jsonl file has the mouse and keyboard of a VPT recording."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return any(b'"mouse"' in line and b'"keyboard"' in line for line in head.split(b"\n")[:100])


def found_at(path: str, kind: Kind | None, values: Mapping[str, Any]) -> Iterator[tuple[str, Found]]:
    """What lies at ``path``, opened: one, or of a run the sets that are finished, each with its name.

    ``values`` are those of the source's section, such as ``camera``. Raises ``UserError``.
    """
    kind = kind or recognise(path)
    if values and kind not in CONFIGS:
        raise UserError(f"{path}: {', '.join(values)}: {kind} have no such values; they are those of the section of a source in a recipe")
    if kind == "run":
        yield from _sets(Path(path))
    elif kind in ("shards", "latents"):
        yield "", _set(Path(path))
    else:
        yield "", _foreign(path, kind, dict(values))


def _set(folder: Path) -> Found:
    shards = open_shards(folder)
    return Found("latents" if shards.schema.codec == "float16" else "shards", str(folder), SetSource(shards))


def _sets(run: Path) -> Iterator[tuple[str, Found]]:
    stages = [run / stage for stage in SETS] if any((run / stage).is_dir() for stage in SETS) else [run]
    sets = [stage / split for stage in stages for split in SPLITS if (stage / split / "manifest.json").is_file()]
    if not sets:
        raise UserError(
            f"run {run}: has no finished set of recordings; its stage {SETS[0]} writes them: dreamer-ray run RECIPE --only record"
        )
    yield from ((folder.relative_to(run).as_posix(), _set(folder)) for folder in sets)


def _foreign(path: str, kind: Kind, values: dict[str, Any]) -> Found:
    place, file = Path(path), None
    if not scheme(path) and place.is_file() and not path.lower().endswith(INDEX):
        place, file = place.parent, path
    where = {"dataset": path} if kind == "minari" else {"path": str(place) if file else path}
    if kind == "minari" and (place / "data" / "metadata.json").is_file():
        where = {"dataset": place.resolve().name, "root": str(place.resolve().parent)}
    if kind == "minari" and "fps" not in values:
        raise UserError(f"{path}: a Minari data set does not say how many steps a second has; add fps=N")
    config = parse_config(CONFIGS[kind], {"kind": kind} | where | values, f"{path} as {kind}")
    if isinstance(config, VptConfig) and file and Path(file).suffix.lower() == ".jsonl" and not _beside(file, ".mp4"):
        return Found(kind, path, VptLines(config, Path(file)))
    if isinstance(config, VideosConfig) and file:
        return Found(kind, path, VideosSource(config, Path(file)), file)
    return Found(kind, path, open_source(config), file)


def _beside(file: str, suffix: str) -> bool:
    return Path(file).with_suffix(suffix).is_file()
