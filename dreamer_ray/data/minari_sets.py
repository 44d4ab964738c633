"""Minari data sets of offline reinforcement learning, read by the minari package (``pip install 'dreamer-ray[minari]'``).

An episode has one observation more than actions, so nothing is cut: the last one, which no action follows, is not labelled.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from pydantic import Field

from dreamer_ray.config import Config, fingerprint
from dreamer_ray.data.foreign import inside, read_bytes
from dreamer_ray.data.layout import PictureLayout, picture_maker
from dreamer_ray.data.minari_episodes import DAMAGE, read_episode
from dreamer_ray.data.scaling import Scaling
from dreamer_ray.data.sources import BadRecordingError, Motion, Reading, Recording, Several, Take
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionComponent, ActionSpace, Binary, Categorical, Continuous

MOST_EPISODES = 10**7


class MinariConfig(Config):
    """A Minari data set on this machine."""

    kind: Literal["minari"]
    dataset: str
    """Its id, such as ``atari/pong/expert-v0``, below ``root``; ``minari download ID`` fetches it."""
    root: str | None = None
    """Folder of the data sets; ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``, where it is not given."""
    fps: float = Field(gt=0, le=1000)
    """Steps a second; the data set does not say it."""
    observation: str | None = None
    """Which part of the observation is the picture, such as ``pixels`` or ``camera.front``; needed where there are several."""
    several: Several = "last"
    """What counts of numbers where several steps become one frame: "sum" is right where they are ways gone, not places to be at."""
    task: str = "reward"
    """Name of what ``event_reward`` is given for."""
    event_reward: float = 1.0
    """An event is where the reward first reaches this value."""


def minari_root(config: MinariConfig) -> Path:
    """The folder of data sets, as this process knows it."""
    return Path(config.root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


class MinariSource:
    """See ``Source``."""

    def __init__(self, config: MinariConfig):
        self.config = config
        self.folder = minari_root(config) / config.dataset / "data"

    @cached_property
    def _spaces(self) -> tuple[spaces.Space, spaces.Space]:
        """Of observations and actions."""
        data = self._data()
        return data.observation_space, data.action_space

    @cached_property
    def picture(self) -> str:
        """Which part of the observation is the picture; "" where it is all."""
        parts = dict(_parts(self._spaces[0]))
        pictures = [name for name, space in parts.items() if _is_picture(space)]
        wanted = self.config.observation
        if not pictures:
            found = "; ".join(f"{name or 'the observation'} is {space}" for name, space in list(parts.items())[:6])
            remedy = "a world model of pictures wants uint8 pictures of 3 or 1 channels; record the environment's render with them"
            raise UserError(f"Minari data set {self.folder}: has no pictures ({found}); {remedy}")
        if wanted is None and len(pictures) > 1:
            raise UserError(f"Minari data set {self.folder}: has several pictures; choose with observation: {' | '.join(pictures)}")
        if wanted is not None and wanted not in pictures:
            raise UserError(f"Minari data set {self.folder}: observation {wanted!r} is no picture; there is {', '.join(pictures)}")
        return pictures[0] if wanted is None else wanted

    @property
    def action_space(self) -> ActionSpace:
        """A component each space of the actions, "action" where there is one."""
        return {name: component for name, _, component, _ in self._actions}

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Between the data set's actions and those of the takes, of numbers; infinite bounds leave an entry alone."""
        boxes = {name: space for name, _, _, space in self._actions if isinstance(space, spaces.Box)}
        return {name: Scaling.between(box.low.ravel().tolist(), box.high.ravel().tolist()) for name, box in boxes.items()}

    @property
    def tasks(self) -> tuple[str, ...]:
        """One, for the reward."""
        return (self.config.task,)

    @property
    def fps(self) -> float:
        """Steps a second."""
        return self.config.fps

    def index(self) -> Sequence[Recording]:
        """A recording an episode."""
        names = [f"episode-{number:06d}" for number in self._data().episode_indices.tolist()]
        if not names:
            raise UserError(f"Minari data set {self.folder}: holds no episode")
        _ = self.picture, self.action_space
        return [Recording(name, name, (str(self.folder),)) for name in names]

    def made_from(self, recording: Recording) -> str:
        """The files of the data set, all of its episodes lie in the same ones; each with its size and time of change."""
        return self._files

    @cached_property
    def _files(self) -> str:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        states = [(path.relative_to(self.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return fingerprint(states)

    def read(self, recording: Recording, layout: PictureLayout | None = None) -> Reading:
        """One take, the whole episode."""
        number = int(recording.name.removeprefix("episode-"))
        episode = read_episode(self._data(), self.folder, number, self.picture, [path for _, path, _, _ in self._actions])
        rewards, terminations = episode.rewards, episode.terminations
        taken = {name: episode.actions[path] for name, path, _, _ in self._actions}
        steps = len(rewards)
        lengths = {"observations": episode.count, "terminations": len(terminations) + 1} | {k: len(v) + 1 for k, v in taken.items()}
        if wrong := [name for name, length in lengths.items() if length != steps + 1]:
            raise BadRecordingError(f"{self.folder}: {recording.name}: {steps} rewards do not fit to its {wrong[0]}")
        if not np.isfinite(rewards).all():
            raise BadRecordingError(f"{self.folder}: {recording.name}: reward of step {int(np.isfinite(rewards).argmin())} is not finite")
        take = self._take(recording.name, rewards, terminations, taken)
        return Reading((take,), map(picture_maker(layout), _shown(episode.pictures)), Counter())

    def _take(self, name: str, rewards: np.ndarray, terminations: np.ndarray, taken: dict[str, np.ndarray]) -> Take:
        steps = len(rewards)
        reached = rewards >= self.config.event_reward
        events = np.zeros((steps + 1, 1), np.uint8)
        events[1:, 0] = reached & ~np.concatenate([[False], reached[:-1]])
        continues = np.ones(steps + 1, np.float32)
        continues[1:][terminations > 0] = 0
        info: dict[str, float | int | str] = {"dataset": self.config.dataset, "episode": name, "return": float(rewards.sum())}
        actions = {}
        for component_name, _, component, space in self._actions:
            scaling = self.scalings.get(component_name)
            values = _encoded(taken[component_name], component, space, scaling, f"{self.folder}: {name}: {component_name}")
            actions[component_name] = np.concatenate([values, np.zeros_like(values[:1])]) if steps else values
        info |= {f"scaling.{key}": scaling.note() for key, scaling in self.scalings.items()}
        motions = {key: Motion.of(scaling) for key, scaling in self.scalings.items() if self.config.several == "sum"}
        several: dict[str, Several] = dict.fromkeys(self.scalings, self.config.several)
        return Take(0, actions, np.arange(steps + 1) < steps, events, continues, info, motions, several=several)

    @cached_property
    def _actions(self) -> list[tuple[str, str, ActionComponent, spaces.Space]]:
        """Name, path in the action, component and space of each part of the actions."""
        parts = [(path or "action", path, space) for path, space in _parts(self._spaces[1])]
        found = [(name, path, _component(space), space) for name, path, space in parts]
        if unknown := [f"{name} is {space}" for name, _, component, space in found if component is None]:
            raise UserError(f"Minari data set {self.folder}: {unknown[0]}, which is no space of actions that is read here")
        return [(name, path, component, space) for name, path, component, space in found if component is not None]

    def _data(self) -> Any:
        """The data set, opened by minari, after a look that its metadata does not make it import code."""
        try:
            import minari
        except ImportError as error:
            raise UserError(f"Minari data sets need the minari package ({error}); run: pip install 'minari[hdf5]'") from error
        try:
            metadata = json.loads(read_bytes(inside(self.folder, "metadata.json")))
            for name in ("observation_space", "action_space"):
                if not isinstance(metadata, dict) or not isinstance(metadata.get(name), str):
                    raise BadRecordingError(f"metadata.json: {name} is missing")  # minari would make the environment to ask it
            if not isinstance(count := metadata.get("total_episodes"), int) or not 0 <= count <= MOST_EPISODES:
                raise BadRecordingError(f"metadata.json: total_episodes is {count!r:.40}")
            for link in filter(Path.is_symlink, self.folder.rglob("*")):
                inside(self.folder, link.relative_to(self.folder).as_posix())
            return minari.MinariDataset(self.folder)
        except ImportError as error:
            raise UserError(f"Minari data set {self.folder}: {error}") from error
        except (BadRecordingError, RecursionError, gymnasium.error.Error, *DAMAGE) as error:
            remedy = f"is there one? 'minari download {self.config.dataset}' fetches it"
            raise UserError(f"Minari data set {self.folder}: cannot be opened ({error}); {remedy}") from error


def _parts(space: spaces.Space, path: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """The spaces that a space is made of, by their path."""
    inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces) if isinstance(space, spaces.Tuple) else None
    if inner is None:
        yield path, space
        return
    for key, part in inner:
        yield from _parts(part, f"{path}.{key}" if path else str(key))


def _is_picture(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) >= 8 and (len(space.shape) == 2 or space.shape[2] in (1, 3))


def _shown(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for picture in pictures:
        grey = picture[..., None] if picture.ndim == 2 else picture
        yield np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey


def _component(space: spaces.Space) -> ActionComponent | None:
    if isinstance(space, spaces.Discrete) and space.n > 1:
        return Categorical(size=int(space.n))
    if isinstance(space, spaces.MultiBinary):
        return Binary(size=int(np.prod(space.shape)))
    if isinstance(space, spaces.Box) and np.prod(space.shape) > 0:
        return Continuous(size=int(np.prod(space.shape)))
    return None


def _encoded(values: np.ndarray, component: ActionComponent, space: Any, scaling: Scaling | None, place: str) -> np.ndarray:
    """The actions of a component, scaled where it is one of numbers."""
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise BadRecordingError(f"{place} is {values.dtype}, or not finite")
    if isinstance(component, Categorical):
        numbers = values.reshape(len(values)).astype(np.int64) - int(space.start)
        if ((numbers < 0) | (numbers >= component.size)).any():
            raise BadRecordingError(f"{place} is not in {space}")
        return numbers
    if values.size != len(values) * component.size:
        raise BadRecordingError(f"{place} is of shape {values.shape}, wanted {component.size} numbers a step")
    flat = values.reshape(len(values), component.size)
    if isinstance(component, Binary):
        return (flat > 0).astype(np.uint8)
    assert scaling is not None, "numbers have one"
    return scaling.scaled(flat)
