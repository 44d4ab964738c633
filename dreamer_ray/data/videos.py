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
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.data.video import pictures
from dreamer_ray.data.video_times import picture_times
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
ACTION_FILE = "actions.yaml"
JUMP = 1.75
"""Pictures further apart than this many usual ones are not consecutive."""
RATE_TOLERANCE = 0.02


class VideosConfig(Config):
    """A folder of videos, and of folders of them."""

    kind: Literal["videos"]
    path: str
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames a second of the videos; that of the first one where it is not given."""
    group: Literal["file", "folder"] = "file"
    """What lies on one side of the split: give "folder" where the files of a folder are parts of one recording."""


class VideosSource:
    """See ``Source``."""

    def __init__(self, config: VideosConfig):
        self.config, self.folder = config, Path(config.path)

    @cached_property
    def form(self) -> ActionFile | None:
        """What ``actions.yaml`` says; None where there is none."""
        path = self.folder / ACTION_FILE
        return read_action_file(plain_file(path, MOST_TEXT * 4)) if path.exists() else None

    @property
    def action_space(self) -> ActionSpace:
        """That of ``actions.yaml``."""
        return {} if self.form is None else self.form.action_space

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of ``actions.yaml``."""
        return () if self.form is None else tuple(self.form.events)

    @property
    def fps(self) -> float:
        """Frames a second, which all recordings must have."""
        return self._first_rate if self.config.fps is None else self.config.fps

    @cached_property
    def _first_rate(self) -> float:
        reasons = []
        for recording in self.index():
            try:
                return rate(picture_times(str(self._inside(recording.files[0]))), recording.files[0])
            except BadRecordingError as error:
                reasons.append(str(error))
        raise UserError(f"folder {self.folder}: none of its {len(reasons)} videos can be read; the first: {reasons[0]}")

    def index(self) -> Sequence[Recording]:
        """A recording a video, in the order of their paths; hidden files are passed over."""
        if not self.folder.is_dir():
            raise UserError(f"folder {self.folder}: is not there, or is a file; name the folder that holds the videos")
        paths = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.suffix.lower() in VIDEOS)
        paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
        if not paths:
            raise UserError(f"folder {self.folder}: holds no video ({', '.join(VIDEOS)})")
        return [self._recording(path) for path in paths]

    def _recording(self, path: Path) -> Recording:
        name = plain_name(path.as_posix())
        group = name if self.config.group == "file" else plain_name(path.parent.as_posix())
        tables = [path.with_suffix(suffix) for suffix in SUFFIXES] if self.form else []
        files = [path, *(table for table in tables if (self.folder / table).exists())]
        return Recording(name, group, tuple(str(self.folder / file) for file in files))

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """A take wherever time goes on without a jump and no episode ends."""
        video, *tables = [self._inside(file) for file in recording.files]
        times = picture_times(str(video))
        if len(times) < 2:
            raise BadRecordingError(f"{video}: has {len(times)} picture, and no action leads from it to another")
        if abs(rate(times, str(video)) / self.fps - 1) > RATE_TOLERANCE:
            remedy = "put videos of another rate into a folder of their own"
            raise BadRecordingError(f"{video}: {rate(times, str(video)):.4g} frames a second, the folder's have {self.fps:.4g}; {remedy}")
        if len(tables) > 1:
            raise BadRecordingError(f"{video}: has several tables, {' and '.join(table.name for table in tables)}; keep one")
        dropped: Counter[str] = Counter()
        known = unlabelled(self.form, len(times))
        if tables and self.form:
            self._only_video_of(video)
            known = labels(self.form, read_table(tables[0]), times, dropped)
        jumps = np.flatnonzero((np.diff(times) > JUMP / self.fps) | (known.continues[:-1] == 0)) + 1
        bounds = [0, *jumps.tolist(), len(times)]
        takes = tuple(self._take(known, first, end, video.name) for first, end in pairwise(bounds))
        return Reading(takes, pictures(str(video), layout=layout), dropped)

    def _take(self, known: Labels, first: int, end: int, name: str) -> Take:
        part = slice(first, end)
        info: dict[str, float | int | str] = {"video": name}
        if self.form:
            info |= {f"scaling.{key}": axes.scaling.note() for key, axes in self.form.actions.items() if axes.kind == "continuous"}
        actions = {key: values[part] for key, values in known.actions.items()}
        return Take(first, actions, known.labelled[part], known.events[part], known.continues[part], info)

    def _only_video_of(self, video: Path) -> None:
        same = [path.name for path in video.parent.iterdir() if path.stem == video.stem and path.suffix.lower() in VIDEOS]
        if len(same) > 1:
            raise BadRecordingError(f"{video}: its table may belong to {' or '.join(sorted(same))}; give them different names")

    def _inside(self, file: str) -> Path:
        return inside(self.folder, Path(file).relative_to(self.folder).as_posix())


def rate(times: np.ndarray, video: str) -> float:
    """Frames a second by the usual distance of pictures. Raises ``BadRecordingError``."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if usual <= 0:
        raise BadRecordingError(f"{video}: its {len(times)} pictures have no rate")
    near = steps[(steps > usual / JUMP) & (steps < usual * JUMP)]
    return 1 / float(near.mean())
