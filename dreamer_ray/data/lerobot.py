"""LeRobot data sets, v3.0 and v2.1, read directly: rows in Parquet, pictures in videos of which v3 puts several episodes into one file.

A row is ``(o_t, a_t)`` with the columns ``next.*`` that arrive with ``o_{t+1}``; the last ones, whose picture is not recorded, count at the
last picture. The format is that of lerobot 0.4.4; see ``lerobot_meta.py``.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import model_validator

from dreamer_ray.config import Config, fingerprint
from dreamer_ray.data.foreign import inside
from dreamer_ray.data.layout import PictureLayout, picture_maker
from dreamer_ray.data.lerobot_meta import (
    EpisodeEntry,
    Info,
    Meta,
    data_path,
    read_episodes,
    read_info,
    read_range,
    read_table,
    read_tasks,
    video_path,
)
from dreamer_ray.data.lerobot_rows import NUMBERS, numbers, pictures_in
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Motion, Reading, Recording, Several, Take
from dreamer_ray.data.video_times import pictures_at
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Continuous

MOST_TASKS = 256
BOUNDS = {"range": ("min", "max"), "quantiles": ("q01", "q99")}


class LeRobotConfig(Config):
    """A LeRobot data set in a folder."""

    kind: Literal["lerobot"]
    path: str
    """The folder that holds ``meta/info.json``."""
    camera: str | None = None
    """Key of the pictures, such as ``observation.images.top``; needed where there are several cameras."""
    action: str = "action"
    scale: Literal["range", "quantiles", "none"] = "range"
    """What of the actions becomes -1 and 1: lowest and highest, the 1% and 99% quantiles, or nothing (they are left alone)."""
    low: tuple[float, ...] | None = None
    """What becomes -1, entry by entry, in place of ``scale``: with ``high`` the same for all data sets that one model learns from."""
    high: tuple[float, ...] | None = None
    """What becomes 1."""
    several: Several = "last"
    """What counts of the actions where several pictures become one frame: "sum" is right where they are ways gone, not places to be at."""
    tasks: tuple[str, ...] = ()
    """The task strings to train on, in this order; all of the data set where empty."""
    event_columns: tuple[str, ...] = ("next.success", "next.reward")
    """The first of these that the data set has says when the episode's task is done: where its value first reaches ``event_value``."""
    event_value: float = 1.0
    event_at_end: bool = False
    """Every episode is a demonstration, done at its last picture; ``event_columns`` are not read."""
    terminal_columns: tuple[str, ...] = ("next.terminated",)
    """The first of these that the data set has says what is terminal. ``next.done`` is none of them, since most sets mark with it where
    each recording ends; name it where it means that the world has come to an end."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> "LeRobotConfig":
        low, high = self.low or (), self.high or ()
        if (self.low is None) != (self.high is None) or len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f"low ({self.low}) and high ({self.high}) go together: as many numbers in both, and each of low below that of high"
            )
        return self


class LeRobotSource:
    """See ``Source``. All that is wrong with the meta folder is a ``UserError``."""

    def __init__(self, config: LeRobotConfig):
        self.config, self.folder = config, Path(config.path)

    @cached_property
    def meta(self) -> Meta:
        """What the meta folder says."""
        try:
            info = read_info(self.folder)
            self._check(info)
            return Meta(info, read_tasks(self.folder, info), read_episodes(self.folder, info, self._camera(info)))
        except BadRecordingError as error:
            raise UserError(f"LeRobot data set {self.folder}: {error}") from error

    @cached_property
    def scaling(self) -> Scaling:
        """Between the data set's actions and those of the takes."""
        if self.config.low is not None and self.config.high is not None:
            if len(self.config.low) != self._size:
                place = f"LeRobot data set {self.folder}: low and high"
                raise UserError(f"{place}: {len(self.config.low)} numbers each, but {self.config.action} has {self._size}")
            return Scaling.between(self.config.low, self.config.high)
        if self.config.scale == "none":
            return Scaling((0.0,) * self._size, (1.0,) * self._size)
        try:
            low, high = read_range(self.folder, self.meta.info, self.config.action, BOUNDS[self.config.scale])
        except BadRecordingError as error:
            raise UserError(f"LeRobot data set {self.folder}: {error}; scale: none leaves the actions as they are") from error
        return Scaling.between(low, high)

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Of the one component."""
        return {"action": self.scaling}

    @property
    def camera(self) -> str:
        """Key of the pictures."""
        return self._camera(self.meta.info)

    @property
    def action_space(self) -> ActionSpace:
        """One continuous component, "action"."""
        return {"action": Continuous(size=self._size)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task strings."""
        known = tuple(self.meta.tasks.values())
        if unknown := set(self.config.tasks) - set(known):
            name = min(unknown)
            raise UserError(f"LeRobot data set {self.folder}: tasks: no task {name!r}; it has {', '.join(map(repr, known[:8]))}")
        if not self.config.tasks and len(known) > MOST_TASKS:
            raise UserError(f"LeRobot data set {self.folder}: has {len(known)} tasks; name at most {MOST_TASKS} of them with tasks: [...]")
        return self.config.tasks or known

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.meta.info.fps

    def index(self) -> Sequence[Recording]:
        """A recording an episode."""
        if not self.meta.episodes:
            raise UserError(f"LeRobot data set {self.folder}: holds no episode")
        return [self._recording(entry) for entry in self.meta.episodes.values()]

    def _recording(self, entry: EpisodeEntry) -> Recording:
        name, info = f"episode-{entry.episode_index:06d}", self.meta.info
        paths = dict.fromkeys([data_path(info, entry), video_path(info, entry, self.camera)])
        return Recording(name, name, tuple(str(self.folder / path) for path in paths))

    def made_from(self, recording: Recording) -> str:
        """What the meta folder says of the episode, and of all: columns, rate, tasks, and the range of the actions."""
        return f"{self._meta_of_all} {self._entry(recording).model_dump_json()}"

    @cached_property
    def _meta_of_all(self) -> str:
        return fingerprint([self.meta.info.model_dump(mode="json"), self.meta.tasks, self.scaling.note()])

    def _entry(self, recording: Recording) -> EpisodeEntry:
        return self.meta.episodes[int(recording.name.removeprefix("episode-"))]

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """One take, the whole episode."""
        entry = self._entry(recording)
        info, config = self.meta.info, self.config
        files = [inside(self.folder, path) for path in (data_path(info, entry), video_path(info, entry, self.camera))]
        event = () if config.event_at_end else self._first(config.event_columns)
        terminal = self._first(config.terminal_columns)
        columns = [*dict.fromkeys(["frame_index", "timestamp", "task_index", config.action, *event, *terminal])]
        in_rows = info.features[self.camera].dtype == "image"
        table = read_table(files[0], columns + [self.camera] * in_rows, [("episode_index", "=", entry.episode_index)])
        if table.num_rows != entry.length or not entry.length:
            raise BadRecordingError(f"{files[0]}: {table.num_rows} rows of {recording.name}, its meta folder says {entry.length}")
        rows = {name: numbers(table, name, self._size if name == config.action else 1, files[0]) for name in columns}
        if (rows["frame_index"][:, 0] != np.arange(entry.length)).any():
            raise BadRecordingError(f"{files[0]}: {recording.name}: frame_index does not count from 0 to {entry.length - 1}")
        times = entry.start + rows["timestamp"][:, 0]
        shown = pictures_in(table, self.camera, self.folder) if in_rows else pictures_at(str(files[1]), times, 0.5 / info.fps)
        return Reading((self._take(entry, rows, event, terminal),), map(picture_maker(layout), shown), Counter())

    def _take(self, entry: EpisodeEntry, rows: dict[str, np.ndarray], event: Sequence[str], terminal: Sequence[str]) -> Take:
        steps, names = entry.length, self.tasks
        arrives = np.minimum(np.arange(steps) + 1, steps - 1)
        task = [self._task(int(number), entry) for number in rows["task_index"][:, 0]]
        column = [names.index(name) if name in names else -1 for name in task]
        events, continues = np.zeros((steps, len(names)), np.uint8), np.ones(steps, np.float32)
        done = np.arange(steps) == steps - 1 if self.config.event_at_end else np.zeros(steps, bool)
        for name in event:
            reached = rows[name][:, 0] >= self.config.event_value
            done = reached & ~np.concatenate([[False], reached[:-1]])
        for t in np.flatnonzero(done):
            if column[t] >= 0:
                events[arrives[t], column[t]] += 1
        for name in terminal:
            continues[arrives[rows[name][:, 0] > 0]] = 0
        info: dict[str, float | int | str] = {"episode": entry.episode_index, "camera": self.camera, "task": task[0]}
        actions = {"action": self.scaling.scaled(rows[self.config.action])}
        info["scaling.action"] = self.scaling.note()
        motions = {"action": Motion.of(self.scaling)} if self.config.several == "sum" else {}
        return Take(0, actions, np.ones(steps, bool), events, continues, info, motions, several={"action": self.config.several})

    def _task(self, number: int, entry: EpisodeEntry) -> str:
        if number not in self.meta.tasks:
            raise BadRecordingError(f"episode {entry.episode_index}: task_index {number} is not in the meta folder's tasks")
        return self.meta.tasks[number]

    @property
    def _size(self) -> int:
        return self.meta.info.features[self.config.action].shape[0]

    def _first(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in columns if name in self.meta.info.features)[:1]

    def _camera(self, info: Info) -> str:
        return self.config.camera or info.cameras[0]

    def _check(self, info: Info) -> None:
        """Raises ``UserError`` where the camera or the action of the config is not in the data set."""
        place, camera, action = f"LeRobot data set {self.folder}", self.config.camera, self.config.action
        if not info.cameras:
            raise UserError(f"{place}: has no camera; its features are {', '.join(info.features)}")
        if camera is None and len(info.cameras) > 1:
            raise UserError(f"{place}: has several cameras; choose with camera: {' | '.join(info.cameras)}")
        if camera is not None and camera not in info.cameras:
            raise UserError(f"{place}: has no camera {camera}; it has {', '.join(info.cameras)}")
        vectors = [name for name, feature in info.features.items() if feature.dtype in NUMBERS and len(feature.shape) == 1]
        if action not in vectors:
            raise UserError(f"{place}: has no row of numbers called {action}; name one with action: {' | '.join(vectors)}")
