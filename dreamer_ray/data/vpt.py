"""The VPT contractor recordings as a source: index files or a folder of mp4 and jsonl pairs, segment by segment."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, Annotated, Literal

from av import VideoFrame
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.data.files import fetch, join, list_files, scheme
from dreamer_ray.data.foreign import inside
from dreamer_ray.data.layout import Picture, PictureLayout, picture_maker
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording
from dreamer_ray.data.video import frames, video_info
from dreamer_ray.data.vpt_actions import DEGREES_PER_UNIT, VPT_ACTIONS, SegmentActions, read_segment
from dreamer_ray.data.vpt_cursor import draw_cursor
from dreamer_ray.data.vpt_events import DIAMOND_LADDER, Rule, read_events
from dreamer_ray.data.vpt_index import read_index
from dreamer_ray.data.vpt_takes import TICKS_A_SECOND, CutRules, cut_takes, mended
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace

INDEX = (".json", ".json.gz")
SUFFIXES = (".mp4", ".jsonl")
PLAYED = re.compile(r".+-(?P<session>[0-9a-f]{12})-(?P<day>\d{8})-\d{6}", re.ASCII)
VERSION = re.compile(r"(?:^|/)(\d+\.\d+)/[^/]+$", re.ASCII)
MOST_TEXT = 2**28
"""Bytes of a jsonl file; one of five minutes has about 30 MB."""
NO_VERSION = 'segments with an open menu whose recorder is not known, mouse taken as written (recorder: "6.8" in the recipe says it)'
PAGE = b"<"
"""What a server's error page begins with, sent in place of a file that it lacks."""


class VptConfig(Config):
    """Recordings of OpenAI's recorder, or others in its format."""

    kind: Literal["vpt"] = "vpt"
    path: str | tuple[str, ...]
    """Path or URL of an index (.json, .json.gz), of several, or of a folder that holds pairs of mp4 and jsonl at any depth."""
    base: str | None = None
    """Where the segments of an index lie; as the index says where it is not given."""
    recorder: str | None = Field(default=None, pattern=r"^\d+\.\d+$")
    """Version of the recorder, such as "6.8", of segments that do not lie in a folder of that name, as they do where they come from: some
    versions wrote the mouse in another unit while a menu is open."""
    degrees_per_unit: float = Field(default=DEGREES_PER_UNIT, gt=0, le=10)
    """Turn of the camera by one unit of the mouse."""
    max_server_ms: float = Field(default=200.0, gt=50)
    """Frames at which the server's tick took longer are left out."""
    max_idle_seconds: float = Field(default=60.0, gt=0)
    """Spans at least as long without any input are left out."""
    max_step_ms: float = Field(default=500.0, gt=50)
    """A take ends where the next frame came later; the game makes up for 10 ticks at most, and loses what is more."""
    cursor: bool = True
    """Draw the mouse's cursor, which the recorder leaves out, where a menu is open. Only pictures as they were recorded can stay in the
    video's own packets (``codec.kind`` source or link)."""
    tasks: Literal["diamond_ladder"] | dict[str, Rule | Annotated[tuple[Rule, ...], Field(min_length=1)]] = Field("diamond_ladder")
    """Names of tasks, each with what counts as its event: ``dig_dirt: "mine_block:*dirt*"``, or a list of such."""

    def rules(self) -> Mapping[str, tuple[str, ...]]:
        """What counts as an event of each task."""
        if isinstance(self.tasks, str):
            return DIAMOND_LADDER
        return {name: (rule,) if isinstance(rule, str) else rule for name, rule in self.tasks.items()}

    def cuts(self) -> CutRules:
        """Where takes end and what is left out of them."""
        return CutRules(self.max_server_ms, self.max_idle_seconds, self.max_step_ms)


@dataclass(frozen=True)
class VptSource:
    """See ``sources.Source``."""

    config: VptConfig

    @property
    def action_space(self) -> ActionSpace:
        """23 keys, and the mouse's 11 x 11 grid."""
        return VPT_ACTIONS

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.config.rules())

    @property
    def fps(self) -> float:
        """The game's clock."""
        return TICKS_A_SECOND

    def index(self) -> Sequence[Recording]:
        """The segments, in the order of the index files, or sorted by path; one that lacks a file is among them, and fails when read.

        Raises ``UserError`` where there is none, naming the path.
        """
        return _recordings(self._listing[0])

    def left_out(self) -> Counter[str]:
        """Entries of the index files that are no segments, by reason."""
        return self._listing[1]

    @cached_property
    def _listing(self) -> tuple[dict[str, tuple[str, ...]], Counter[str]]:
        paths = (self.config.path,) if isinstance(self.config.path, str) else self.config.path
        if not paths:
            raise UserError("path: an empty list; wanted the index files of VPT recordings, or a folder that holds them")
        found: dict[str, tuple[str, ...]] = {}
        dropped: Counter[str] = Counter()
        for path in paths:
            entries, reasons = _indexed(path, self.config.base) if path.lower().endswith(INDEX) else (_paired(path), Counter())
            dropped += reasons + Counter({"listed twice": len(found.keys() & entries.keys())})
            found = found | {place: files for place, files in entries.items() if place not in found}
        return found, dropped

    def made_from(self, recording: Recording) -> str:
        """Nothing else."""
        return ""

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """What a segment holds, its pictures as large as recorded or in ``layout``. Raises ``BadRecordingError``."""
        video, text = (self._inside(path) for path in _both(recording))
        with opened(text, MOST_TEXT) as file:
            lines = file.read().split(b"\n")
        version = (VERSION.search(video) or ("", self.config.recorder or ""))[1]
        try:
            segment = read_segment(lines, name=text, version=version, degrees_per_unit=self.config.degrees_per_unit)
        except UserError as error:
            raise BadRecordingError(str(error)) from error
        file = opened(video)
        if not scheme(video):
            file.close()  # it is opened again by whoever reads the pictures; a copy from elsewhere lasts until then
        copy = None if file.closed else file
        size = video_info(video, file=copy).frames
        info = {"segment": recording.name, "recorder": version}
        lost = Counter[str]()
        events = read_events(lines, self.config.rules(), lost)
        takes, dropped = cut_takes(segment, events, self.config.cuts(), frames=size, info=info)
        shown = frames(video, count=min(size, len(segment.keys)), file=copy)
        changed = mended(segment, self.config.cuts(), frames=size)
        if self.config.cursor:
            changed["frames with the mouse's cursor drawn in"] = int(segment.gui[:size].sum())
        if not version and segment.gui[:size].any():
            changed[NO_VERSION] = 1
        return Reading(takes, _pictures(shown, segment, layout, cursor=self.config.cursor), dropped + lost, +changed, copy)

    def _inside(self, path: str) -> str:
        """``path``, which does not lead out of the folder that lists it. Raises ``BadRecordingError``."""
        folders = (self.config.path,) if isinstance(self.config.path, str) else self.config.path
        for folder in folders:
            if not scheme(folder) and not folder.lower().endswith(INDEX) and Path(path).is_relative_to(folder):
                inside(Path(folder), Path(path).relative_to(folder).as_posix())
        return path


def _pictures(shown: Iterable[VideoFrame], segment: SegmentActions, layout: PictureLayout | None, *, cursor: bool) -> Iterator[Picture]:
    """The pictures, with the cursor where a GUI is open."""
    full, make = picture_maker(None), picture_maker(layout)
    for number, frame in enumerate(shown):
        yield make(draw_cursor(full(frame), segment.cursor[number]) if cursor and segment.gui[number] else frame)


def _both(recording: Recording) -> tuple[str, str]:
    by_suffix = {suffix: path for path in recording.files for suffix in SUFFIXES if path.lower().endswith(suffix)}
    for suffix in SUFFIXES:
        if suffix not in by_suffix:
            raise BadRecordingError(f"{recording.files[0]}: there is no {suffix} file of the same name beside it")
    return by_suffix[".mp4"], by_suffix[".jsonl"]


def opened(path: str, most: int | None = None) -> IO[bytes]:
    """The file at ``path``; see ``fetch``. Raises ``BadRecordingError``, also where it is empty or a page of a server."""
    try:
        file = fetch(path, most)
        start = file.read(64)
        file.seek(0)
    except OSError as error:
        raise BadRecordingError(f"{path}: cannot be read ({error})") from error
    if start.strip() and not start.lstrip().startswith(PAGE):
        return file
    file.close()
    raise BadRecordingError(f"{path}: is " + (f"a page, not a recording; it begins with {start[:40]!r}" if start.strip() else "empty"))


def _indexed(path: str, base: str | None) -> tuple[dict[str, tuple[str, ...]], Counter[str]]:
    """Files by path below the base folder."""
    index = read_index(path)
    folder = base or index.base
    files = {segment.path: tuple(join(folder, segment.path + suffix) for suffix in SUFFIXES) for segment in index.segments}
    return files, Counter(index.dropped)


def _paired(folder: str) -> dict[str, tuple[str, ...]]:
    """Files by path below ``folder``."""
    try:
        paths = list_files(folder, SUFFIXES)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error}); wanted an index file ({', '.join(INDEX)}) or a folder of mp4 and jsonl pairs"
        ) from error
    files: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        files[path.rpartition(".")[0]].append(join(folder, path))
    if not files:
        raise UserError(f"{folder}: holds no mp4 or jsonl file; is it the folder of VPT recordings?")
    return {stem: tuple(found) for stem, found in files.items()}


def _recordings(files: Mapping[str, tuple[str, ...]]) -> tuple[Recording, ...]:
    """Named after the last part of their path, with a fingerprint of the whole where that is shared."""
    names = {path: re.sub(r"[^A-Za-z0-9._-]", "_", path.rpartition("/")[2]).lstrip(".") or "_" for path in files}
    shared = Counter(name.lower() for name in names.values())
    for path, name in names.items():
        if shared[name.lower()] > 1:
            names[path] = f"{name}-{blake2b(path.encode(), digest_size=6).hexdigest()}"
    return tuple(Recording(names[path], _group(path, names[path]), found) for path, found in files.items())


def _group(path: str, name: str) -> str:
    """All that one session played on one day, whatever the alias."""
    played = PLAYED.fullmatch(path.rpartition("/")[2])
    return f"{played['session']}-{played['day']}" if played else name
