"""Statistics of the features of a LeRobot data set, by episode and joined over episodes, as lerobot keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stats:
    """Of one feature, entry by entry."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    count: int

    def listed(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name).tolist() for name in ("min", "max", "mean", "std")} | {"count": [self.count]}


def stats_of(values: np.ndarray) -> Stats:
    """Over the rows of ``values``, ``[T]`` or ``[T, n]``."""
    rows = values.reshape(len(values), -1)
    numbers = rows.astype(np.float64)
    return Stats(rows.min(0), rows.max(0), numbers.mean(0), numbers.std(0), len(rows))


def pictures_stats(frames: np.ndarray) -> Stats:
    """By channel, in 0 .. 1, of shape ``[3, 1, 1]``, over uint8 ``[T, y, x, 3]``."""
    values = frames.astype(np.float64) / 255
    figures = [getattr(values, name)(axis=(0, 1, 2)).reshape(3, 1, 1) for name in ("min", "max", "mean", "std")]
    return Stats(*figures, count=len(frames))


def joined(parts: Sequence[Stats]) -> Stats:
    """Of all rows of ``parts`` together."""
    counts = np.array([part.count for part in parts], np.float64)
    shares = (counts / counts.sum()).reshape(-1, *[1] * parts[0].mean.ndim)
    means = np.stack([part.mean for part in parts])
    mean = (shares * means).sum(0)
    variance = (shares * (np.stack([part.std for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
    low, high = np.min([part.min for part in parts], axis=0), np.max([part.max for part in parts], axis=0)
    return Stats(low, high, mean, np.sqrt(variance), int(counts.sum()))
