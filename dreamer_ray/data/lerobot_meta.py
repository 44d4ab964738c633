"""The meta folder of a LeRobot data set, v3.0 and v2.1: features, episodes and where their files lie, tasks, statistics of the actions.

Read from lerobot 0.4.4 (``datasets/lerobot_dataset.py``, ``datasets/utils.py`` and ``v30/convert_dataset_v21_to_v30.py``).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, RootModel

from dreamer_ray.data.foreign import Foreign, checked, checked_lines, checked_values, inside, read_bytes, within
from dreamer_ray.data.sources import BadRecordingError

Index = Annotated[int, Field(ge=0, lt=10**9)]
Size = Annotated[int, Field(gt=0, le=10**5)]
FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}", re.ASCII)
"""A place in a template of paths, such as ``{chunk_index:03d}``."""


class Feature(Foreign):
    """One column, or one camera."""

    dtype: str
    shape: tuple[Size, ...] = Field(max_length=8)


class Info(Foreign):
    """``meta/info.json``."""

    codebase_version: str
    fps: float = Field(gt=0, le=1000)
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: Size = 1000

    @property
    def joined(self) -> bool:
        """Whether several episodes share a file (v3)."""
        return self.codebase_version.startswith("v3.")

    @property
    def cameras(self) -> list[str]:
        """Keys of the features that are pictures."""
        return [name for name, feature in self.features.items() if feature.dtype in ("video", "image")]


class EpisodeEntry(Foreign):
    """An episode and its files, relative to the data set's folder."""

    episode_index: Index
    length: Index
    data_chunk: Index = 0
    data_file: Index = 0
    video_chunk: Index = 0
    video_file: Index = 0
    start: float = Field(default=0.0, ge=0, lt=1e7)
    """When its first picture is shown in the video file, in seconds."""


class _Task(Foreign):
    task_index: Index
    task: str


class _Range(Foreign):
    min: list[float]
    max: list[float]
    q01: list[float] | None = None
    q99: list[float] | None = None


class _Stats(RootModel[dict[str, Any]]):
    """``meta/stats.json``: by feature."""


class _EpisodeStats(Foreign):
    """A line of ``meta/episodes_stats.jsonl``."""

    stats: dict[str, Any]


@dataclass(frozen=True)
class Meta:
    """What the meta folder says; see ``read_info``, ``read_episodes``, ``read_tasks`` and ``read_range``."""

    info: Info
    tasks: dict[int, str]
    episodes: dict[int, EpisodeEntry] = field(repr=False)


def read_info(folder: Path) -> Info:
    """``meta/info.json``. Raises ``BadRecordingError``, also where a template of paths leads out of the folder."""
    path = inside(folder, "meta/info.json")
    info = checked(Info, read_bytes(path), str(path))
    if not info.codebase_version.startswith(("v3.", "v2.")):
        raise BadRecordingError(f"{path}: codebase_version {info.codebase_version!r:.40}; v3.0 and v2.1 are read, convert it with lerobot")
    probe = EpisodeEntry(episode_index=0, length=0)
    within(data_path(info, probe))
    for camera in info.cameras:
        within(video_path(info, probe, camera))
    return info


def data_path(info: Info, entry: EpisodeEntry) -> str:
    """Where the rows of an episode lie."""
    return _filled(info.data_path, _places(info, entry, entry.data_chunk, entry.data_file))


def video_path(info: Info, entry: EpisodeEntry, camera: str) -> str:
    """Where the pictures of ``camera`` lie; where they are in the rows, the same as ``data_path``."""
    if info.features[camera].dtype == "image":
        return data_path(info, entry)
    if info.video_path is None:
        raise BadRecordingError(f"meta/info.json: {camera} is a video, but video_path is not given")
    return _filled(info.video_path, _places(info, entry, entry.video_chunk, entry.video_file) | {"video_key": camera})


def _places(info: Info, entry: EpisodeEntry, chunk: int, file: int) -> dict[str, int | str]:
    number = entry.episode_index
    return {"chunk_index": chunk, "file_index": file, "episode_chunk": number // info.chunks_size, "episode_index": number}


def _filled(template: str, places: dict[str, int | str]) -> str:
    """``template`` with its fields filled in; not by ``str.format``, which would let a foreign file look into objects."""

    def value(found: re.Match) -> str:
        place = places.get(found[1])
        if place is None:
            raise BadRecordingError(f"meta/info.json: path {template!r:.200}: unknown field {found[1]}; known are {', '.join(places)}")
        return str(place).zfill(int(found[2] or 0))

    filled = FIELD.sub(value, template)
    if "{" in filled or "}" in filled:
        raise BadRecordingError(f"meta/info.json: path {template!r:.200}: its fields are not of the form {{name}} or {{name:03d}}")
    return filled


def read_episodes(folder: Path, info: Info, camera: str) -> dict[int, EpisodeEntry]:
    """The episodes by number, in their order in the data set. Raises ``BadRecordingError``."""
    if info.joined:
        entries = [entry for table, path in _episode_tables(folder, info, camera) for entry in _entries(table, path, camera)]
    else:
        entries = checked_lines(EpisodeEntry, inside(folder, "meta/episodes.jsonl"))
    episodes = {entry.episode_index: entry for entry in entries}
    if len(episodes) < len(entries):
        twice = next(entry.episode_index for i, entry in enumerate(entries) if episodes[entry.episode_index] is not entries[i])
        raise BadRecordingError(f"{folder / 'meta'}: episode {twice} stands there twice")
    return episodes


def _episode_tables(folder: Path, info: Info, camera: str) -> list[tuple[pa.Table, Path]]:
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    if info.features[camera].dtype == "video":
        columns += [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    names = sorted(path.relative_to(folder).as_posix() for path in (folder / "meta" / "episodes").glob("*/*.parquet"))
    if not names:
        raise BadRecordingError(f"{folder}/meta/episodes: holds no chunk-*/file-*.parquet")
    return [(read_table(inside(folder, name), columns), folder / name) for name in names]


def _entries(table: pa.Table, path: Path, camera: str) -> list[EpisodeEntry]:
    names = {
        "data/chunk_index": "data_chunk",
        "data/file_index": "data_file",
        f"videos/{camera}/chunk_index": "video_chunk",
        f"videos/{camera}/file_index": "video_file",
        f"videos/{camera}/from_timestamp": "start",
    }
    rows = table.rename_columns([names.get(name, name) for name in table.column_names]).to_pylist()
    return [checked_values(EpisodeEntry, row, f"{path}, row {i}") for i, row in enumerate(rows)]


def read_table(path: Path, columns: list[str], filters: list | None = None) -> pa.Table:
    """Columns of a Parquet file. Raises ``BadRecordingError``, also where one is missing."""
    try:
        found = set(pq.read_schema(path).names)
        if missing := [name for name in columns if name not in found]:
            raise BadRecordingError(f"{path}: has no column {', '.join(missing)}")
        return pq.ParquetFile(path).read(columns) if filters is None else pq.read_table(path, columns=columns, filters=filters)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadRecordingError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split()):.200})") from error


def read_tasks(folder: Path, info: Info) -> dict[int, str]:
    """The task strings by their number. Raises ``BadRecordingError``."""
    if not info.joined:
        return {task.task_index: task.task for task in checked_lines(_Task, inside(folder, "meta/tasks.jsonl"))}
    path = inside(folder, "meta/tasks.parquet")
    table = read_table(path, ["task_index"])
    text = "task" if "task" in pq.read_schema(path).names else "__index_level_0__"  # the name that pandas gives an index without one
    rows = zip(table["task_index"].to_pylist(), read_table(path, [text])[text].to_pylist(), strict=True)
    tasks = [checked_values(_Task, {"task_index": i, "task": name}, f"{path}, row {i}") for i, name in rows]
    return {task.task_index: task.task for task in sorted(tasks, key=lambda task: task.task_index)}


def read_range(folder: Path, info: Info, feature: str, bounds: tuple[str, str]) -> tuple[list[float], list[float]]:
    """Lowest and highest value of ``feature`` entry by entry, by the statistics named ``bounds``, such as min and max.

    Raises ``BadRecordingError`` where there are none, or of another size than the feature.
    """
    per_episode = folder / "meta" / "episodes_stats.jsonl"
    if not info.joined and per_episode.exists():
        path = inside(folder, "meta/episodes_stats.jsonl")
        sets = [line.stats for line in checked_lines(_EpisodeStats, path)]
    else:
        path = inside(folder, "meta/stats.json")
        sets = [checked(_Stats, read_bytes(path), str(path)).root]
    ranges = [checked_values(_Range, stats.get(feature) or {}, f"{path}: {feature}") for stats in sets]
    low, high = ([getattr(r, name) for r in ranges] for name in bounds)
    wanted = info.features[feature].shape
    if not ranges or any(side is None or (len(side),) != wanted for side in (*low, *high)):
        raise BadRecordingError(f"{path}: {' and '.join(bounds)} of {feature} are missing, or not of its shape {wanted}")
    return [min(column) for column in zip(*low, strict=True)], [max(column) for column in zip(*high, strict=True)]
