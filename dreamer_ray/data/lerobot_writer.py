"""A LeRobot data set, v3.0, written episode by episode: rows in Parquet, a row group an episode, and pictures in H.264.

The format is that of lerobot 0.4.4, which reads what is written here; pandas' index of the tasks and the statistics are part of it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, UInt8
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.lerobot_files import FILES_A_CHUNK, RowFiles, VideoFiles
from dreamer_ray.data.lerobot_stats import Stats, joined, pictures_stats, stats_of
from dreamer_ray.errors import UserError

CAMERA = "observation.images.front"
PICTURES_FOR_STATS = 20


class LeRobotFormat(Config):
    """What all episodes of a written data set share."""

    fps: int = Field(gt=0, le=1000)
    frame_shape: tuple[int, int]
    """Rows and columns of a picture, both even, as H.264 wants them."""
    action_names: tuple[str, ...] = Field(min_length=1)
    robot: str = "unknown"
    crf: int = Field(default=18, ge=0, le=51)
    """Loss of the video: 0 none, 18 hardly visible, 23 half the size."""
    file_bytes: int = Field(default=200 * 2**20, gt=0)
    """Size from which on a file is followed by the next."""


@dataclass(frozen=True)
class RobotEpisode:
    """``T`` steps; row t is what was seen, what was done, and what arrived with the next picture."""

    frames: UInt8[np.ndarray, "t y x 3"]
    actions: Float[np.ndarray, "t n"]
    rewards: Float[np.ndarray, "t"]
    success: Bool[np.ndarray, "t"]
    """Whether the task is done at the next picture."""
    terminated: bool
    """Whether the last step led to a terminal state; otherwise the recording was cut."""
    task: str


class LeRobotWriter:
    """Writes ``folder``, which appears whole when the ``with`` block ends and not at all where it fails."""

    def __init__(self, folder: Path, form: LeRobotFormat):
        if folder.exists():
            raise UserError(f"data set {folder}: is there already; name another folder or remove it")
        if any(side % 2 or side <= 0 for side in form.frame_shape):
            raise UserError(f"data set {folder}: pictures of {' x '.join(map(str, form.frame_shape))}; H.264 wants even sides")
        self.folder, self.form, self.partial = folder, form, folder.with_name(f".{folder.name}.partial")
        self._rows = RowFiles(self.partial, form.file_bytes)
        self._video = VideoFiles(self.partial, CAMERA, fps=form.fps, crf=form.crf, file_bytes=form.file_bytes)
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, Stats]] = []
        self._tasks: dict[str, int] = {}
        self._frames = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self.partial, ignore_errors=True)  # of a run that was killed
        self.partial.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rows.close()
        self._video.close()
        if kind is None and self._episodes:
            self._finish()
            self.partial.replace(self.folder)
            return
        shutil.rmtree(self.partial)
        if kind is None:
            raise UserError(f"data set {self.folder}: no episode was added to it")

    def add(self, episode: RobotEpisode) -> None:
        """Appends one episode. Raises ``UserError`` where its sizes are not those of the format."""
        steps = len(episode.frames)
        wanted = {"frames": (steps, *self.form.frame_shape, 3), "actions": (steps, len(self.form.action_names))}
        wanted |= {"rewards": (steps,), "success": (steps,)}
        for name, shape in wanted.items():
            if not steps or getattr(episode, name).shape != shape:
                raise UserError(f"data set {self.folder}: {name} of shape {getattr(episode, name).shape}, wanted {shape}")
        columns = self._columns(episode)
        stats = {name: stats_of(values) for name, values in columns.items()}
        stats[CAMERA] = pictures_stats(episode.frames[:: max(1, steps // PICTURES_FOR_STATS)])
        start = self._video.add(episode.frames)
        entry = {"episode_index": len(self._episodes), "tasks": [episode.task], "length": steps}
        entry |= self._rows.add(columns) | {"dataset_from_index": self._frames, "dataset_to_index": self._frames + steps}
        entry |= start | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        entry |= {f"stats/{name}/{figure}": value for name, found in stats.items() for figure, value in found.listed().items()}
        self._episodes.append(entry)
        self._stats.append(stats)
        self._frames += steps

    def _columns(self, episode: RobotEpisode) -> dict[str, np.ndarray]:
        steps = len(episode.frames)
        ended = np.arange(steps) == steps - 1
        return {
            "action": np.asarray(episode.actions, np.float32),
            "next.reward": np.asarray(episode.rewards, np.float32),
            "next.done": ended,
            "next.terminated": ended & episode.terminated,
            "next.success": np.asarray(episode.success, bool),
            "timestamp": (np.arange(steps) / self.form.fps).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, len(self._episodes)),
            "index": self._frames + np.arange(steps),
            "task_index": np.full(steps, self._tasks.setdefault(episode.task, len(self._tasks))),
        }

    def _finish(self) -> None:
        """The meta folder."""
        meta = self.partial / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), meta / "episodes" / "chunk-000" / "file-000.parquet")
        pq.write_table(_tasks_table(list(self._tasks)), meta / "tasks.parquet")
        stats = {name: joined([found[name] for found in self._stats]).listed() for name in self._stats[0]}
        (meta / "stats.json").write_text(json.dumps(stats, indent=4))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _info(self) -> dict[str, Any]:
        rows, columns = self.form.frame_shape
        video = {"video.height": rows, "video.width": columns, "video.codec": "h264", "video.pix_fmt": "yuv420p"}
        video |= {"video.is_depth_map": False, "video.fps": self.form.fps, "video.channels": 3, "has_audio": False}
        features: dict[str, Any] = {
            CAMERA: {"dtype": "video", "shape": [rows, columns, 3], "names": ["height", "width", "channels"], "info": video},
            "action": {"dtype": "float32", "shape": [len(self.form.action_names)], "names": list(self.form.action_names)},
        }
        kinds = {"next.reward": "float32", "next.done": "bool", "next.terminated": "bool", "next.success": "bool", "timestamp": "float32"}
        kinds |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
        features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}
        return {
            "codebase_version": "v3.0",
            "robot_type": self.form.robot,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": max(1, self.form.file_bytes >> 20),
            "video_files_size_in_mb": max(1, self.form.file_bytes >> 20),
            "fps": self.form.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
        }


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """As pandas writes a frame of the numbers with the task strings as its index, which is what lerobot reads."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    names = [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}]
    notes = {"index_columns": [index], "column_indexes": names, "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(notes)})
