"""Any Gymnasium environment with continuous actions that can draw itself, as a world of pictures and tasks' events.

The rules that say when a task is done stand here once, for what is recorded and for what is played in the closed loop.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError

Array = np.ndarray


class _Rule(Config):
    name: str = Field(min_length=1)
    """Of the task, as it stands in the data set."""
    hold: int = Field(default=1, gt=0)
    """Steps in a row for which the condition must hold."""


class StateRule(_Rule):
    """The observation, a vector, lies between ``low`` and ``high``, entry by entry; null leaves an entry free."""

    kind: Literal["state"]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    def holds(self, observation: Any, reward: float, info: Mapping[str, Any]) -> bool:
        """Raises ``UserError`` where the observation is no vector of that length."""
        values = np.asarray(observation)
        if values.shape != (len(self.low),) or len(self.high) != len(self.low):
            raise UserError(f"task {self.name}: low and high have {len(self.low)} and {len(self.high)} entries, the state {values.shape}")
        low = np.array([-np.inf if bound is None else bound for bound in self.low])
        high = np.array([np.inf if bound is None else bound for bound in self.high])
        return bool(((values >= low) & (values <= high)).all())


class RewardRule(_Rule):
    """The reward of the step is at least ``least``."""

    kind: Literal["reward"]
    least: float

    def holds(self, observation: Any, reward: float, info: Mapping[str, Any]) -> bool:
        """Whether it is."""
        return reward >= self.least


class InfoRule(_Rule):
    """``info[key]`` of the step is true, as ``is_success`` of many robot environments."""

    kind: Literal["info"]
    key: str

    def holds(self, observation: Any, reward: float, info: Mapping[str, Any]) -> bool:
        """Raises ``UserError`` where the environment tells nothing of that name."""
        if self.key not in info:
            raise UserError(f"task {self.name}: the environment's info has no {self.key}; it has {', '.join(info) or 'nothing'}")
        return bool(info[self.key])


TaskRule = Annotated[StateRule | RewardRule | InfoRule, Field(discriminator="kind")]
Side = Annotated[int, Field(gt=0, le=8192, multiple_of=2)]


class EnvironmentConfig(Config):
    """A Gymnasium environment, and what its tasks are."""

    id: str
    """As ``gymnasium.make`` takes it; ``package:Name-v0`` imports the package first."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the environment."""
    repeat: int = Field(default=1, gt=0)
    """Steps of the environment for which an action is kept: one step, and one picture, here."""
    fps: int | None = Field(default=None, gt=0, le=1000)
    """Pictures a second; what the environment says of itself over ``repeat`` where it is not given."""
    size: tuple[Side, Side] = (96, 96)
    """Rows and columns of the pictures, brought to it from those that the environment draws. Both are even, as H.264 wants them."""
    tasks: tuple[TaskRule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "EnvironmentConfig":
        names = [rule.name for rule in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks: a name stands twice in {', '.join(names)}")
        return self

    def rules(self, names: Sequence[str]) -> tuple[TaskRule, ...]:
        """The rules of the tasks ``names``, in that order. Raises ``UserError`` for a task without a rule."""
        known = {rule.name: rule for rule in self.tasks}
        if missing := [name for name in names if name not in known]:
            raise UserError(
                f"environment {self.id}: no rule for the task {missing[0]!r}; there are rules for {', '.join(map(repr, known))}"
            )
        return tuple(known[name] for name in names)


class TaskWatch:
    """Sees the steps of an episode and says which tasks are done; what holds before the first step does not count."""

    def __init__(self, rules: Sequence[TaskRule]):
        self.rules, self._held = rules, np.zeros(len(rules), np.int64)
        self._wanted = np.array([rule.hold for rule in rules], np.int64)

    def restart(self) -> None:
        """Another episode begins."""
        self._held[:] = 0

    def step(self, observation: Any, reward: float, info: Mapping[str, Any]) -> tuple[Bool[Array, "m"], UInt8[Array, "m"]]:
        """Which tasks are done now, and which of them since this step: their events."""
        now = np.array([rule.holds(observation, reward, info) for rule in self.rules])
        self._held = np.where(now, self._held + 1, 0)
        return self._held >= self._wanted, (self._held == self._wanted).astype(np.uint8)


def _unchanged(values: Array) -> Array:
    return values


class PictureEnv(gymnasium.Env[Array, Array]):
    """Pictures uint8 ``[y, x, 3]``; actions float ``[n]``, brought to the environment's own by ``unscaled`` and cut to its range.

    ``picture`` brings what the environment draws to the size wanted. ``info`` holds ``events`` and ``done``, both ``[m]``: see
    ``TaskWatch``; and ``state``: the environment's own observation. ``truncated`` is the step limit ``length``. Raises ``UserError``
    where the environment is not to be had, cannot draw itself, or has other than continuous actions.
    """

    def __init__(
        self,
        config: EnvironmentConfig,
        *,
        tasks: Sequence[str],
        length: int,
        picture: Callable[[Array], Array] = _unchanged,
        unscaled: Callable[[Array], Array] = _unchanged,
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame would look for a screen, though it draws in memory
        self.config, self._picture, self._unscaled = config, picture, unscaled
        self._watch, self._env = TaskWatch(config.rules(tasks)), _made(config, length)
        self.box = _box(config, self._env)
        self.action_space = self.box

    @property
    def fps(self) -> int:
        """Pictures a second, a whole number. Raises ``UserError`` where nobody says it."""
        if self.config.fps is not None:
            return self.config.fps
        rate = self._env.metadata.get("render_fps", 0)
        if not rate or rate < self.config.repeat:
            raise UserError(f"environment {self.config.id}: does not say how many pictures a second it has; set fps")
        return round(rate / self.config.repeat)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Starts the episode of ``seed``."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed, options=options)
        self._watch.restart()
        count = len(self._watch.rules)
        return self._drawn(), {"state": observation, "events": np.zeros(count, np.uint8), "done": np.zeros(count, bool)}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Takes ``action``, ``repeat`` times; the reward is the sum of the environment's own."""
        native = self.native(action)
        observation, reward, terminated, truncated, info = self._env.step(native)
        total = float(reward)
        for _ in range(self.config.repeat - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self._env.step(native)
            total += float(reward)
        done, events = self._watch.step(observation, total, info)
        return self._drawn(), total, bool(terminated), bool(truncated), {"state": observation, "events": events, "done": done}

    def native(self, action: Array) -> Array:
        """What the environment is given for ``action``."""
        return np.clip(self._unscaled(np.asarray(action)), self.box.low, self.box.high).astype(self.box.dtype)

    def close(self) -> None:
        """Frees what the environment holds."""
        self._env.close()

    def _drawn(self) -> Array:
        try:
            drawn = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"environment {self.config.id}: {error}; pip install 'dreamer-ray[robot]' has it for Pendulum-v1") from error
        if not isinstance(drawn, np.ndarray) or drawn.dtype != np.uint8 or drawn.shape[2:] != (3,):
            raise UserError(f"environment {self.config.id}: draws no picture uint8 [y, x, 3] but {_described(drawn)}")
        return self._picture(drawn)


def _made(config: EnvironmentConfig, length: int) -> gymnasium.Env:
    limit, options = length * config.repeat, {"render_mode": "rgb_array"} | config.kwargs
    try:
        made = gymnasium.make(config.id, max_episode_steps=limit, **options)  # pyright: ignore[reportArgumentType]
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise UserError(f"environment {config.id}: cannot be made ({error}); look at id and kwargs") from error
    if made.render_mode != "rgb_array":
        raise UserError(f"environment {config.id}: has no rgb_array rendering (render_mode is {made.render_mode})")
    return made


def _box(config: EnvironmentConfig, env: gymnasium.Env) -> gymnasium.spaces.Box:
    box = env.action_space
    if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1:
        raise UserError(f"environment {config.id}: has the actions {box}; only a Box with one axis can be played")
    return box


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
