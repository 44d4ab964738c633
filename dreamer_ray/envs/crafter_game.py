"""Crafter's own simulator, with the same pictures drawn faster and without chance outside the seeded generator.

It is imported where a world is made: it brings numba, which the processes that train have no use for.
"""

import os
from functools import cache
from itertools import product
from typing import Any

os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # its OpenMP layer would undo PyTorch's number of threads

import crafter
import numpy as np
from crafter import constants, engine, objects

from dreamer_ray.envs.crafter import CREATURES, NAMES, SEEN, TILES
from dreamer_ray.envs.crafter_worlds import generate_world

AMOUNTS = 11
"""Amounts of an item that Crafter draws apart: 0 to 9, and one sign for more."""


class _LocalView(engine.LocalView):
    """Crafter's picture of the world, pixel for pixel, drawn without a Python loop over the tiles of the ground."""

    def __init__(self, world: engine.World, textures: engine.Textures, unit: np.ndarray):
        super().__init__(world, textures, [2 * side + 1 for side in SEEN])
        names = (None, *NAMES["materials"])
        self._ground = np.stack([textures.get(name, unit)[..., :3] for name in names])  # [material, x, y, 3]

    def __call__(self, player: objects.Player, unit: np.ndarray) -> np.ndarray:
        world, low = self._world, player.pos - self._offset
        begin, end = np.maximum(low, 0), np.minimum(low + self._grid, self._area)
        inside = (slice(begin[0], end[0]), slice(begin[1], end[1]))
        (x, y), (columns, rows) = (begin - low) * unit, (end - begin) * unit
        canvas = np.full((*(self._grid * unit), 3), 127, np.uint8)
        ground = self._ground[world._mat_map[inside]]  # noqa: SLF001
        canvas[x : x + columns, y : y + rows] = ground.swapaxes(1, 2).reshape(columns, rows, 3)
        for place in begin + np.argwhere(world._obj_map[inside]):  # noqa: SLF001
            texture = self._textures.get(world[place][1].texture, unit)
            engine._draw_alpha(canvas, (place - low) * unit, texture)  # noqa: SLF001
        canvas = self._light(canvas, world.daylight)
        return self._sleep(canvas) if player.sleeping else canvas


@cache
def _item_tiles(items: tuple[str, ...], grid: tuple[int, int], unit: tuple[int, int]) -> np.ndarray:
    """Crafter's tile of each item in each amount, uint8 ``[item, amount, x, y, 3]``; the last amount stands for all from there on."""
    view = engine.ItemView(engine.Textures(constants.root / "assets"), grid)
    tiles = np.zeros((len(items), AMOUNTS, *unit, 3), np.uint8)
    for (index, item), amount in product(enumerate(items), range(AMOUNTS)):
        x, y = index % grid[0] * unit[0], index // grid[0] * unit[1]
        tiles[index, amount] = view(dict.fromkeys(items, 0) | {item: amount}, unit)[x : x + unit[0], y : y + unit[1]]
    return tiles


class _ItemView(engine.ItemView):
    """Crafter's picture of the inventory, laid out of tiles that were drawn once for all worlds of a process."""

    def __call__(self, inventory: dict[str, int], unit: np.ndarray) -> np.ndarray:
        grid, side = tuple(self._grid.tolist()), tuple(unit.tolist())
        tiles = _item_tiles(tuple(inventory), grid, side)
        cells = np.zeros((grid[0] * grid[1], *side, 3), np.uint8)
        cells[: len(tiles)] = tiles[np.arange(len(tiles)), np.minimum(list(inventory.values()), AMOUNTS - 1)]
        columns_first = cells.reshape(grid[1], grid[0], *side, 3).transpose(1, 2, 0, 3, 4)
        return columns_first.reshape(grid[0] * side[0], grid[1] * side[1], 3)


class Game(crafter.Env):
    """Crafter with a faster picture, and without its one source of chance outside the seeded generator.

    Crafter keeps the creatures of a region in a ``set`` of objects, whose order follows their memory addresses, and
    draws the creature that vanishes by its place in that order.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        unit = self._size // self._view
        self._local_view = _LocalView(self._world, self._textures, unit)
        self._item_view = _ItemView(self._textures, self._item_view._grid)  # noqa: SLF001
        self._codes = engine.SemanticView(self._world, [getattr(objects, name.title()) for name in CREATURES])
        self._sem_view = lambda: None  # Crafter would make one on every step, for the info that nobody reads

    def _balance_chunk(self, chunk: tuple[int, int, int, int], objs: Any) -> None:
        in_order_of_birth = [creature for creature in self._world.objects if creature in objs]
        super()._balance_chunk(chunk, in_order_of_birth)

    def restart(self, seed: int) -> np.ndarray:
        """The first picture of the world of ``seed``, no matter what was played before: that of Crafter's own first ``reset``."""
        self._seed, self._episode, self._step, self._unlocked = seed, 1, 0, set()
        self._world.reset(seed=hash((seed, self._episode)) % (2**31 - 1))
        self._update_time()
        self._player = objects.Player(self._world, tuple(side // 2 for side in self._world.area))
        self._last_health = self._player.health
        self._world.add(self._player)
        generate_world(self._world, self._player)
        return self._obs()

    @property
    def world(self) -> engine.World:
        return self._world

    @property
    def player(self) -> objects.Player:
        assert self._player is not None, "reset comes first"
        return self._player

    def tiles(self) -> np.ndarray:
        tiles = self._codes()
        for thing in self._world.objects:
            if isinstance(thing, objects.Plant) and thing.ripe:
                tiles[tuple(thing.pos)] = TILES.index("ripe-plant")
        return tiles
