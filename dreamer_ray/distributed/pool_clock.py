"""What the learner and the replicas of a pool did with their time. Pure: no Ray in here."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

SHORT_CALL, LONG_CALL = 0.2, 20.0
"""Seconds of a call, outside which the user is told."""


@dataclass
class Shift:
    """How much of the time between two looks a replica had something to do.

    Its calls may have ended long before the look at which that is seen; so it is told by what they say that they took.
    """

    calls: int | None = None
    """That it had after the last look; None where it was not ready then."""
    done: float = 0.0
    counted: float = 0.0
    """Of what the running calls take, that earlier looks have counted."""

    def ended(self, seconds: float | None) -> None:
        """A call ended, after so long; None where nobody knows."""
        self.done += math.inf if seconds is None else seconds

    def busy(self, elapsed: float, left: int) -> float:
        """Seconds with something to do of those ``elapsed`` since the last look, where ``left`` calls have not ended yet."""
        if not self.calls:
            found = 0.0
        else:
            found = elapsed if left else min(elapsed, max(0.0, self.done - self.counted))
        self.counted += found
        if self.done or not left:
            self.done = self.counted = 0.0
        return found


class PoolClock:
    """Shares of the time in which the learner and the replicas had nothing to do, and the age of what the learner used."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._reset()

    def waited(self, seconds: float, *, lag: int) -> None:
        """The learner waited for a batch of this age."""
        self._waited += seconds
        self._lags.append(lag)

    def look(self, shifts: Iterable[tuple[Shift, int]]) -> None:
        """What has ended is known now; of each replica the calls that have not."""
        now = time.monotonic()
        elapsed, self._looked = now - self._looked, now
        for shift, left in shifts:
            busy = shift.busy(elapsed, left)
            if shift.calls is not None:
                self._ready += elapsed
                self._idle += elapsed - busy

    def figures(self) -> dict[str, float]:
        """Since the last call of this."""
        elapsed = max(time.monotonic() - self._begun, 1e-9)
        found = {
            "learner_idle": self._waited / elapsed,
            "replica_idle": self._idle / self._ready if self._ready else 0.0,
            "lag": sum(self._lags) / len(self._lags) if self._lags else 0.0,
        }
        self._reset()
        return found

    def _reset(self) -> None:
        self._begun = time.monotonic()
        self._waited = self._idle = self._ready = 0.0
        self._lags: list[int] = []


def pace_advice(seconds: float, rows: int, *, shorter: bool, longer: bool) -> str | None:
    """What to say of calls that take so long for so many dreams; None where that is well, or cannot be made ``shorter``, ``longer``."""
    if seconds < SHORT_CALL and longer:
        change = f"raise imagination.dreams_per_call ({rows} now): what every call costs besides its dreams is much of so short a time"
    elif seconds > LONG_CALL and shorter:
        change = (
            f"lower imagination.dreams_per_call ({rows} now): so much work is lost with a replica, and waited for at the end of an update"
        )
    else:
        return None
    return f"imagination: a call of a replica takes {seconds:.2g} s; {change}"
