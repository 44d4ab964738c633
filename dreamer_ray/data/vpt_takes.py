"""A VPT segment as takes: cut where its clock jumps, and without spans in which the server lagged or nobody played."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from dreamer_ray.data.sources import Take
from dreamer_ray.data.vpt_actions import MAX_DEGREES, MOUSE_MOTION, SegmentActions, encode_mouse

TICKS_A_SECOND = 20.0


@dataclass(frozen=True)
class CutRules:
    """Where play is not what the game usually does."""

    server_ms: float
    """A tick of the server that takes longer is lag."""
    idle_seconds: float
    """Nobody plays where there is no input for so long."""
    step_ms: float
    """The longest time from a frame to the next."""


def cut_takes(
    segment: SegmentActions, events: np.ndarray, rules: CutRules, *, frames: int, info: Mapping[str, str]
) -> tuple[tuple[Take, ...], Counter[str]]:
    """The takes of a segment whose video has ``frames``, and what was left out, in frames or lines by reason; ``info`` goes into each."""
    lines = len(segment.keys)
    size = min(lines, frames)
    lag, absent = _without_play(segment, rules, size)
    dropped = Counter(
        {
            "lines that cannot be read, frames kept without action": int((~segment.labelled[:size]).sum()),
            "lines without a frame": lines - size,
            "frames without a line": frames - size,
            f"frames of server lag above {rules.server_ms:g} ms": int(lag.sum()),
            f"frames without any input for {rules.idle_seconds:g} s": int(absent.sum()),
            "lines with an attack held from before the segment, attack left out": min(segment.stuck, size),
        }
    )
    actions = segment.actions()
    takes = []
    for first, stop in runs(~(lag | absent), jumps(segment, rules.step_ms)[:size]):
        part = slice(first, stop)
        arriving = events[part].copy()
        arriving[0] = 0  # what led to the first frame was not seen
        takes.append(
            Take(
                first=first,
                actions={name: values[part] for name, values in actions.items()},
                labelled=segment.labelled[part],
                events=arriving,
                continues=np.ones(stop - first, np.float32),
                info={**info, "tick": int(segment.tick[first])},
                motions={"mouse": MOUSE_MOTION},
            )
        )
    return tuple(takes), +dropped


def mended(segment: SegmentActions, rules: CutRules, *, frames: int) -> Counter[str]:
    """What of a segment whose video has ``frames`` was kept and changed, or kept though others leave it out, in frames by what was done."""
    size = min(len(segment.keys), frames)
    actions, far = segment.actions(), np.abs(segment.camera).max(axis=1) > MAX_DEGREES
    null = segment.labelled & (actions["keys"].max(axis=1) == 0) & (actions["mouse"] == encode_mouse(np.zeros(2)))
    lag, absent = _without_play(segment, rules, size)
    counts = {what: lines[:size].sum() for what, lines in segment.mended.items()} | {
        "frames whose action does nothing, kept": (null[:size] & ~lag & ~absent).sum(),
        f"frames with a turn beyond {MAX_DEGREES:g} degrees, cut to that": far[:size].sum(),
        "frames before which a clock jumps, where a new take begins": jumps(segment, rules.step_ms)[1:size].sum(),
    }
    return +Counter({what: int(count) for what, count in counts.items()})


def _without_play(segment: SegmentActions, rules: CutRules, size: int) -> tuple[Bool[np.ndarray, "t"], Bool[np.ndarray, "t"]]:
    """Which of the first ``size`` frames are left out, since the server lagged or nobody was there."""
    lag = segment.server_ms[:size] > rules.server_ms
    return lag, long_runs(segment.idle[:size], int(rules.idle_seconds * TICKS_A_SECOND)) & ~lag


def jumps(segment: SegmentActions, step_ms: float) -> Bool[np.ndarray, "t"]:
    """Whether time is missing between a frame and the one before: a clock goes back, or on by more than the frames between allow."""
    return _jumps(segment.tick, 1) | _jumps(segment.milli, step_ms)


def _jumps(clock: Int[np.ndarray, "t"], step: float) -> np.ndarray:
    known = np.flatnonzero(clock >= 0)
    passed = np.diff(clock[known])
    found = np.zeros(len(clock), bool)
    found[known[1:]] = (passed < 0) | (passed > step * np.diff(known))
    return found


def long_runs(mask: Bool[np.ndarray, "t"], least: int) -> Bool[np.ndarray, "t"]:
    """``mask`` where it is true ``least`` times or more in a row."""
    found = np.zeros(len(mask), bool)
    for first, stop in runs(mask, np.zeros(len(mask), bool)):
        found[first:stop] = stop - first >= least
    return found


def runs(mask: Bool[np.ndarray, "t"], breaks: Bool[np.ndarray, "t"]) -> Iterator[tuple[int, int]]:
    """First and one past the last entry of each run of true in ``mask``; a run is broken before each entry of ``breaks``."""
    begins = np.flatnonzero(mask & (breaks | ~np.concatenate([[False], mask[:-1]])))
    ends = np.flatnonzero(mask & np.concatenate([breaks[1:] | ~mask[1:], [True]])) + 1
    yield from zip(begins.tolist(), ends.tolist(), strict=True)
