"""Continuous actions brought to about -1 .. 1, with what is needed to undo it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Scaling:
    """``scaled = (value - center) / half_range``, entry by entry."""

    center: tuple[float, ...]
    half_range: tuple[float, ...]

    @classmethod
    def between(cls, low: Sequence[float], high: Sequence[float]) -> Self:
        """Maps ``low`` to -1 and ``high`` to 1; an entry whose bounds are equal or not finite is kept, or only shifted to 0."""
        lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            center, half = lower / 2 + upper / 2, upper / 2 - lower / 2
        bounded = np.isfinite(center) & np.isfinite(half)
        return cls(tuple(np.where(bounded, center, 0.0).tolist()), tuple(np.where(bounded & (half > 0), half, 1.0).tolist()))

    def scaled(self, values: Float[np.ndarray, "*s n"]) -> Float[np.ndarray, "*s n"]:
        """``values`` of the data set, in about -1 .. 1."""
        return ((np.asarray(values, np.float64) - self.center) / self.half_range).astype(np.float32)

    def unscaled(self, values: Float[np.ndarray, "*s n"]) -> Float[np.ndarray, "*s n"]:
        """The inverse of ``scaled``: what the robot is sent."""
        return (np.asarray(values, np.float64) * self.half_range + self.center).astype(np.float32)

    @property
    def bounds(self) -> Float[np.ndarray, "2 n"]:
        """What becomes -1, and what becomes 1."""
        return np.asarray(self.center) + np.array([[-1.0], [1.0]]) * self.half_range

    def note(self) -> str:
        """As text for a take's ``info``."""
        return json.dumps({"center": self.center, "half_range": self.half_range})

    @classmethod
    def of_note(cls, note: str) -> Self:
        """The inverse of ``note``."""
        values = json.loads(note)
        return cls(tuple(values["center"]), tuple(values["half_range"]))
