"""A folder of videos, with or without a table of actions of the same stem beside each: how anyone trains on their own videos.

``actions.yaml`` in the folder says what the columns of the tables are; without it nothing is labelled. See ``action_columns.py``.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.action_columns import MOST_TEXT, ActionFile, Labels, labels, read_action_file, unlabelled
from dreamer_ray.data.action_tables import SUFFIXES, read_table
from dreamer_ray.data.files import plain_file
from dreamer_ray.data.foreign import inside, plain_name
from dreamer_ray.data.frame_rate import JUMP, MAX_PAUSE, usual_rate
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.data.video import pictures
from dreamer_ray.data.video_times import picture_times
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".3gp", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")
"""Usual names of what ``video.FORMATS`` lists."""
ACTION_FILE, MISNAMED = "actions.yaml", "actions.yml"


class VideosConfig(Config):
    """A folder of videos, and of folders of them."""

    kind: Literal["videos"]
    path: str
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Picture n of every video is shown at n / fps, whatever the video says: for such as hold a picture a step of an environment under any
    clock. Where it is not given each picture is shown when its video says, and the usual rate of the first one is that of the source."""
    pause: float = Field(default=1.0, gt=0, le=MAX_PAUSE)
    """Where the next picture comes later than after so many seconds the recording was stopped, and a take ends. What is less is lost
    pictures, or a screen that stood still while nobody wrote it down again: the picture before is shown on."""
    group: Literal["file", "folder"] = "file"
    """What lies on one side of the split: give "folder" where the files of a folder are parts of one recording."""


class VideosSource:
    """See ``Source``."""

    def __init__(self, config: VideosConfig, only: Path | None = None):
        """``only`` is a file of the one recording that counts."""
        self.config, self.folder, self.only = config, Path(config.path), only

    @cached_property
    def form(self) -> ActionFile | None:
        """What ``actions.yaml`` says; None where there is none."""
        path = self.folder / ACTION_FILE
        if (other := self.folder / MISNAMED).exists() and not path.exists():
            raise UserError(f"{other}: is not read under this name; call it {ACTION_FILE}")
        return read_action_file(plain_file(path, MOST_TEXT * 4)) if path.exists() else None

    @property
    def action_space(self) -> ActionSpace:
        """That of ``actions.yaml``."""
        return {} if self.form is None else self.form.action_space

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Those of ``actions.yaml``."""
        return {} if self.form is None else self.form.scalings

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of ``actions.yaml``."""
        return () if self.form is None else tuple(self.form.events)

    @property
    def fps(self) -> float:
        """Usual frames a second of the first video that can be read, or those of the config."""
        return self._first_rate if self.config.fps is None else self.config.fps

    @cached_property
    def _first_rate(self) -> float:
        reasons = []
        for recording in self.index():
            try:
                return usual_rate(picture_times(str(self._inside(recording.files[0]))), name=recording.files[0])
            except BadRecordingError as error:
                reasons.append(str(error))
        raise UserError(f"folder {self.folder}: none of its {len(reasons)} videos can be read; the first: {reasons[0]}")

    def index(self) -> Sequence[Recording]:
        """A recording a video, in the order of their paths; hidden files are passed over."""
        if not self.folder.is_dir():
            raise UserError(f"folder {self.folder}: is not there, or is a file; name the folder that holds the videos")
        if not (paths := self._files(VIDEOS)):
            raise UserError(f"folder {self.folder}: holds no video ({', '.join(VIDEOS)})")
        recordings = [self._recording(path) for path in paths]
        return [recording for recording in recordings if self.only is None or self.only in map(Path, recording.files)]

    def doubts(self) -> tuple[str, ...]:
        """A note where it looks as if actions were meant to be known that are not: tables of no video, or that nothing explains."""
        videos, tables = ({path.with_suffix(""): path for path in self._files(suffixes)} for suffixes in (VIDEOS, SUFFIXES))
        paired, bare = sorted(videos.keys() & tables.keys()), sorted(videos.keys() - tables.keys())
        if self.form is None and paired:
            beside = f"{len(paired)} tables such as {tables[paired[0]]} lie beside videos"
            return (f"folder {self.folder}: {beside}, but no {ACTION_FILE} says what their columns are: nothing is labelled",)
        if self.form is None or not bare:
            return ()
        stray = sorted(tables.keys() - videos.keys())
        found = f"; {len(stray)} tables such as {tables[stray[0]]} are of no video's name" if stray else ""
        few = f"{len(bare)} of {len(videos)} videos, such as {videos[bare[0]]}, have no table ({', '.join(SUFFIXES)}) of the same name"
        return (f"folder {self.folder}: {few}, and are not labelled{found}",)

    def _files(self, suffixes: Sequence[str]) -> list[Path]:
        paths = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.suffix.lower() in suffixes)
        return [path for path in paths if not any(part.startswith(".") for part in path.parts)]

    def _recording(self, path: Path) -> Recording:
        name = plain_name(path.as_posix())
        group = name if self.config.group == "file" else plain_name(path.parent.as_posix())
        tables = [path.with_suffix(suffix) for suffix in SUFFIXES] if self.form else []
        files = [path, *(table for table in tables if (self.folder / table).exists())]
        return Recording(name, group, tuple(str(self.folder / file) for file in files))

    def made_from(self, recording: Recording) -> str:
        """What ``actions.yaml`` says."""
        return "" if self.form is None else self.form.model_dump_json()

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """A take wherever time goes on without a pause and no episode ends."""
        video, *tables = [self._inside(file) for file in recording.files]
        times = picture_times(str(video))
        if len(times) < 2:
            raise BadRecordingError(f"{video}: has {len(times)} picture, and no action leads from it to another")
        if self.config.fps is not None:
            times = np.arange(len(times)) / self.config.fps
        if len(tables) > 1:
            raise BadRecordingError(f"{video}: has several tables, {' and '.join(table.name for table in tables)}; keep one")
        dropped: Counter[str] = Counter()
        known = unlabelled(self.form, len(times))
        if self.form and not tables:
            dropped["actions of pictures whose video has no table"] = len(times)
        if tables and self.form:
            self._only_video_of(video)
            known = labels(self.form, read_table(tables[0]), times, dropped)
        pause = max(self.config.pause, JUMP / usual_rate(times, name=str(video)))
        ends = np.flatnonzero((np.diff(times) > pause) | (known.continues[:-1] == 0)) + 1
        bounds = [0, *ends.tolist(), len(times)]
        takes = tuple(self._take(known, times, slice(first, end), video.name) for first, end in pairwise(bounds))
        return Reading(takes, pictures(str(video), layout=layout), dropped)

    def _take(self, known: Labels, times: np.ndarray, part: slice, name: str) -> Take:
        info: dict[str, float | int | str] = {"video": name}
        if self.form:
            info |= {f"scaling.{key}": scaling.note() for key, scaling in self.form.scalings.items()}
        actions = {key: values[part] for key, values in known.actions.items()}
        motions, several = (self.form.motions, self.form.several) if self.form else ({}, {})
        kept = known.labelled[part], known.events[part], known.continues[part]
        return Take(part.start, actions, *kept, info, motions, times[part], several)

    def _only_video_of(self, video: Path) -> None:
        same = [path.name for path in video.parent.iterdir() if path.stem == video.stem and path.suffix.lower() in VIDEOS]
        if len(same) > 1:
            raise BadRecordingError(f"{video}: its table may belong to {' or '.join(sorted(same))}; give them different names")

    def _inside(self, file: str) -> Path:
        return inside(self.folder, Path(file).relative_to(self.folder).as_posix())
