"""Crafter's world generator over whole grids: of the same random numbers the world that Crafter itself makes, tile for tile.

Crafter (Hafner 2021, section 3.1) lays terrain by thresholds on simplex noise; where rare things may be, a draw a thing decides.
"""

from collections.abc import Callable, Iterator

import numpy as np
from crafter import engine, objects
from jaxtyping import Bool, Float
from opensimplex import OpenSimplex

from dreamer_ray.envs.crafter import NAMES

Map = Float[np.ndarray, "x y"]
Mask = Bool[np.ndarray, "x y"]
Noise = Callable[..., Map]


def generate_world(world: engine.World, player: objects.Player) -> None:
    """Fills an empty ``world`` around ``player``, drawing from ``world.random``."""
    noise = _noise(OpenSimplex(seed=world.random.randint(0, 2**31 - 1)), world.area)
    x, y = np.indices(world.area)
    distance = np.sqrt((x - player.pos[0]) ** 2 + (y - player.pos[1]) ** 2)
    tunnels = _terrain(world, noise, distance)
    _creatures(world, player, distance, tunnels)


def _noise(simplex: OpenSimplex, area: tuple[int, int]) -> Noise:
    columns, rows = (np.arange(side) for side in area)

    def noise(z: int, size: float, *, x: np.ndarray = columns, y: np.ndarray = rows) -> Map:
        """Map number ``z`` in -1 .. 1 at the tiles ``x`` by ``y``, with hills ``size`` tiles apart."""
        return simplex.noise3array(x / size, y / size, np.array([float(z)]))[0].T

    return noise


def _terrain(world: engine.World, noise: Noise, distance: Map) -> Mask:
    """Sets every tile's material and returns where horizontal or vertical tunnels run."""
    x, y = (np.arange(side) for side in world.area)
    start = 1 / (1 + np.exp(-(4 - distance + 2 * noise(8, 3))))
    water = noise(3, 15) + 0.15 * noise(3, 5) + 0.1 - 2 * start
    mountain = (noise(0, 15) + 0.3 * noise(0, 5)) / 1.3 - (4 * start + 0.3 * water)
    meadow, high = start > 0.5, mountain > 0.15
    rock = high & ~meadow
    cave = rock & (noise(6, 7) > 0.15) & (mountain > 0.3)
    tunnels = rock & ~cave & ((noise(7, 3, x=2 * x, y=y / 5) > 0.4) | (noise(7, 3, x=x / 5, y=2 * y) > 0.4))
    solid, flat = rock & ~cave & ~tunnels, ~meadow & ~high
    sand = flat & (water > 0.25) & (water <= 0.35) & (noise(4, 9) > -0.2)
    lake = flat & ~sand & (water > 0.3)
    material = np.full(world.area, "grass", dtype="<U8")
    for mask, name in ((solid, "stone"), (solid & (mountain > 0.3) & (noise(6, 5) > 0.35), "lava"), (sand, "sand"), (lake, "water")):
        material[mask] = name
    material[cave | tunnels] = "path"
    rare = {
        "coal": (solid & (noise(1, 8) > 0), 0.85),
        "iron": (solid & (noise(2, 6) > 0.4), 0.75),
        "diamond": (solid & (mountain > 0.18), 0.994),
        "tree": (flat & ~sand & ~lake & (noise(5, 7) > 0), 0.8),
    }
    for tile, name in _drawn(rare, world.random):
        material[tile] = name
    for name in np.unique(material):
        world._mat_map[material == name] = world._mat_ids[name]  # noqa: SLF001
    return tunnels


def _creatures(world: engine.World, player: objects.Player, distance: Map, tunnels: Mask) -> None:
    ground = {name: world._mat_map == world._mat_ids[name] for name in NAMES["walkable"]}  # noqa: SLF001
    rare = {
        "cow": (ground["grass"] & (distance > 3), 0.985),
        "zombie": (np.any(list(ground.values()), axis=0) & (distance > 10), 0.993),
        "skeleton": (ground["path"] & tunnels, 0.95),
    }
    for tile, name in _drawn(rare, world.random):
        if name == "cow":
            world.add(objects.Cow(world, tile))
        else:
            world.add((objects.Zombie if name == "zombie" else objects.Skeleton)(world, tile, player))


def _drawn(rare: dict[str, tuple[Mask, float]], random: np.random.RandomState) -> Iterator[tuple[tuple[int, int], str]]:
    """Tile by tile the first of the ``rare`` things whose draw, made where its mask allows it, is above its threshold."""
    for x, y in np.argwhere(np.any([mask for mask, _ in rare.values()], axis=0)).tolist():
        for name, (mask, threshold) in rare.items():
            if mask[x, y] and random.uniform() > threshold:
                yield (x, y), name
                break
