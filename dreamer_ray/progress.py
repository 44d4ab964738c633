"""Progress lines: how far a stage is, how fast it goes, when it ends and its newest figures, at most one line every few seconds."""

import logging
import time
from collections.abc import Callable, Mapping

log = logging.getLogger("dreamer_ray")

SECONDS_BETWEEN_LINES = 5.0
FIGURES_SHOWN = 4


class Progress:
    """Shows a stage of ``total`` units such as "steps", as in ``tokenizer  340/1200 steps  14.2 steps/s  ETA 0:01:00  mse 0.0123``.

    Write-only: nothing reads it back. The rate is measured from the first unit that was seen to end, so that neither what a resumed
    stage found done nor the start of its workers counts; until a second one ends, from the first update. Of the figures the first
    ``shown`` stand in the line.
    """

    def __init__(
        self, stage: str, total: int, unit: str, *, shown: int = FIGURES_SHOWN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.shown = shown
        self.stage, self.total, self.unit, self._clock = stage, total, unit, clock
        self._begun: tuple[int, float] | None = None
        self._first: tuple[int, float] | None = None
        self._shown: tuple[int, float] | None = None

    def update(self, done: int, figures: Mapping[str, float]) -> None:
        """``done`` units of the total are finished; logs a line unless one was logged just now (the end is always shown, once)."""
        now = self._clock()
        self._begun = self._begun or (done, now)
        if self._first is None and done > self._begun[0]:
            self._first = (done, now)
        if self._shown is not None:
            before, moment = self._shown
            if done == before or (done < self.total and now - moment < SECONDS_BETWEEN_LINES):
                return
        self._shown = (done, now)
        log.info("%s", progress_line(self, done, units_per_second=self._rate(done, now), figures=figures))

    def _rate(self, done: int, now: float) -> float | None:
        start, begun = self._first if self._first and done > self._first[0] else self._begun or (done, now)
        return (done - start) / (now - begun) if done > start and now > begun else None


def progress_line(progress: Progress, done: int, *, units_per_second: float | None, figures: Mapping[str, float]) -> str:
    """The text of one line; without a rate there is no ETA."""
    parts = [f"{progress.stage:<13} {done}/{progress.total} {progress.unit}"]
    if units_per_second:
        parts.append(f"{units_per_second:.3g} {progress.unit}/s")
        if done < progress.total:
            parts.append(f"ETA {duration((progress.total - done) / units_per_second)}")
    parts += [f"{name} {value:.4g}" for name, value in list(figures.items())[: progress.shown]]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``0:01:07``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
