"""When work that is done in pieces is to stop, and how it says so."""

import time
from collections.abc import Callable

from dreamer_ray.errors import DreamerError


class OutOfTimeError(DreamerError):
    """The time is over; all that was done up to now is kept, and the same command goes on. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


class Deadline:
    """When to stop: ``seconds`` from now, or never. One that goes to other machines needs a clock that they share (``time.time``)."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock, self.begun = seconds, clock, clock()

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return self.seconds is not None and self.clock() - self.begun >= self.seconds

    def check(self) -> None:
        """Raises ``OutOfTimeError`` where it is time to stop."""
        if self.over:
            raise OutOfTimeError(f"stopped after {self.seconds:.0f} s, as was asked; all that is done is kept")
