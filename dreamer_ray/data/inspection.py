"""What a person wants to know of a data set: its index whole, and figures of some of its recordings, spread evenly."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ray.data.action_names import action_names
from dreamer_ray.data.action_tally import ActionTally, ComponentFigures
from dreamer_ray.data.files import open_file, scheme, tried
from dreamer_ray.data.lerobot import LeRobotSource
from dreamer_ray.data.recognition import Found, Kind
from dreamer_ray.data.set_facts import SetFacts, set_facts
from dreamer_ray.data.set_source import SetSource
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.data.video import DAMAGE, video_stream
from dreamer_ray.data.videos import VIDEOS
from dreamer_ray.data.vpt import VptSource
from dreamer_ray.errors import UserError
from dreamer_ray.progress import Progress

HERE, ELSEWHERE = 20, 2
"""How many recordings are read where nothing else is said: those that lie elsewhere are fetched whole."""
PATIENCE = 5
"""So many bad recordings at the start of a source that lies elsewhere, and no others are tried: nothing can be reached there."""
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Bad:
    """A recording that cannot be used."""

    name: str
    reason: str


@dataclass(frozen=True)
class TaskFigures:
    """How often a task was achieved."""

    events: int
    takes: int
    """With an event."""


@dataclass(frozen=True)
class NumberFigures:
    """A number that takes carry as provenance, such as a return."""

    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Whole:
    """All that the index lists, whether it was read or not."""

    recordings: int
    groups: int
    """What must lie on one side of the split."""
    hours: float | None
    """None where nothing tells."""
    hours_known: bool
    """False where ``hours`` is what it is if the others are like those that were read."""
    bytes: int | None
    """None where the files lie elsewhere."""
    left_out: dict[str, int]
    """Entries of the index that are no recordings, by reason."""


@dataclass(frozen=True)
class Report:
    """What was found; figures but those of ``whole`` are of the recordings that were read."""

    kind: Kind
    path: str
    whole: Whole
    read: int
    bad: tuple[Bad, ...]
    fps: float
    frames: int
    hours: float
    bytes_per_hour: float | None
    takes: tuple[int, ...]
    """Their lengths in frames."""
    terminal: int
    """Takes with a terminal frame."""
    shapes: dict[str, int]
    """Recordings by rows and columns of their pictures."""
    codecs: dict[str, int]
    """Recordings by codec and rate of the video."""
    labelled: float | None
    """Share of the frames whose action is known."""
    null: float | None
    """Share of those that do nothing; see ``ActionTally.null_share``."""
    actions: dict[str, ComponentFigures]
    tasks: dict[str, TaskFigures]
    dropped: dict[str, int]
    """Frames or lines that were left out, by reason."""
    mended: dict[str, int]
    """Those that were kept and changed, or kept though others leave them out, by what was done."""
    numbers: dict[str, NumberFigures]
    words: dict[str, dict[str, int]]
    """Takes by each text that they carry as provenance, the usual ones first."""
    set: SetFacts | None = None
    """Of shards and latents."""


MOST_WORDS, LARGEST = 20, 1e300


def recordings_of(found: Found) -> Sequence[Recording]:
    """The index of what was found, or the one recording whose file was named. Raises ``UserError``."""
    index = found.source.index()
    if found.file is None:
        return index
    wanted = Path(found.file)
    if not (chosen := [recording for recording in index if wanted in map(Path, recording.files)]):
        raise UserError(f"{found.file}: is no recording of {wanted.parent} as {found.kind}; name the folder to see what is")
    return chosen


def spread(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """``count`` of ``recordings`` at even distances, the first among them; all where there are not more."""
    if count >= len(recordings):
        return list(recordings)
    return [recordings[i * len(recordings) // count] for i in range(count)]


def report(found: Found, *, recordings: int | None = None, decode: bool = False) -> Report:
    """Reads up to ``recordings`` of what was found, of their pictures the first, or with ``decode`` all. Raises ``UserError``."""
    index = recordings_of(found)
    chosen = spread(index, recordings if recordings is not None else ELSEWHERE if scheme(index[0].files[0]) else HERE)
    fps = found.source.fps if chosen else 0.0
    seen, bad = _Seen(ActionTally(found.source.action_space, action_names(found.source)), found.source.tasks), []
    shared = Counter(file for recording in index for file in recording.files)
    progress = Progress("inspect", len(chosen), "recordings")
    for number, recording in enumerate(chosen, start=1):
        try:
            seen.add(recording, found.source.read(recording), decode=decode)
            seen.weigh(recording, shared)
        except BadRecordingError as error:
            bad.append(Bad(recording.name, str(error)))
        progress.update(number, {"bad": len(bad), "frames": sum(seen.takes)})
        if number == len(bad) == PATIENCE and scheme(recording.files[0]):
            break
    hours = sum(seen.takes) / fps / SECONDS_AN_HOUR if fps else 0.0
    tried = seen.read + len(bad)
    whole = _whole(found, index, fps, read_hours=hours, tried=tried if seen.read else 0)
    per_hour = seen.bytes / hours if hours and seen.bytes else None
    return seen.report(found, whole, tuple(bad), fps=fps, hours=hours, bytes_per_hour=per_hour)


def _whole(found: Found, index: Sequence[Recording], fps: float, *, read_hours: float, tried: int) -> Whole:
    source = found.source
    frames = None
    if isinstance(source, SetSource):
        frames = int(source.shards.lengths.sum())
    elif isinstance(source, LeRobotSource):
        frames = sum(entry.length for entry in source.meta.episodes.values())
    files = dict.fromkeys(file for recording in index for file in recording.files)
    size = None if any(map(scheme, files)) else sum(size_of(file) for file in files)
    rate = fps or (source.fps if frames else 0.0)
    known = frames is not None or tried == len(index)
    hours = frames / rate / SECONDS_AN_HOUR if frames is not None and rate else read_hours * len(index) / tried if tried else None
    left_out = dict(source.left_out()) if isinstance(source, VptSource) else {}
    return Whole(len(index), len({recording.group for recording in index}), hours, known, size, left_out)


def size_of(path: str) -> int:
    """Bytes of the file at a path or URL, or of all in a folder; 0 where it is not there."""
    try:
        if scheme(path):
            with open_file(path) as file:
                return file.seek(0, 2)
        place = Path(path)
        return sum(part.stat().st_size for part in place.rglob("*") if part.is_file()) if place.is_dir() else place.stat().st_size
    except OSError:
        return 0


def video_head(path: str) -> str:
    """Codec and rate as the head of the video at ``path`` has them. Raises ``BadRecordingError``."""

    def head() -> str:
        with open_file(path) as file, video_stream(path, file) as stream:
            return f"{stream.codec_context.name}, {float(stream.average_rate or 0):.4g} frames/s"

    try:
        return tried(path, head)
    except DAMAGE as error:
        raise BadRecordingError(f"{path}: cannot be read as a video ({error})") from error


def pictures_seen(pictures: Iterator[np.ndarray], takes: Sequence[Take], *, decode: bool) -> tuple[int, int] | None:
    """Rows and columns of the pictures, of which the first is read, or all with ``decode``; None where there are none.

    Raises ``BadRecordingError``, also where the takes reach beyond the last one.
    """
    shape, count = None, 0
    for picture in pictures if decode else islice(pictures, 1):
        shape, count = (picture.shape[0], picture.shape[1]), count + 1
    wanted = max((take.first + len(take.labelled) for take in takes), default=0)
    if decode and shape and count < wanted:
        raise BadRecordingError(f"holds {count} pictures, what is known of them reaches to picture {wanted - 1}")
    return shape


@dataclass
class _Seen:
    """What was seen so far."""

    tally: ActionTally
    tasks: Sequence[str]
    read: int = 0
    bytes: float = 0.0
    takes: list[int] = field(default_factory=list)
    terminal: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    events: Counter[int] = field(default_factory=Counter)
    achieved: Counter[int] = field(default_factory=Counter)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)

    def add(self, recording: Recording, reading: Reading, *, decode: bool) -> None:
        """Counts a recording. Raises ``BadRecordingError``."""
        shape = pictures_seen(reading.pictures, reading.takes, decode=decode)
        videos = [file for file in recording.files if file.lower().endswith(VIDEOS)]
        heads = {file: self.heads.get(file) or video_head(file) for file in videos}
        for take in reading.takes:
            self.tally.add(take)
            self._take(take)
        self.heads |= heads
        self.codecs.update(heads.values())
        self.shapes.update([f"{shape[0]} x {shape[1]}"] if shape else [])
        self.dropped.update(reading.dropped)
        self.mended.update(reading.mended)
        self.read += 1

    def weigh(self, recording: Recording, shared: Mapping[str, int]) -> None:
        """Adds the recording's part of the bytes of its files, of which several recordings may have one in common."""
        self.bytes += sum(size_of(file) / shared[file] for file in recording.files)

    def _take(self, take: Take) -> None:
        self.takes.append(len(take.labelled))
        self.terminal += bool((take.continues == 0).any())
        counts = take.events.sum(axis=0, dtype=np.int64)
        self.events.update({task: count for task, count in enumerate(counts.tolist()) if count})
        self.achieved.update(np.flatnonzero(counts).tolist())
        for name, value in take.info.items():
            if name.startswith("scaling."):
                continue
            if isinstance(value, str):
                self.words.setdefault(name, Counter())[value] += 1
            else:
                self.numbers.setdefault(name, []).append(float(max(-LARGEST, min(LARGEST, value))))

    def report(self, found: Found, whole: Whole, bad: tuple[Bad, ...], **figures: Any) -> Report:
        """What was seen, as a report."""
        frames = sum(self.takes)
        return Report(
            kind=found.kind,
            path=found.path,
            whole=whole,
            read=self.read,
            bad=bad,
            frames=frames,
            takes=tuple(self.takes),
            terminal=self.terminal,
            shapes=dict(self.shapes),
            codecs=dict(self.codecs),
            labelled=self.tally.labelled / frames if frames else None,
            null=self.tally.null_share(),
            actions=self.tally.figures(),
            tasks={name: TaskFigures(self.events[i], self.achieved[i]) for i, name in enumerate(self.tasks)},
            dropped={reason: count for reason, count in self.dropped.most_common() if count},
            mended=dict(self.mended.most_common()),
            numbers={name: NumberFigures(min(values), sum(values) / len(values), max(values)) for name, values in self.numbers.items()},
            words={name: dict(counts.most_common(MOST_WORDS)) for name, counts in self.words.items()},
            set=set_facts(found.source.shards) if isinstance(found.source, SetSource) else None,
            **figures,
        )
