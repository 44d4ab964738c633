"""A scripted player of Crafter: walks to what it needs, crafts, eats, drinks, fights and sleeps, with a share of random actions.

A list of goals in order of urgency; the first that applies chooses the action. It may read the simulator's state, but
prefers what the picture shows, so that a clone that sees only pictures can learn to do the same.
"""

from collections.abc import Callable

import numpy as np

from dreamer_ray.envs.crafter import ACTIONS, SEEN, TILES, CrafterEnv, CrafterState
from dreamer_ray.envs.crafter_paths import DIRECTIONS, Route, route

Step = tuple[int, int]
MOVES: dict[Step, str] = dict(zip(DIRECTIONS, ("move_left", "move_right", "move_up", "move_down"), strict=True))
GROUND = ("grass", "sand", "path")
HARD = ("outside", "water", "stone", "tree", "coal", "iron", "diamond", "table", "furnace", "plant")
"""What keeps creatures out."""
BESIDE_LAVA = 6
"""Added cost of a tile beside lava, where one random action can kill."""
FAR = 30
"""Above this cost of the way back to table and furnace, new ones are built."""


class Scene:
    """The state at one moment, with what the goals ask of it."""

    def __init__(self, state: CrafterState):
        self.tiles, self.position, self.facing, self.sleeping = state.tiles, state.position, state.facing, state.sleeping
        self.have = state.inventory
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


Goal = Callable[[Scene], str | None]


def _go(scene: Scene, way: Route | None) -> str | None:
    """The next action on a way: walk, or turn towards what is in the way and take it (or bridge the water)."""
    if way is None:
        return None
    there = scene.at(way.step)
    if there in GROUND or scene.facing != way.step:
        return MOVES[way.step]
    return "place_stone" if there == "water" and not way.arrives else "do"


def _approach(scene: Scene, *names: str, anywhere: bool = False) -> str | None:
    """Goes to the nearest tile of these names and acts on it."""
    return _go(scene, scene.way(scene.where(*names), anywhere=anywhere))


def _put(scene: Scene, action: str, keep_near: str | None = None) -> str | None:
    """Places something on the tile ahead, or turns to a tile where that works, never leaving the tile ``keep_near``."""
    if scene.ahead in GROUND:
        return action
    for step in DIRECTIONS:
        if scene.at(step) in GROUND and (keep_near is None or _still_near(scene, step, keep_near)):
            return MOVES[step]
    for step in DIRECTIONS:
        if scene.at(step) in scene.mines():
            return "do" if step == scene.facing else MOVES[step]
    return None


def _still_near(scene: Scene, step: Step, name: str) -> bool:
    around = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    return any(scene.at(step, offset) == name for offset in around)


def stay_asleep(scene: Scene) -> str | None:
    """Whoever sleeps goes on sleeping; the game wakes the player."""
    return "sleep" if scene.sleeping else None


def fight(scene: Scene) -> str | None:
    """Strikes a zombie or skeleton beside the player."""
    for step in (scene.facing, *DIRECTIONS):
        if scene.at(step) in ("zombie", "skeleton"):
            return "do" if step == scene.facing else MOVES[step]
    return None


def cover_lava(scene: Scene) -> str | None:
    """Puts a stone on lava ahead."""
    return "place_stone" if scene.ahead == "lava" and scene.have["stone"] else None


def drink(scene: Scene) -> str | None:
    """Drinks early where water is in sight, in time where it must be searched."""
    level = scene.have["drink"]
    if level < 9 and scene.ahead == "water":
        return "do"
    return _approach(scene, "water", anywhere=level <= 3) if level <= 6 else None


def eat(scene: Scene) -> str | None:
    """Eats a cow or a ripe plant, early where one is in sight, in time where it must be searched."""
    level = scene.have["food"]
    return _approach(scene, "cow", "ripe-plant", anywhere=level <= 3) if level <= 6 else None


def rest(scene: Scene) -> str | None:
    """When tired, digs in where the player has a pickaxe, and sleeps; at the end of its strength anywhere."""
    energy, have = scene.have["energy"], scene.have
    if energy > 3:
        return None
    if _walled_in(scene):
        return "sleep"
    if have["wood_pickaxe"] and have["stone"]:
        action = _dig_in(scene)
        if action is not None:
            return action
    return "sleep" if energy <= 1 and not scene.sees("zombie", "skeleton") else None


def _walled_in(scene: Scene) -> bool:
    """Whether nothing can come to the player from outside the at most two tiles where it is."""
    open_steps = [step for step in DIRECTIONS if scene.at(step) not in HARD]
    if not open_steps:
        return True
    inner = open_steps[0]
    back = (-inner[0], -inner[1])
    rest_is_hard = all(scene.at(inner, step) in HARD for step in DIRECTIONS if step != back)
    return len(open_steps) == 1 and scene.at(inner) in GROUND and rest_is_hard


def _dig_in(scene: Scene) -> str | None:
    """Digs two tiles straight into the rock, steps back by one and closes the entrance behind."""
    holes = {step: _holes(scene, step) for step in DIRECTIONS}
    here = np.array(scene.position)

    def outside(step: Step, depth: int) -> bool:
        x, y = here - depth * np.array(step)
        return 0 <= x < scene.tiles.shape[0] and 0 <= y < scene.tiles.shape[1] and bool(holes[step][x, y])

    for step in DIRECTIONS:
        back = (-step[0], -step[1])
        if outside(step, 1):
            return "place_stone" if scene.facing == back else _go(scene, Route(step, 1, arrives=True))
    for step in DIRECTIONS:
        if outside(step, 2):
            return MOVES[(-step[0], -step[1])]
    for step in DIRECTIONS:
        if outside(step, 0):
            return _go(scene, Route(step, 1, arrives=True))
    return _go(scene, scene.way(np.any(list(holes.values()), axis=0), anywhere=True))


def _holes(scene: Scene, step: Step) -> np.ndarray:
    """bool ``[x, y]``: tiles of ground from which two tiles in direction ``step`` can be dug that have no other opening."""
    ground, hard = scene.where(*GROUND), scene.where(*HARD)
    soft = scene.where("stone", "coal", "path") if scene.have["wood_pickaxe"] else scene.where("path")

    def shifted(mask: np.ndarray, along: int, across: int) -> np.ndarray:
        x, y = along * step[0] + across * step[1], along * step[1] + across * step[0]
        moved = np.pad(mask, 3)[3 + x : 3 + x + mask.shape[0], 3 + y : 3 + y + mask.shape[1]]
        return moved

    sides = [shifted(hard, along, across) for along in (1, 2) for across in (-1, 1)]
    return np.all([ground, shifted(soft, 1, 0), shifted(soft, 2, 0), shifted(hard, 3, 0), *sides], axis=0)


def plant(scene: Scene) -> str | None:
    """Plants a sapling on the grass ahead."""
    return "place_plant" if scene.have["sapling"] and scene.ahead == "grass" else None


def craft(scene: Scene) -> str | None:
    """Makes the next pickaxe, or a sword where material is left, near the table (and furnace) that it needs."""
    have = scene.have
    if not scene.near("table") or not have["wood"]:
        return None
    smelting = scene.near("furnace") and have["coal"] and have["iron"]
    if not have["wood_pickaxe"]:
        return "make_wood_pickaxe"
    if not have["stone_pickaxe"]:
        return "make_stone_pickaxe" if have["stone"] else None
    if smelting and not have["iron_pickaxe"]:
        return "make_iron_pickaxe"
    if smelting and not have["iron_sword"]:
        return "make_iron_sword"
    if not have["stone_sword"] and have["stone"] and have["wood"] > 1:
        return "make_stone_sword"
    return "make_wood_sword" if not have["wood_sword"] and have["wood"] > 2 else None


def build_furnace(scene: Scene) -> str | None:
    """Places a furnace beside the table."""
    wanted = scene.have["stone_pickaxe"] and not scene.have["iron_pickaxe"] and scene.have["stone"] >= 4
    if not wanted or not scene.near("table") or scene.near("furnace"):
        return None
    return _put(scene, "place_furnace", keep_near="table")


def reach_table(scene: Scene) -> str | None:
    """Goes to a table in sight, or places one, once there is enough material for the next pickaxe."""
    have = scene.have
    if not have["wood_pickaxe"]:
        ready = have["wood"] >= 3 or (have["wood"] >= 1 and scene.sees("table"))
    else:
        ready = not have["stone_pickaxe"] and have["wood"] and have["stone"] >= 5
    if not ready or scene.near("table"):
        return None
    if scene.sees("table"):
        return _approach(scene, "table", anywhere=True)
    return _put(scene, "place_table") if have["wood"] >= 3 else _approach(scene, "table", "tree", anywhere=True)


def reach_forge(scene: Scene) -> str | None:
    """With coal, iron and wood goes to where a table and a furnace stand together, or builds them anew."""
    have = scene.have
    if have["iron_pickaxe"] or not have["stone_pickaxe"] or not (have["wood"] and have["coal"] and have["iron"]):
        return None
    if scene.near("table") and not scene.near("furnace"):
        return _approach(scene, "stone", anywhere=True)
    forges = _around(scene.where("table")) & _around(scene.where("furnace")) & (scene.costs() > 0)
    way = scene.way(forges, anywhere=True)
    if way is not None and (way.cost <= FAR or have["wood"] < 3):
        return _go(scene, way)
    if have["stone"] < 4:
        return _approach(scene, "stone", anywhere=True)
    return _put(scene, "place_table") if have["wood"] >= 3 else _approach(scene, "table", "tree", anywhere=True)


def _around(mask: np.ndarray) -> np.ndarray:
    """The mask grown by one tile to all eight sides."""
    padded = np.pad(mask, 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return views.any(axis=(2, 3))


def gather(scene: Scene) -> str | None:
    """Collects what the next steps need: first what is in sight, then the nearest anywhere."""
    have = scene.have
    if not have["wood_pickaxe"]:
        return _approach(scene, "tree", anywhere=True)
    if have["iron_pickaxe"]:
        return _approach(scene, "diamond", anywhere=True)
    targets = {"coal": have["coal"] < 1, "tree": have["wood"] < 5, "stone": have["stone"] < 5}
    lacking = [name for name, lack in (("tree", have["wood"] < 1), ("stone", have["stone"] < 5)) if lack]
    if have["stone_pickaxe"]:
        targets = {"iron": have["iron"] < 1, "coal": have["coal"] < 1, "tree": have["wood"] < 3, "stone": have["stone"] < 5}
        lacking = [name for name in ("iron", "coal") if have[name] < 1] + (["tree"] if have["wood"] < 1 else [])
    action = _approach(scene, *(name for name, lack in targets.items() if lack))
    return action or (_approach(scene, *lacking, anywhere=True) if lacking else None)


def wander(scene: Scene) -> str | None:
    """Looks for grass to stand on when there is nothing left to do."""
    return _approach(scene, "grass", anywhere=True) or "noop"


GOALS: tuple[Goal, ...] = (
    stay_asleep,
    fight,
    cover_lava,
    drink,
    eat,
    rest,
    plant,
    craft,
    build_furnace,
    reach_table,
    reach_forge,
    gather,
    wander,
)


class ScriptedPlayer:
    """Plays by ``GOALS``; with probability ``noise`` a uniformly random action instead.

    ``curiosity`` is the chance to search the grass ahead for a sapling, which the game grants one time in ten.
    """

    def __init__(self, rng: np.random.Generator, noise: float, *, curiosity: float = 0.05):
        self.rng, self.noise, self.curiosity = rng, noise, curiosity

    def act(self, env: CrafterEnv) -> int:
        """Number of the action for the present state of ``env``."""
        chance, draw = self.rng.random(2)
        if chance < self.noise:
            return int(self.rng.integers(len(ACTIONS)))
        scene = Scene(env.state())
        if scene.ahead == "grass" and not scene.sleeping and draw < self.curiosity:
            return ACTIONS.index("do")
        return ACTIONS.index(choose(scene))


def choose(scene: Scene) -> str:
    """The action of the first goal that applies."""
    return next(action for action in (goal(scene) for goal in GOALS) if action is not None)
