"""How often a stage may lose the processes that train it: as often as may be while it gets on, since a long run on machines that are taken
away loses them often; but only so many times in a row without a new checkpoint in between.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamer_ray.training.checkpoint import latest_checkpoint

MOST_IN_VAIN = 10
"""Restarts without a new checkpoint between them that a stage stands."""


@dataclass
class Restarts:
    """Counts how often a stage, whose newest checkpoint is of ``step``, had to start its processes again."""

    step: int
    all: int = 0
    in_vain: int = 0
    """Since the last new checkpoint."""

    def count(self, step: int) -> None:
        """One more, at which the newest checkpoint is of ``step``."""
        self.all += 1
        self.in_vain = 1 if step > self.step else self.in_vain + 1
        self.step = step

    @property
    def too_many(self) -> bool:
        """Whether to give up."""
        return self.in_vain > MOST_IN_VAIN


def newest_step(checkpoints: Path) -> int:
    """The step of the last checkpoint in a folder; 0 where there is none."""
    checkpoint = latest_checkpoint(checkpoints)
    return 0 if checkpoint is None else checkpoint.step
