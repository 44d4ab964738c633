"""Takes at the rate of the shards, cut into episodes: which picture each frame shows, and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from dreamer_ray.data.frame_rate import JUMP, ROUNDING, is_even, seen_frames, usual_rate
from dreamer_ray.data.rows import ShardSchema
from dreamer_ray.data.sources import BadRecordingError, Motion, Take
from dreamer_ray.types import ActionSpace, Binary

RATE_TOLERANCE = 0.02
"""Share by which the rate of a video whose packets are kept may differ from that of the shards."""
UNSTEADY = 0.25
"""Share of a frame by which the clock of a phone or of a screen recorder may be behind."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of a recording at the rate of the shards, all arrays of ``T`` rows; see ``Take``."""

    numbers: Int[np.ndarray, "t"]
    """Of the recording's picture that each frame shows, never falling."""
    actions: dict[str, np.ndarray]
    labelled: np.ndarray
    events: np.ndarray
    continues: np.ndarray
    info: dict[str, float | int | str]

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, which: slice) -> "Stretch":
        """Those of its frames."""
        actions = {name: values[which] for name, values in self.actions.items()}
        return Stretch(self.numbers[which], actions, self.labelled[which], self.events[which], self.continues[which], self.info)


def as_recorded(takes: Sequence[Take], *, fps: float, name: str) -> list[Stretch]:
    """The ``takes`` of a recording with each frame as it is, cut where frames are missing, as the time between them says.

    Raises ``BadRecordingError`` where they are not of ``fps``.
    """
    steps = np.concatenate([np.zeros(1), *(np.diff(take.times) for take in takes if take.times is not None)])
    if len(steps) > 1 and abs((own := usual_rate(np.cumsum(steps), name=name)) / fps - 1) > RATE_TOLERANCE:
        remedy = "choose codec.kind = h264, which brings all to one rate, or put videos of another rate into a folder of their own"
        raise BadRecordingError(f"{name}: {own:.4g} frames a second, the others have {fps:.4g}; {remedy}")
    found = []
    for take in takes:
        gaps = [] if take.times is None else (np.flatnonzero(np.diff(take.times) > JUMP / fps) + 1).tolist()
        found += [_same(take).part(slice(first, stop)) for first, stop in pairwise([0, *gaps, len(take.labelled)])]
    return found


def at_rate(take: Take, space: ActionSpace, *, source_fps: float, fps: float, name: str) -> Stretch:
    """``take``, whose frames came when it says, or at ``source_fps`` where it does not, at ``fps``.

    Where frames are left out their events count for the next frame that is kept, an end for it too, and keys held in between for the one
    before; motions of all of them add up there, and are divided where a frame is shown several times; of other actions their last or mean
    counts, as ``Take.several`` says, or the kept frame's, and it is labelled where all of them are. Raises ``BadRecordingError``.
    """
    size = len(take.labelled)
    times = np.arange(size) / source_fps if take.times is None else take.times
    if is_even(times, fps):
        return _same(take)
    late = ROUNDING if take.times is None else max(ROUNDING, UNSTEADY * min(1 / fps, float(np.median(np.diff(times)))))
    shown = seen_frames(times, fps, name=name, late=late)
    until = np.maximum(np.append(shown[1:], size), shown + 1)
    held = np.append(0, shown[1:])
    arrived = np.append(shown[:-1] + 1, size)
    since = np.concatenate([[0], arrived[:-1]])
    events = np.minimum(_sums(take.events, since, arrived), 255).astype(np.uint8)
    continues = (_sums(take.continues == 0, since, arrived) == 0).astype(np.float32)
    labelled = _sums(take.labelled, held, until) == until - held
    actions = {
        key: (_sums(values > 0, held, until) > 0).astype(values.dtype) if isinstance(space[key], Binary) else values[shown]
        for key, values in take.actions.items()
    }
    for key, motion in take.motions.items():
        actions[key] = _moved(motion, take.actions[key], take.labelled, held, until)
    for key in take.several.keys() - take.motions.keys():
        values = take.actions[key]
        mean = _sums(values, held, until) / (until - held)[:, None]
        actions[key] = values[until - 1] if take.several[key] == "last" else mean.astype(values.dtype)
    return Stretch(take.first + shown, actions, labelled, events, continues, take.info)


def _same(take: Take) -> Stretch:
    numbers = take.first + np.arange(len(take.labelled))
    return Stretch(numbers, take.actions, take.labelled, take.events, take.continues, take.info)


def _moved(motion: Motion, values: np.ndarray, labelled: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The ways of the rows ``first[i] .. stop[i] - 1`` together, for each i; a row that is in several of them gives each a part."""
    times = np.cumsum(np.bincount(first, minlength=len(values) + 1) - np.bincount(stop, minlength=len(values) + 1))[:-1]
    ways = np.where(labelled[:, None], motion.decode(values), 0) / times[:, None]
    return motion.encode(_sums(ways, first, stop))


def _sums(values: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Of the rows ``first[i] .. stop[i] - 1``, for each i."""
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    total = np.concatenate([np.zeros_like(values[:1], kind), np.cumsum(values, axis=0, dtype=kind)])
    return total[stop] - total[first]


def chosen(stretches: list[Stretch], which: slice) -> list[Stretch]:
    """Those frames of all stretches one after the other."""
    found, before = [], 0
    for stretch in stretches:
        part = slice(max(0, which.start - before), max(0, which.stop - before))
        found.append(stretch.part(part))
        before += len(stretch)
    return [stretch for stretch in found if len(stretch)]


def evenly(stretch: Stretch, most: int) -> list[Stretch]:
    """Cut into as few parts of at most ``most`` frames as there can be, whose lengths differ by one at most."""
    count = -(-len(stretch) // most)
    bounds = [i * len(stretch) // count for i in range(count + 1)]
    return [stretch.part(slice(first, stop)) for first, stop in pairwise(bounds)]


def filled(stretch: Stretch, space: ActionSpace, tasks: Sequence[str], schema: ShardSchema) -> Stretch:
    """``stretch``, of a source with ``space`` and ``tasks``, as ``schema`` has it: zeros, unlabelled, where its actions are others."""
    size, actions, known = len(stretch), {}, space == schema.action_space
    for key, component in schema.action_space.items():
        shape = (size,) if component.kind == "categorical" else (size, component.size)
        kind = np.float32 if component.kind == "continuous" else np.int64
        actions[key] = stretch.actions[key].astype(kind) if known else np.zeros(shape, kind)
    events = np.zeros((size, len(schema.tasks)), np.uint8)
    for column, task in enumerate(tasks):
        if task in schema.tasks:
            events[:, schema.tasks.index(task)] = stretch.events[:, column]
    return replace(stretch, actions=actions, events=events, labelled=stretch.labelled & known)
