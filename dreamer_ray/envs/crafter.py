"""Crafter as a Gymnasium environment that repeats exactly: one seed is one world, in any process.

Crafter (Hafner 2021, arXiv:2109.06780) shows a player from above: 9 x 7 tiles of the world and 9 x 2 tiles of inventory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.errors import UserError
from dreamer_ray.types import ActionSpace, Categorical


def _tables() -> dict[str, Any]:
    """Crafter's lists of materials, actions and achievements, without importing Crafter."""
    package = find_spec("crafter")
    assert package is not None
    assert package.origin is not None
    return yaml.safe_load((Path(package.origin).parent / "data.yaml").read_text())


NAMES = _tables()
ACTIONS: tuple[str, ...] = tuple(NAMES["actions"])
"""Names of the 17 actions, by their number."""
TASKS: tuple[str, ...] = tuple(NAMES["achievements"])
"""Names of the 22 achievements, by their number."""
LADDER: tuple[str, ...] = (
    "collect_wood",
    "place_table",
    "make_wood_pickaxe",
    "collect_stone",
    "make_stone_pickaxe",
    "collect_coal",
    "place_furnace",
    "collect_iron",
    "make_iron_pickaxe",
    "collect_diamond",
)
"""The achievements on the way to a diamond, in the order in which they can be reached."""
ACTION_SPACE: ActionSpace = {"action": Categorical(size=len(ACTIONS))}

CREATURES = ("player", "cow", "zombie", "skeleton", "arrow", "plant")
TILES: tuple[str, ...] = ("outside", *NAMES["materials"], *CREATURES, "ripe-plant")
"""Names of the codes in ``CrafterState.tiles``."""
SEEN = (4, 3)
"""How many tiles the player sees to each side: columns, rows."""


class CrafterConfig(Config):
    """One episode of Crafter."""

    size: int = Field(default=72, gt=0, multiple_of=9)
    """Side of the square picture in pixels; a multiple of 9, so that each of the 9 x 9 tiles has whole pixels."""
    length: int = Field(default=400, gt=0)
    """Step limit, after which an episode is truncated."""


@dataclass(frozen=True)
class CrafterState:
    """What the simulator knows, for players that may look behind the picture. Positions are (x, y), y downward."""

    tiles: np.ndarray
    """uint8 ``[x, y]``: indices into ``TILES``; a creature hides the ground below it."""
    position: tuple[int, int]
    facing: tuple[int, int]
    inventory: dict[str, int]
    sleeping: bool
    daylight: float
    """0 in the middle of the night, 1 at noon."""


def frame_shape(config: CrafterConfig) -> tuple[int, int]:
    """Rows and columns of a picture."""
    return config.size, config.size


def ladder_prompt(achievements: dict[str, int], ladder: Sequence[str] = LADDER) -> int:
    """Index into ``TASKS`` of the first task of the ladder that is not achieved yet; of the last one when all are."""
    missing = [task for task in ladder if not achievements[task]]
    return TASKS.index(missing[0] if missing else ladder[-1])


class CrafterEnv(gymnasium.Env[np.ndarray, int]):
    """Crafter with pictures uint8 ``[size, size, 3]`` and 17 actions.

    ``terminated`` is death, ``truncated`` the step limit. ``info`` holds ``events``: uint8 ``[22]``, by how much each
    achievement's counter rose on this step, and ``achievements``: the counters by name. The reward is Crafter's own.
    """

    def __init__(self, config: CrafterConfig):
        side = (config.size, config.size)
        self.config = config
        self.observation_space = gymnasium.spaces.Box(0, 255, (*side, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))  # pyright: ignore[reportAttributeAccessIssue]
        from dreamer_ray.envs.crafter_game import Game

        self._game = Game(size=side, length=config.length, seed=0)
        self._counts = np.zeros(len(TASKS), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts the world of ``seed``; without one, a world drawn from the generator of the last seed."""
        super().reset(seed=seed, options=options)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        frame = self._game.restart(seed)
        self._counts = np.zeros(len(TASKS), np.int64)
        return frame, self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes action number ``action``. Raises ``UserError`` for a number outside 0 .. 16."""
        if not 0 <= action < len(ACTIONS):
            raise UserError(f"action {action}: Crafter has the actions 0 .. {len(ACTIONS) - 1}")
        frame, reward, done, details = self._game.step(int(action))
        terminated = details["discount"] == 0
        return frame, float(reward), terminated, bool(done) and not terminated, self._info()

    def state(self) -> CrafterState:
        """The simulator's state now."""
        player = self._game.player
        (x, y), (dx, dy) = player.pos.tolist(), player.facing
        daylight = float(self._game.world.daylight)
        return CrafterState(self._game.tiles(), (x, y), (dx, dy), dict(player.inventory), player.sleeping, daylight)

    def _info(self) -> dict[str, Any]:
        achievements = {task: int(self._game.player.achievements[task]) for task in TASKS}
        counts = np.array(list(achievements.values()))
        events, self._counts = (counts - self._counts).astype(np.uint8), counts
        return {"events": events, "achievements": achievements}


@dataclass(frozen=True)
class CrafterWorlds:
    """Where agents are played: see ``evaluation.episodes.Worlds``."""

    config: CrafterConfig
    ladder: tuple[str, ...] = LADDER

    def make(self) -> CrafterEnv:
        """A new environment, which has its world from the seed of ``reset``."""
        return CrafterEnv(self.config)

    def prompt(self, counts: Sequence[int]) -> int:
        """The lowest task of the ladder that was not achieved yet, where each of ``TASKS`` was so often."""
        return ladder_prompt(dict(zip(TASKS, counts, strict=True)), self.ladder)
