"""Which replica dreams which call, and when: the rules of the actor-learner loop, apart from whatever carries the calls.

Update u needs its own calls, dreamed by heads of version u - max_lag or newer. So a call may be sent as soon as its update is at most
max_lag ahead of the newest version, and what comes back too late is dreamed again.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar, runtime_checkable

IN_FLIGHT = 2
"""Calls of one replica at once: the next one is there when the first ends."""


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
    """In order: what is to be sent again, then the next new call."""
    finished: dict[int, D] = field(default_factory=dict)

    def open(self, start: int, steps: int) -> None:
        """The calls of updates ``start .. steps-1`` are to be dreamed."""
        self._new = (call for update in range(start, steps) for call in self._calls(update))
        self.waiting = list(islice(self._new, 1))

    def take(self, version: int, seats: Sequence[S]) -> tuple[S, int] | None:
        """The next call that may be sent while ``version`` is the newest, and the ready seat with the fewest calls, which has it now."""
        if not self.waiting or self.waiting[0] >= (version + self.max_lag + 1) * self.calls_per_update:
            return None
        seat = min((seat for seat in seats if seat.ready), key=lambda seat: seat.calls, default=None)
        if seat is None or seat.calls >= IN_FLIGHT:
            return None
        seat.calls += 1
        call = self.waiting.pop(0)
        self.waiting = self.waiting or list(islice(self._new, 1))
        return seat, call

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
