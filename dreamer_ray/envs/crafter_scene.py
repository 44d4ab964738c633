"""Crafter's state as a scripted player sees it, and the three things that it does there: go, take and put."""

import numpy as np

from dreamer_ray.envs.crafter import NAMES, SEEN, TILES, CrafterState
from dreamer_ray.envs.crafter_paths import DIRECTIONS, Route, route

Step = tuple[int, int]
MOVES: dict[Step, str] = dict(zip(DIRECTIONS, ("move_left", "move_right", "move_up", "move_down"), strict=True))
GROUND = ("grass", "sand", "path")
BESIDE_LAVA = 6
"""Added cost of a tile beside lava, where one random action can kill."""


class Scene:
    """The state at one moment, with what the goals ask of it."""

    def __init__(self, state: CrafterState):
        self.position, self.facing, self.sleeping = state.position, state.facing, state.sleeping
        self.tiles = state.tiles.copy()
        self.tiles[self.position] = TILES.index("path")  # the player stands on ground, whichever
        self.have = state.inventory
        self.dark = state.daylight < 0.5
        self.ahead = self.at(self.facing)
        x, y = self.position
        self.window = (slice(max(x - SEEN[0], 0), x + SEEN[0] + 1), slice(max(y - SEEN[1], 0), y + SEEN[1] + 1))

    def at(self, *steps: Step) -> str:
        """Name of the tile that many steps away."""
        x, y = self.position[0] + sum(step[0] for step in steps), self.position[1] + sum(step[1] for step in steps)
        inside = 0 <= x < self.tiles.shape[0] and 0 <= y < self.tiles.shape[1]
        return TILES[self.tiles[x, y]] if inside else "outside"

    def where(self, *names: str) -> np.ndarray:
        """bool ``[x, y]``: the tiles of these names."""
        return np.isin(self.tiles, [TILES.index(name) for name in names])

    def sees(self, *names: str) -> bool:
        """Whether such a tile is in the picture."""
        return bool(self.where(*names)[self.window].any())

    def near(self, name: str) -> bool:
        """Whether such a tile is among the 3 x 3 around the player: near enough to craft."""
        x, y = self.position
        return TILES.index(name) in self.tiles[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2]

    def mines(self) -> list[str]:
        """Names of what can be taken away with the tools at hand."""
        names = ["tree"]
        names += ["stone", "coal"] if self.have["wood_pickaxe"] else []
        names += ["iron"] if self.have["stone_pickaxe"] else []
        names += ["diamond"] if self.have["iron_pickaxe"] else []
        return names

    def fails(self, action: str) -> bool:
        """Whether "do", or an action that places or makes something, brings nothing here (the grass its rare sapling at most)."""
        kind, _, thing = action.partition("_")
        if kind == "do":
            return self.ahead not in (*self.mines(), "water", "cow", "zombie", "skeleton", "ripe-plant")
        rule = NAMES[kind][thing]
        lacks = any(self.have[material] < number for material, number in rule["uses"].items())
        return lacks or (self.ahead not in rule["where"] if kind == "place" else not all(map(self.near, rule["nearby"])))

    def costs(self) -> np.ndarray:
        """int ``[x, y]``: about how many actions it takes to enter a tile; 0 where that is impossible."""
        table = np.zeros(len(TILES), np.int64)
        table[[TILES.index(name) for name in GROUND]] = 1
        table[[TILES.index(name) for name in self.mines()]] = 3
        if self.have["stone"] and self.have["wood_pickaxe"]:
            table[TILES.index("water")] = 5
        costs = table[self.tiles]
        lava = np.pad(self.where("lava"), 1)
        beside = lava[:-2, 1:-1] | lava[2:, 1:-1] | lava[1:-1, :-2] | lava[1:-1, 2:]
        return np.where(beside & (costs > 0), costs + BESIDE_LAVA, costs)

    def way(self, goals: np.ndarray, *, anywhere: bool) -> Route | None:
        """The cheapest way inside the picture to one of ``goals``; over the whole map where there is none and ``anywhere``."""
        costs, (columns, rows) = self.costs(), self.window
        if goals[self.window].any():
            start = (self.position[0] - columns.start, self.position[1] - rows.start)
            found = route(costs[self.window], start, goals[self.window])
            if found is not None:
                return found
        return route(costs, self.position, goals) if anywhere else None


def go(scene: Scene, way: Route | None) -> str | None:
    """The next action on a way: walk, or turn towards what is in the way and take it (or bridge the water)."""
    if way is None:
        return None
    there = scene.at(way.step)
    if there in GROUND or scene.facing != way.step:
        return MOVES[way.step]
    return "place_stone" if there == "water" and not way.arrives else "do"


def approach(scene: Scene, *names: str, anywhere: bool = False) -> str | None:
    """Goes to the nearest tile of these names and acts on it."""
    return go(scene, scene.way(scene.where(*names), anywhere=anywhere))


def put(scene: Scene, action: str, keep_near: str | None = None) -> str | None:
    """Places something on the tile ahead; clears that tile or turns to another one first, staying near the tile ``keep_near``."""
    if scene.ahead in GROUND:
        return action
    if scene.ahead in scene.mines():
        return "do"
    for step in DIRECTIONS:
        if scene.at(step) in GROUND and (keep_near is None or _still_near(scene, step, keep_near)):
            return MOVES[step]
    return next((MOVES[step] for step in DIRECTIONS if scene.at(step) in scene.mines()), None)


def _still_near(scene: Scene, step: Step, name: str) -> bool:
    return any(scene.at(step, (x, y)) == name for x in (-1, 0, 1) for y in (-1, 0, 1))


def around(mask: np.ndarray) -> np.ndarray:
    """The mask grown by one tile to all eight sides."""
    padded = np.pad(mask, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3)))
