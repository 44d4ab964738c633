"""Files that show what is in a data set: a contact sheet, and a clip with the actions drawn on it."""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from dreamer_ray.data.action_names import action_names
from dreamer_ray.data.drawing import Moment, Panel, contact_sheet
from dreamer_ray.data.inspection import Bad, recordings_of, spread
from dreamer_ray.data.layout import Picture
from dreamer_ray.data.recognition import Found
from dreamer_ray.data.sources import BadRecordingError, Reading, Recording, Take
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.progress import Progress

ROWS, COLUMNS = 6, 4
EVENT_SECONDS = 1.0
"""How long an event is shown."""
FASTEST = 240


@dataclass(frozen=True)
class Sheet:
    """What a contact sheet shows."""

    pictures: int
    recordings: int
    bad: tuple[Bad, ...]


def write_sheet(found: Found, path: Path) -> Sheet:
    """A PNG of pictures at even distances out of up to 6 recordings at even distances. Raises ``UserError`` where there is none."""
    chosen = spread(recordings_of(found), ROWS)
    each = COLUMNS if len(chosen) >= ROWS else -(-ROWS * COLUMNS // len(chosen))
    cells: list[tuple[Picture, str]] = []
    bad: list[Bad] = []
    progress = Progress("sheet", len(chosen), "recordings")
    for number, recording in enumerate(chosen, start=1):
        try:
            cells += [(picture, f"{recording.name} #{frame}") for frame, picture in _spread_pictures(found.source.read(recording), each)]
        except BadRecordingError as error:
            bad.append(Bad(recording.name, str(error)))
        progress.update(number, {"bad": len(bad)})
    if not cells:
        reason = bad[0].reason if bad else f"{found.kind} hold none" + " (name the folder of the shards)" * (found.kind == "latents")
        raise UserError(f"{found.path}: no picture for a sheet: {reason}")
    with _whole_file(path) as partial:
        contact_sheet(cells, COLUMNS).save(partial, "png")
    return Sheet(len(cells), len(chosen) - len(bad), tuple(bad))


def _spread_pictures(reading: Reading, count: int) -> Iterator[tuple[int, Picture]]:
    """Up to ``count`` pictures that belong to a take, from the middle of parts of equal length, with their numbers."""
    frames = np.concatenate([take.first + np.arange(len(take.labelled)) for take in reading.takes] or [np.zeros(0, np.int64)])
    wanted = {int(frames[(2 * i + 1) * len(frames) // (2 * count)]) for i in range(count)} if len(frames) else set()
    for number, picture in enumerate(islice(reading.pictures, max(wanted, default=-1) + 1)):
        if number in wanted:
            yield number, picture


def write_clip(found: Found, path: Path, *, recording: str | None, start: int, frames: int) -> tuple[str, int]:
    """An MP4 of up to ``frames`` pictures from picture ``start`` on, with what is known of each; the recording's name and their number.

    Raises ``UserError`` where there is no such recording or picture, or it is bad.
    """
    chosen = _named(recordings_of(found), recording, found.path)
    source = found.source
    try:
        reading = source.read(chosen)
        pictures = islice(reading.pictures, start, start + frames)
        panel, moments = Panel(source.action_space, action_names(source)), _Moments(reading.takes, source.tasks, source.fps, chosen.name)
        drawn = (panel.draw(picture, moments.at(number)) for number, picture in enumerate(pictures, start=start))
        first = next(drawn, None)
        if first is None:
            last = max((take.first + len(take.labelled) for take in reading.takes), default=0) - 1
            why = f"the last one of which something is known is {last}" if found.kind != "latents" else "latents are no pictures"
            raise UserError(f"recording {chosen.name}: has no picture {start}; {why}")
        with _whole_file(path) as partial:
            return chosen.name, _write_video(partial, first, drawn, source.fps, Progress("clip", frames, "frames"))
    except BadRecordingError as error:
        raise UserError(f"recording {chosen.name} is bad, choose another with --recording NAME: {error}") from error


def _named(index: Sequence[Recording], name: str | None, path: str) -> Recording:
    if name is None:
        return index[0]
    names = [recording.name for recording in index]
    if name not in names:
        near = difflib.get_close_matches(name, names[:10_000], 3, 0.3) or names[:3]
        raise UserError(f"--recording {name}: is not in {path}; there is {', '.join(near)}{' ..' * (len(names) > len(near))}")
    return index[names.index(name)]


@dataclass(frozen=True)
class _Moments:
    """What takes say of a picture by its number."""

    takes: Sequence[Take]
    tasks: Sequence[str]
    fps: float
    name: str

    def at(self, number: int) -> Moment:
        take = next((take for take in self.takes if take.first <= number < take.first + len(take.labelled)), None)
        title = f"{self.name} #{number}"
        if take is None:
            return Moment(f"{title}, left out", None)
        row = number - take.first
        known = {name: np.asarray(values[row]) for name, values in take.actions.items()} if take.labelled[row] else None
        recent = take.events[max(0, row - int(EVENT_SECONDS * min(self.fps, 1e4))) : row + 1].sum(axis=0, dtype=np.int64)
        counts = zip(self.tasks, recent.tolist(), strict=True)
        events = [f"{task} x{count}" if count > 1 else task for task, count in counts if count]
        return Moment(title + ", terminal" * bool(take.continues[row] == 0), known, events)


def _write_video(path: Path, first: Picture, others: Iterator[Picture], fps: float, progress: Progress) -> int:
    count = 0
    with av.open(str(path), "w", format="mp4") as container:
        rate = Fraction(min(max(fps, 1 / 1000), FASTEST)).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        for picture in _and(first, others):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            count += 1
            progress.update(count, {})
        container.mux(stream.encode(None))
    return count


def _and(first: Picture, others: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from others


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``path`` when all is written; nothing is left of one that is stopped."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: not written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)
