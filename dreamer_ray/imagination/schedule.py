"""Which replica dreams which call, and when: the rules of the actor-learner loop, apart from whatever carries the calls.

Update u needs its own calls, dreamed by heads of version u - max_lag or newer. So a call may be sent as soon as its update is at most
max_lag ahead of the newest version, and what comes back too late is dreamed again.

A call goes to the replica that will have done it first; none goes to one that would still be at it when the others had done all that
may be sent, so that a slow replica helps where there is much to do and nobody waits for it.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, Protocol, TypeVar, runtime_checkable

IN_FLIGHT = 2
"""Calls of one replica at once: the next one is there when the first ends."""
REMEMBERED = 5
"""Calls of a replica by which it is judged, by the fastest of them: a hiccup does not count."""
SHORTEST = 1e-6
"""Seconds of a call, at least."""
PATIENCE = 50
"""Times its own time after which a replica that was passed over is tried again: it may have been slow for a while only."""


@runtime_checkable
class Dreamed(Protocol):
    """What a call brings back."""

    @property
    def version(self) -> int:
        """Of the heads that dreamed it."""
        ...


@dataclass(eq=False)
class Seat:
    """A replica, as the schedule sees it."""

    calls: int = 0
    """That it has now."""
    ready: bool = False
    times: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Seconds that its last calls took, where they were measured."""
    pace: float = 0.0
    """The shortest of them, 0 while unknown."""
    given: float = 0.0
    """When it was last given a call, by the schedule's clock."""

    def took(self, seconds: float | None) -> None:
        """A call of it was done."""
        if seconds is not None:
            self.times.append(max(seconds, SHORTEST))
            self.pace = min(self.times)

    def lose(self) -> None:
        """It is gone; what comes in its place may be faster or slower."""
        self.ready, self.pace = False, 0.0
        self.times.clear()


D = TypeVar("D", bound=Dreamed)
S = TypeVar("S", bound=Seat)


@dataclass
class Schedule(Generic[D]):
    """The calls of all updates; of several learners each has a schedule of its ``share`` (rank, ranks) of the calls of every update."""

    calls_per_update: int
    max_lag: int
    share: tuple[int, int] = (0, 1)
    lost: int = 0
    """Calls that were sent again because what carried them was lost."""
    dropped: int = 0
    """Results that were too old when their update came; their calls were sent again."""
    waiting: list[int] = field(default_factory=list)
    """In order: what is to be sent again, then new calls that may be sent."""
    finished: dict[int, D] = field(default_factory=dict)
    clock: float = 0.0
    """Seconds that the calls which were given take all replicas together, roughly."""

    def open(self, start: int, steps: int) -> None:
        """The calls of updates ``start .. steps-1`` are to be dreamed."""
        self._new = (call for update in range(start, steps) for call in self._calls(update))
        self._next, self.waiting = next(self._new, None), []

    def take(self, version: int, seats: Sequence[S]) -> tuple[S, int] | None:
        """The next call that may be sent while ``version`` is the newest, and the ready seat that will do it first, which has it now."""
        limit = (version + self.max_lag + 1) * self.calls_per_update
        while self._next is not None and self._next < limit:
            self.waiting.append(self._next)
            self._next = next(self._new, None)
        left, ready = bisect_left(self.waiting, limit), [seat for seat in seats if seat.ready]
        if not left or (seat := self._first_to_finish(ready, left)) is None:
            return None
        seat.calls += 1
        seat.given = self.clock
        self.clock += seat.pace / len(ready)
        return seat, self.waiting.pop(0)

    def again(self, call: int, *, lost: bool) -> None:
        """``call`` did not come back, or not with a result."""
        self.lost += lost
        insort(self.waiting, call)

    def complete(self, update: int) -> bool:
        """Whether all that ``update`` needs is there and young enough; what is too old is to be dreamed again."""
        calls = self._calls(update)
        for call in calls:
            if call in self.finished and update - self.finished[call].version > self.max_lag:
                del self.finished[call]
                self.dropped += 1
                self.again(call, lost=False)
        return all(call in self.finished for call in calls)

    def use(self, update: int) -> list[D]:
        """What a complete ``update`` needs, in the order of the calls."""
        return [self.finished.pop(call) for call in self._calls(update)]

    def _calls(self, update: int) -> range:
        (rank, ranks), first = self.share, update * self.calls_per_update
        return range(first + rank * self.calls_per_update // ranks, first + (rank + 1) * self.calls_per_update // ranks)

    def _first_to_finish(self, seats: Sequence[S], left: int) -> S | None:
        """The seat with room that would end one of ``left`` calls first; None where the others would have ended all before it."""
        if not (free := [seat for seat in seats if seat.calls < IN_FLIGHT]):
            return None
        fastest = min((seat.pace for seat in seats if seat.pace), default=1.0)

        def pace(seat: S) -> float:
            """That of the fastest where it is unknown, or was measured too long ago."""
            return seat.pace if fastest < seat.pace and self.clock - seat.given < PATIENCE * seat.pace else fastest

        first = min(free, key=lambda seat: ((seat.calls + 1) * pace(seat), seat.given))
        if (its := pace(first)) == fastest:  # no other can have done more than it has
            return first
        end, others = (first.calls + 1) * its, [seat for seat in seats if seat is not first]
        done_before = sum(ceil(end / pace(seat)) - 1 for seat in others)
        return first if done_before < left + sum(seat.calls for seat in others) else None
