"""Actions counted take by take, in memory that does not grow: keys held, choices made, ranges of axes, and how many do nothing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dreamer_ray.data.action_names import EntryNames
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Take
from dreamer_ray.types import ActionComponent, ActionSpace, Binary, Categorical

BINS = 16
ZERO = 1e-6
"""Of an axis' half range: what is nearer to 0 is 0."""


@dataclass(frozen=True)
class KeyFigures:
    """A component of keys."""

    held: dict[str, float]
    """Share of the labelled frames in which each key is held."""
    kind: Literal["binary"] = "binary"


@dataclass(frozen=True)
class ChoiceFigures:
    """A component of one choice."""

    chosen: dict[str, float]
    """Share of the labelled frames by choice, the usual ones first, without those never made."""
    size: int
    """How many can be made."""
    kind: Literal["categorical"] = "categorical"


@dataclass(frozen=True)
class AxisFigures:
    """One number of an action, in the units of the data set."""

    low: float
    mean: float
    high: float
    histogram: tuple[int, ...]
    """Labelled frames in equal parts of -1 .. 1 after scaling; what lies beyond counts in the first or last."""


@dataclass(frozen=True)
class AxesFigures:
    """A component of numbers."""

    axes: dict[str, AxisFigures]
    kind: Literal["continuous"] = "continuous"


ComponentFigures = KeyFigures | ChoiceFigures | AxesFigures


@dataclass
class ActionTally:
    """Counts of the labelled frames of takes."""

    space: ActionSpace
    names: Mapping[str, EntryNames]
    labelled: int = 0
    null: int = 0
    _held: dict[str, np.ndarray] = field(default_factory=dict)
    _chosen: dict[str, Counter[int]] = field(default_factory=dict)
    _axes: dict[str, "_Axes"] = field(default_factory=dict)

    def add(self, take: Take) -> None:
        """Counts ``take``. Raises ``BadRecordingError`` where an action is not one of the space; nothing of the take is counted then."""
        known = take.labelled.astype(bool)
        values = {name: _checked(name, component, take, known) for name, component in self.space.items()}
        scalings = {name: _scaling(name, take, component.size) for name, component in self.space.items() if component.kind == "continuous"}
        still = np.ones(int(known.sum()), bool)
        for name, component in self.space.items():
            rows = values[name]
            if isinstance(component, Binary):
                self._held[name] = self._held.get(name, 0) + (rows > 0).sum(axis=0)
                still &= ~(rows > 0).any(axis=1)
            elif isinstance(component, Categorical):
                numbers, counts = np.unique(rows, return_counts=True)
                self._chosen.setdefault(name, Counter()).update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
                still &= rows == self.names[name].null
            elif len(rows):
                still &= self._axes.setdefault(name, _Axes(component.size)).add(rows, scalings[name])
        self.labelled += len(still)
        self.null += int(still.sum())

    def null_share(self) -> float | None:
        """Of the labelled frames, those that do nothing: no key held, the mouse still, nothing chosen, every axis at 0.

        None where there are none, or where it is not known which choice is nothing.
        """
        choices = [name for name, component in self.space.items() if isinstance(component, Categorical)]
        if not self.labelled or not self.space or any(self.names[name].null is None for name in choices):
            return None
        return self.null / self.labelled

    def figures(self) -> dict[str, ComponentFigures]:
        """By component; those of which no labelled frame was seen are left out."""
        return {name: self._figures(name, component) for name, component in self.space.items() if self.labelled}

    def _figures(self, name: str, component: ActionComponent) -> ComponentFigures:
        called = self.names[name].of
        if isinstance(component, Binary):
            return KeyFigures({called(i): float(count) / self.labelled for i, count in enumerate(self._held[name].tolist())})
        if isinstance(component, Categorical):
            counts = self._chosen[name].most_common()
            return ChoiceFigures({called(number): count / self.labelled for number, count in counts}, component.size)
        return AxesFigures({called(i): axis for i, axis in enumerate(self._axes[name].figures())})


class _Axes:
    """Running figures of the axes of a component."""

    def __init__(self, size: int):
        self.count, self.total = 0, np.zeros(size)
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.bins = np.zeros((size, BINS), np.int64)

    def add(self, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
        """Counts ``rows``, scaled, and says which of them are 0 in the units of the data set."""
        own = rows * np.asarray(scaling.half_range) + np.asarray(scaling.center)
        self.count, self.total = self.count + len(rows), self.total + own.sum(axis=0)
        self.low, self.high = np.minimum(self.low, own.min(axis=0)), np.maximum(self.high, own.max(axis=0))
        places = np.clip(np.floor((rows + 1) / 2 * BINS), 0, BINS - 1).astype(np.int64)
        np.add.at(self.bins, (np.broadcast_to(np.arange(rows.shape[1]), places.shape), places), 1)
        return np.all(np.abs(own) <= ZERO * np.abs(scaling.half_range), axis=1)

    def figures(self) -> list[AxisFigures]:
        means = (self.total / self.count).tolist()
        columns = zip(self.low.tolist(), means, self.high.tolist(), self.bins.tolist(), strict=True)
        return [AxisFigures(low, mean, high, tuple(bins)) for low, mean, high, bins in columns]


def _checked(name: str, component: ActionComponent, take: Take, known: np.ndarray) -> np.ndarray:
    rows = np.asarray(take.actions[name])[known]
    if isinstance(component, Categorical):
        wrong = (rows < 0) | (rows >= component.size)
        wanted = f"0 .. {component.size - 1}"
    elif isinstance(component, Binary):
        wrong, wanted = (rows < 0) | (rows > 1), "0 or 1"
    else:
        rows = rows.astype(np.float64)
        wrong, wanted = ~(np.abs(rows) < 1e30), "a finite number"
    if wrong.any():
        raise BadRecordingError(f"action {name} of a labelled frame is {rows[wrong].flat[0]}, wanted {wanted}")
    return rows


def _scaling(name: str, take: Take, size: int) -> Scaling:
    note = take.info.get(f"scaling.{name}")
    if note is None:
        return Scaling((0.0,) * size, (1.0,) * size)
    try:
        scaling = Scaling.of_note(str(note))
        numbers = np.asarray([scaling.center, scaling.half_range], np.float64)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRecordingError(f"scaling.{name} is {str(note)!r:.80}, wanted a center and a half_range ({error})") from error
    if numbers.shape != (2, size) or not (np.abs(numbers) < 1e30).all():
        raise BadRecordingError(f"scaling.{name} is {str(note)!r:.80}, wanted {size} finite centers and half_ranges")
    return scaling
