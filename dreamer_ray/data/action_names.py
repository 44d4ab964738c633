"""What the keys, choices and axes of an action space are called, and which choice is none: for people who look at a data set."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer_ray.data.action_columns import Choice
from dreamer_ray.data.foreign import inside, read_bytes
from dreamer_ray.data.lerobot import LeRobotSource
from dreamer_ray.data.minerl import CHOICES
from dreamer_ray.data.minerl import KEYS as MINERL_KEYS
from dreamer_ray.data.sources import BadRecordingError, Source
from dreamer_ray.data.videos import VideosSource
from dreamer_ray.data.vpt_actions import KEYS, MOUSE_BINS, decode_mouse, encode_mouse
from dreamer_ray.envs.crafter import ACTIONS, NAMES
from dreamer_ray.types import ActionComponent, ActionSpace, Binary, Categorical

NONE = {"none", "noop", "no-op", "nothing"}
STILL = int(encode_mouse(np.zeros(2)))
MOST_NAMES = 1000
"""A larger component's entries are called by their number."""


@dataclass(frozen=True)
class EntryNames:
    """Of one component: keys, choices or axes."""

    names: tuple[str, ...] = ()
    """Empty where the entries have none but their number."""
    null: int | None = None
    """The choice that does nothing; None where there is none, or none that is known."""
    turns: bool = False
    """Whether the choices are cells of the mouse's grid."""

    def of(self, entry: int) -> str:
        """The name of an entry."""
        return self.names[entry] if entry < len(self.names) else str(entry)


def action_names(source: Source) -> dict[str, EntryNames]:
    """The names of the entries of each component of the source's actions."""
    space = source.action_space
    found = {name: known_names(name, component) for name, component in space.items()}
    if isinstance(source, VideosSource) and source.form:
        for name, part in source.form.actions.items():
            found[name] = _chosen(part.values or ()) if isinstance(part, Choice) else _named(part.columns)
    elif isinstance(source, LeRobotSource):
        found["action"] = _axes(source)
    elif _is_crafter(space, source.tasks):
        found["action"] = _chosen(ACTIONS)
    return {name: names if _size(space[name]) <= MOST_NAMES else EntryNames() for name, names in found.items()}


def _size(component: ActionComponent) -> int:
    return component.size


def known_names(name: str, component: ActionComponent) -> EntryNames:
    """Names of Minecraft's keys, mouse and menus, whose components no other source calls the same at the same size."""
    if name == "mouse" and component == Categorical(size=MOUSE_BINS):
        turns = decode_mouse(np.arange(MOUSE_BINS))
        names = ["still" if i == STILL else f"pitch {pitch:+.1f} yaw {yaw:+.1f}" for i, (pitch, yaw) in enumerate(turns.tolist())]
        return EntryNames(tuple(names), STILL, turns=True)
    for keys in (KEYS, MINERL_KEYS):
        if name == "keys" and component == Binary(size=len(keys)):
            return _named(keys)
    if name in CHOICES and component == Categorical(size=len(CHOICES[name])):
        return _chosen(CHOICES[name])
    return EntryNames()


def _is_crafter(space: ActionSpace, tasks: Iterable[str]) -> bool:
    return space == {"action": Categorical(size=len(ACTIONS))} and list(tasks) == list(NAMES["achievements"])


def _named(names: Iterable[str]) -> EntryNames:
    counts = Counter(names := tuple(names))
    return EntryNames(tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)))


def _chosen(values: Iterable[str | int]) -> EntryNames:
    names = tuple(map(str, values))
    return EntryNames(names, next((i for i, name in enumerate(names) if name.lower() in NONE), None))


def _axes(source: LeRobotSource) -> EntryNames:
    """What ``meta/info.json`` calls the numbers of an action: a list, or lists by kind; whoever wrote it may have left it out."""
    try:
        values: Any = json.loads(read_bytes(inside(source.folder, "meta/info.json")))["features"][source.config.action]
    except (BadRecordingError, ValueError, KeyError, TypeError, RecursionError):
        return EntryNames()
    names = values.get("names") if isinstance(values, dict) else None
    if isinstance(names, dict):
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [part])]
    size = source.action_space["action"].size
    if not isinstance(names, list) or len(names) != size or not all(isinstance(name, str) for name in names):
        return EntryNames()
    return _named(names)
