"""Videos at another number of frames a second: how evenly their frames come, and which of them is seen at each moment."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int

from dreamer_ray.data.layout import Picture
from dreamer_ray.data.sources import BadRecordingError

MAX_PAUSE = 60.0
"""Seconds between two frames; more is a damaged clock, which would otherwise ask for any number of copies."""
ROUNDING = 1e-3
"""Seconds by which containers round the time of a frame."""
JUMP = 1.75
"""Frames further apart than this many usual ones are not consecutive."""
SAME_RATE = 0.01
"""Rates that differ by less than this share are taken for equal."""


def usual_rate(times: Float[np.ndarray, "n"], *, name: str) -> float:
    """Frames a second by the usual distance of those shown at ``times``. Raises ``BadRecordingError`` naming ``name``."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if usual <= 0:
        raise BadRecordingError(f"{name}: its {len(times)} pictures have no rate")
    near = steps[(steps > usual / JUMP) & (steps < usual * JUMP)]
    return 1 / float(near.mean())


def is_even(times: Float[np.ndarray, "n"], fps: float) -> bool:
    """Whether those shown at ``times`` are the frames of a video of ``fps``, none left out and none too many."""
    steps = np.diff(times) * fps
    return not len(steps) or bool(abs(steps.mean() - 1) < SAME_RATE and ((steps > 1 / JUMP) & (steps < JUMP)).all())


def seen_frames(times: Float[np.ndarray, "n"], fps: float, *, name: str, late: float = ROUNDING) -> Int[np.ndarray, "m"]:
    """Number of the frame on show at each moment ``k / fps`` from the first frame to the last: the last one begun by then.

    A frame that is at most ``late`` seconds behind its moment is in time.
    ``times`` are those of ``VideoInfo``. A frame is repeated where the video is slower than ``fps`` and left out where it is faster.
    Raises ``BadRecordingError`` naming ``name`` and the frame where the clock is damaged, ``ValueError`` where ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps {fps}: wanted a number above 0")
    steps = np.diff(times)
    if len(bad := np.flatnonzero(~((steps >= 0) & (steps <= MAX_PAUSE)))):
        number = int(bad[0]) + 1
        raise BadRecordingError(
            f"{name}: frame {number} comes {steps[number - 1]:g} s after the one before; at most {MAX_PAUSE:g} s are read"
        )
    if not len(times):
        return np.zeros(0, np.int64)
    moments = np.arange(int((times[-1] - times[0] + late) * fps) + 1) / fps
    return np.searchsorted(times - times[0], moments + late, side="right") - 1


def pick(pictures: Iterable[Picture], numbers: Iterable[int], *, name: str) -> Iterator[Picture]:
    """The pictures of these never falling ``numbers``, with one of them in memory at a time.

    Raises ``BadRecordingError`` naming ``name`` and the number where they end before.
    """
    coming, number, picture = iter(pictures), -1, None
    for wanted in numbers:
        while number < wanted:
            picture = next(coming, None)
            number += 1
            if picture is None:
                raise BadRecordingError(f"{name}: ends before frame {number}; frame {wanted} was expected")
        assert picture is not None, "numbers start at 0"
        yield picture
