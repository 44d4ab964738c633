"""What the columns of a table of actions are (``actions.yaml``), and what the table then says of every picture of a video."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.config_file import load_config
from dreamer_ray.data.action_tables import ActionTable
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Motion, Several
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Binary, Categorical, Continuous

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
CLOSE = 0.15
"""Share of the usual distance of pictures by which the time of a row may be wrong: it is often rounded to 1/100 s."""
UNEVEN_SHARE = 0.01
"""Share of the pictures by which the rows of a table without a frame or time column may be more or fewer."""

MOST_TEXT, MOST_BRACKETS = 50_000, 1000
"""Beyond these a YAML file may take minutes to read."""


class Keys(Config):
    """Things that are held or not: columns of 0 and 1, or of true and false."""

    kind: Literal["binary"]
    columns: tuple[str, ...] = Field(min_length=1)

    @property
    def component(self) -> Binary:
        """Of the action space."""
        return Binary(size=len(self.columns))


class Choice(Config):
    """One thing out of several: a column of their names, or of numbers from 0 on."""

    kind: Literal["categorical"]
    column: str
    values: tuple[str | int, ...] | None = None
    size: int | None = Field(default=None, gt=1, le=10**6)

    @model_validator(mode="after")
    def _one_of_both(self) -> "Choice":
        if (self.values is None) == (self.size is None) or len(set(map(str, self.values or "ab"))) < max(2, len(self.values or ())):
            raise ValueError("give either size: (the numbers 0 .. size-1) or values: [at least two different ones]")
        return self

    @property
    def component(self) -> Categorical:
        """Of the action space."""
        return Categorical(size=self.size or len(self.values or ()))


class Axes(Config):
    """Numbers such as of a joystick or a mouse, of which ``low`` becomes -1 and ``high`` becomes 1."""

    kind: Literal["continuous"]
    columns: tuple[str, ...] = Field(min_length=1)
    low: float = -1.0
    high: float = 1.0
    several: Several = "last"
    """What counts where several rows belong to one picture, or several pictures become one frame: "sum" is right for the way of a mouse,
    which is also divided where a picture becomes several frames."""

    @model_validator(mode="after")
    def _in_order(self) -> "Axes":
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self

    @property
    def component(self) -> Continuous:
        """Of the action space."""
        return Continuous(size=len(self.columns))

    @property
    def scaling(self) -> Scaling:
        """Between the columns and the actions."""
        return Scaling.between([self.low] * len(self.columns), [self.high] * len(self.columns))

    @property
    def motion(self) -> Motion | None:
        """How actions add up; None where they do not."""
        return Motion.of(self.scaling) if self.several == "sum" else None


class ActionFile(Config):
    """``actions.yaml``."""

    actions: dict[Annotated[str, Field(pattern=NAME)], Annotated[Keys | Choice | Axes, Field(discriminator="kind")]] = Field(min_length=1)
    frame: str | None = None
    """Column of the picture's number, from 0; a picture without a row is not labelled."""
    time: str | None = None
    """Column of the time in seconds from the first picture on. Actions belong to the last picture shown by then, events and ends to the
    first one shown from then on, which is where they can be seen."""
    hold: bool = False
    """Whether a picture without a row has the actions of the row before it, as in a log of changes."""
    events: dict[str, str] = Field(default={})
    """By task: column that says how often its event arrives with this picture."""
    terminal: str | None = None
    """Column that is 1 where the picture shows the end of an episode; what follows is another episode."""

    @model_validator(mode="after")
    def _one_clock(self) -> "ActionFile":
        if self.frame and self.time:
            raise ValueError("give frame or time, not both")
        if self.hold and not (self.frame or self.time):
            raise ValueError("hold: true wants a frame or time column, without which every picture has a row")
        return self

    @property
    def action_space(self) -> ActionSpace:
        """By component."""
        return {name: part.component for name, part in self.actions.items()}

    @property
    def motions(self) -> dict[str, Motion]:
        """By component, of those that add up."""
        return {name: part.motion for name, part in self.actions.items() if isinstance(part, Axes) and part.motion}

    @property
    def scalings(self) -> dict[str, Scaling]:
        """By component, of those that are numbers."""
        return {name: part.scaling for name, part in self.actions.items() if isinstance(part, Axes)}

    @property
    def several(self) -> dict[str, Several]:
        """By component, of those that are numbers."""
        return {name: part.several for name, part in self.actions.items() if isinstance(part, Axes)}


@dataclass(frozen=True)
class Labels:
    """What a table says of each picture."""

    actions: dict[str, np.ndarray]
    labelled: np.ndarray
    events: np.ndarray
    continues: np.ndarray


def read_action_file(path: Path) -> ActionFile:
    """``actions.yaml``. Raises ``UserError`` naming the file, the key, its value and the nearest known key."""
    try:
        text = path.read_text()
        if len(text) > MOST_TEXT or sum(map(text.count, "[{")) > MOST_BRACKETS:
            raise UserError(f"actions {path}: is longer than {MOST_TEXT} characters, or has more than {MOST_BRACKETS} brackets")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise UserError(f"actions {path}: holds an alias (*name); write it out")
        return load_config(ActionFile, path, kind="actions")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"actions {path}: cannot be read as YAML ({error})") from error


def unlabelled(form: ActionFile | None, pictures: int) -> Labels:
    """Of a video without a table."""
    actions = {} if form is None else {name: _nothing(part.component, pictures) for name, part in form.actions.items()}
    events = np.zeros((pictures, 0 if form is None else len(form.events)), np.uint8)
    return Labels(actions, np.zeros(pictures, bool), events, np.ones(pictures, np.float32))


def labels(form: ActionFile, table: ActionTable, times: Float[np.ndarray, "t"], dropped: Counter[str]) -> Labels:
    """What ``table`` says of the pictures shown at ``times``. Raises ``BadRecordingError`` naming file, line, column and value."""
    picture, arrival = _pictures(form, table, times)
    shown, arrived = ((numbers >= 0) & (numbers < len(times)) for numbers in (picture, arrival))
    if not shown.any():
        raise BadRecordingError(f"{table.path}: none of its {len(picture)} rows belongs to one of the {len(times)} pictures")
    dropped["rows of no picture"] += int((~shown).sum())
    found = unlabelled(form, len(times))
    last = np.full(len(times), -1)
    np.maximum.at(last, picture[shown], np.flatnonzero(shown))
    dropped["rows beside another of the same picture"] += int(shown.sum() - (last >= 0).sum())
    if form.hold:
        last = np.maximum.accumulate(last)
    found.labelled[:] = last >= 0
    for name, part in form.actions.items():
        found.actions[name][found.labelled] = _values(part, table, picture)[last[found.labelled]]
    for task, column in enumerate(form.events.values()):
        counts = table.numbers(column)
        if (wrong := (counts < 0) | (counts != np.floor(counts))).any():
            row = int(wrong.argmax())
            raise BadRecordingError(f"{table.place(row)}, column {column}: {counts[row]} is no count of events")
        total = np.zeros(len(times))
        np.add.at(total, arrival[arrived], counts[arrived])
        found.events[:, task] = np.minimum(total, 255)
    if form.terminal is not None:
        found.continues[arrival[arrived & table.flags(form.terminal)]] = 0
    return found


def _pictures(form: ActionFile, table: ActionTable, times: np.ndarray) -> tuple[Int[np.ndarray, "r"], Int[np.ndarray, "r"]]:
    """Numbers of the pictures to which the actions and the events of each row belong; such as are not in the video where to none."""
    name = form.frame or form.time
    if name is None:
        rows = len(table.lines)
        if abs(rows - len(times)) > max(2, UNEVEN_SHARE * len(times)):
            remedy = "if they are not one a picture, name a column with frame: or time:"
            raise BadRecordingError(f"{table.path}: {rows} rows, its video has {len(times)} pictures; {remedy}")
        return np.arange(rows), np.arange(rows)
    clock = table.numbers(name)
    if (back := np.diff(clock) < 0).any():
        row = int(back.argmax()) + 1
        raise BadRecordingError(f"{table.place(row)}, column {name}: {clock[row]:g} comes after {clock[row - 1]:g}")
    if form.frame is not None:
        if (broken := clock != np.floor(clock)).any():
            row = int(broken.argmax())
            raise BadRecordingError(f"{table.place(row)}, column {name}: {clock[row]:g} is no number of a picture")
        numbers = np.clip(clock, -1, len(times)).astype(np.int64)
        return numbers, numbers
    return _pictures_at(clock, times)


def _pictures_at(clock: np.ndarray, times: np.ndarray) -> tuple[Int[np.ndarray, "r"], Int[np.ndarray, "r"]]:
    """Of each moment the last picture shown by then, and the first from then on; -1 a picture or more before the first, or after the last.

    What happens after the last picture, and would be seen in the next, counts there.
    """
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    none = (clock < times[0] - step * (1 - CLOSE)) | (clock >= times[-1] + step * (1 - CLOSE))
    taken = np.searchsorted(times, clock + CLOSE * step, side="right") - 1
    arriving = np.minimum(np.searchsorted(times, clock - CLOSE * step, side="left"), len(times) - 1)
    return np.where(none, -1, taken), np.where(none, -1, arriving)


def _values(part: Keys | Choice | Axes, table: ActionTable, picture: np.ndarray) -> np.ndarray:
    """Of every row; where several rows belong to a picture, what counts stands in the last of them."""
    if isinstance(part, Choice):
        return table.choices(part.column, part.values, part.component.size)
    if isinstance(part, Keys):
        return _grouped(np.stack([table.flags(name) for name in part.columns], -1), picture, np.maximum).astype(np.uint8)
    values = np.stack([table.numbers(name) for name in part.columns], -1)
    if part.several != "last":
        values = _grouped(values, picture, np.add)
        values = values / _grouped(np.ones(len(values)), picture, np.add)[:, None] if part.several == "mean" else values
    return part.scaling.scaled(values)


def _grouped(values: np.ndarray, picture: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """``values`` combined over the rows of a picture, which lie together, and given to all of them."""
    starts = np.flatnonzero(np.diff(picture, prepend=picture[0] - 1))
    return np.repeat(combine.reduceat(values, starts, axis=0), np.diff(starts, append=len(picture)), axis=0)


def _nothing(component: Binary | Categorical | Continuous, pictures: int) -> np.ndarray:
    if isinstance(component, Categorical):
        return np.zeros(pictures, np.int64)
    return np.zeros((pictures, component.size), np.uint8 if isinstance(component, Binary) else np.float32)
