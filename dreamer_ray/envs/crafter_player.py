"""A scripted player of Crafter: walks to what it needs, crafts, eats, drinks, fights and sleeps, with a share of random actions.

A list of goals in order of urgency; the first that applies chooses the action. It may read the simulator's state, but
prefers what the picture shows, so that a clone that sees only pictures can learn to do the same.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dreamer_ray.envs.crafter import ACTIONS, CrafterEnv
from dreamer_ray.envs.crafter_paths import DIRECTIONS, Route
from dreamer_ray.envs.crafter_scene import GROUND, MOVES, Scene, Step, approach, around, go, put

Goal = Callable[[Scene], str | None]
PATIENCE = 0.75
"""The chance to go on with what brings nothing."""
TRIED = tuple(action for action in ACTIONS if action.startswith(("place_", "make_")))
"""What may be tried in vain besides the hand."""
STATIONS = {"wood": "table", "stone": "table", "iron": "furnace"}
"""What a pickaxe of a material is made beside, from the first pickaxe to the last."""
HARD = ("outside", "water", "stone", "tree", "coal", "iron", "diamond", "table", "furnace", "plant")
"""What keeps creatures out."""
FAR = 30
"""Above this cost of the way back to table and furnace, new ones are built."""
TIRED, HURT, HEALED = 3, 3, 7
"""Rest begins at this energy or health; a hurt player stays in its shelter until this health."""


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
    return approach(scene, "water", anywhere=level <= 3) if level <= 6 else None


def eat(scene: Scene) -> str | None:
    """Eats a cow or a ripe plant, early where one is in sight, in time where it must be searched."""
    level = scene.have["food"]
    return approach(scene, "cow", "ripe-plant", anywhere=level <= 3) if level <= 6 else None


def rest(scene: Scene) -> str | None:
    """When tired or hurt, digs in and sleeps until day and health are back; at the end of its strength sleeps anywhere."""
    have = scene.have
    if _walled_in(scene) and (have["energy"] <= TIRED or have["health"] < HEALED or scene.dark):
        return "sleep" if have["energy"] < 9 else "noop"
    if have["energy"] > TIRED and have["health"] > HURT:
        return None
    return _dig_in(scene) or ("sleep" if have["energy"] <= 1 and not scene.sees("zombie", "skeleton") else None)


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
    """With a pickaxe and a stone, digs two tiles straight into the rock, steps back by one and closes the entrance behind."""
    if not scene.have["wood_pickaxe"] or not scene.have["stone"]:
        return None
    holes = {step: _holes(scene, step) for step in DIRECTIONS}
    here = np.array(scene.position)

    def outside(step: Step, depth: int) -> bool:
        x, y = here - depth * np.array(step)
        return 0 <= x < scene.tiles.shape[0] and 0 <= y < scene.tiles.shape[1] and bool(holes[step][x, y])

    for step in DIRECTIONS:
        if outside(step, 1) and scene.facing == (-step[0], -step[1]):
            return "place_stone"
    for step in DIRECTIONS:
        if outside(step, 2):
            return MOVES[(-step[0], -step[1])]
    for step in DIRECTIONS:
        if outside(step, 1) or outside(step, 0):
            return go(scene, Route(step, 1, arrives=True))
    return go(scene, scene.way(np.any(list(holes.values()), axis=0), anywhere=True))


def _holes(scene: Scene, step: Step) -> np.ndarray:
    """bool ``[x, y]``: tiles of ground from which two tiles in direction ``step`` can be dug that have no other opening."""
    ground, hard = scene.where(*GROUND), scene.where(*HARD)
    soft = scene.where("stone", "coal", "path")

    def shifted(mask: np.ndarray, along: int, across: int) -> np.ndarray:
        x, y = along * step[0] + across * step[1], along * step[1] + across * step[0]
        return np.pad(mask, 3)[3 + x : 3 + x + mask.shape[0], 3 + y : 3 + y + mask.shape[1]]

    sides = [shifted(hard, along, across) for along in (1, 2) for across in (-1, 1)]
    return np.all([ground, shifted(soft, 1, 0), shifted(soft, 2, 0), shifted(hard, 3, 0), *sides], axis=0)


def plant(scene: Scene) -> str | None:
    """Plants a sapling on the grass ahead."""
    return "place_plant" if scene.have["sapling"] and scene.ahead == "grass" else None


def craft(scene: Scene) -> str | None:
    """Makes the next pickaxe, or a sword where material is left, near the table (and furnace) that it needs."""
    have, wood = scene.have, scene.have["wood"]
    if not scene.near("table") or not wood:
        return None
    stone, smelts = have["stone"], scene.near("furnace") and have["coal"] and have["iron"]
    recipes = {
        "wood_pickaxe": True,
        "stone_pickaxe": have["wood_pickaxe"] and stone,
        "iron_pickaxe": have["stone_pickaxe"] and smelts,
        "iron_sword": have["iron_pickaxe"] and smelts,
        "stone_sword": have["stone_pickaxe"] and stone and wood > 1,
        "wood_sword": have["stone_pickaxe"] and wood > 2,
    }
    return next((f"make_{item}" for item, possible in recipes.items() if possible and not have[item]), None)


def build_furnace(scene: Scene) -> str | None:
    """Places a furnace beside the table."""
    wanted = scene.have["stone_pickaxe"] and not scene.have["iron_sword"] and scene.have["stone"] >= 4
    if not wanted or not scene.near("table") or scene.near("furnace"):
        return None
    return put(scene, "place_furnace", keep_near="table")


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
        return approach(scene, "table", anywhere=True)
    return put(scene, "place_table") if have["wood"] >= 3 else approach(scene, "table", "tree", anywhere=True)


def reach_forge(scene: Scene) -> str | None:
    """With coal, iron and wood goes to where a table and a furnace stand together, or builds them anew."""
    have = scene.have
    if have["iron_sword"] or not have["stone_pickaxe"] or not (have["wood"] and have["coal"] and have["iron"]):
        return None
    if scene.near("table") and not scene.near("furnace"):
        return approach(scene, "stone", anywhere=True)
    forges = around(scene.where("table")) & around(scene.where("furnace")) & (scene.costs() > 0)
    way = scene.way(forges, anywhere=True)
    if way is not None and (way.cost <= FAR or have["wood"] < 3):
        return go(scene, way)
    if have["stone"] < 4:
        return approach(scene, "stone", anywhere=True)
    return put(scene, "place_table") if have["wood"] >= 3 else approach(scene, "table", "tree", anywhere=True)


def gather(scene: Scene) -> str | None:
    """Collects what the next steps need: first what is in sight, then the nearest anywhere."""
    have = scene.have
    if not have["wood_pickaxe"]:
        return approach(scene, "tree", anywhere=True)
    if have["iron_pickaxe"]:
        lacking = [name for name in ("wood", "coal", "iron") if have["diamond"] and not have["iron_sword"] and not have[name]]
        names = ["tree" if name == "wood" else name for name in lacking]
        return approach(scene, *(names or ["diamond"]), anywhere=True)
    targets = {"coal": have["coal"] < 1, "tree": have["wood"] < 5, "stone": have["stone"] < 5}
    lacking = [name for name, lack in (("tree", have["wood"] < 1), ("stone", have["stone"] < 5)) if lack]
    if have["stone_pickaxe"]:
        targets = {"iron": have["iron"] < 1, "coal": have["coal"] < 1, "tree": have["wood"] < 3, "stone": have["stone"] < 5}
        lacking = [name for name in ("iron", "coal") if have[name] < 1] + (["tree"] if have["wood"] < 1 else [])
    action = approach(scene, *(name for name, lack in targets.items() if lack))
    return action or (approach(scene, *lacking, anywhere=True) if lacking else None)


def settle(scene: Scene) -> str | None:
    """Digs in and waits when there is nothing left to do."""
    return "noop" if _walled_in(scene) else _dig_in(scene) or "noop"


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
    settle,
)


class ScriptedPlayer:
    """Plays by ``GOALS``, of which it overlooks a share of ``1 - skill`` anew at every step; or, with probability ``noise``, at random.

    With probability ``attempts`` it begins to do something that fails there, as who misjudges what lies ahead or what it has does, and
    goes on with that for ``1 / (1 - PATIENCE)`` steps on average: one time in four it uses its hand where that reaches nothing, one time
    it places or makes anything, two times what it will need next (``ambition``), too soon. What is placed it tries here and there: every
    other step is one aside, so that anything may lie ahead. ``curiosity`` is the chance to search the grass ahead for a sapling, which the
    game grants one time in ten.
    """

    def __init__(self, rng: np.random.Generator, noise: float, *, skill: float = 1.0, attempts: float = 0.0, curiosity: float = 0.05):
        self.rng, self.noise, self.skill, self.attempts, self.curiosity = rng, noise, skill, attempts, curiosity
        self.trying: str | None = None

    def act(self, env: CrafterEnv) -> int:
        """Number of the action for the present state of ``env``."""
        chance, draw = self.rng.random(2)
        if chance < self.noise:
            return int(self.rng.integers(len(ACTIONS)))
        scene = Scene(env.state())
        self.trying = self._attempt(scene, (chance - self.noise) / (1 - self.noise))
        if self.trying is not None:
            return ACTIONS.index(self._aside(scene) or self.trying)
        if scene.ahead == "grass" and not scene.sleeping and draw < self.curiosity:
            return ACTIONS.index("do")
        seen = GOALS if self.skill == 1 else [goal for goal in GOALS if goal is settle or self.rng.random() < self.skill]
        return ACTIONS.index(choose(scene, seen))

    def _attempt(self, scene: Scene, chance: float) -> str | None:
        """What it now does in vain: the next step of an attempt, or the first of another; None where it plays on."""
        if scene.sleeping or chance >= (PATIENCE if self.trying else self.attempts):
            return None
        tried = self.trying or ("do", TRIED[int(self.rng.integers(len(TRIED)))], *2 * (ambition(scene),))[int(self.rng.integers(4))]
        return tried if scene.fails(tried) else None

    def _aside(self, scene: Scene) -> str | None:
        """Between two attempts to place something, one time in two, a step or a turn anywhere but into lava."""
        ways = [move for step, move in MOVES.items() if scene.at(step) != "lava"]
        if not ways or not (self.trying or "").startswith("place_") or self.rng.random() < 0.5:
            return None
        return ways[int(self.rng.integers(len(ways)))]


def ambition(scene: Scene) -> str:
    """The next pickaxe, or what it is made beside where that is not in sight, whatever is at hand for it; "do" when all are made."""
    missing = (material for material in STATIONS if not scene.have[f"{material}_pickaxe"])
    if (material := next(missing, None)) is None:
        return "do"
    return f"make_{material}_pickaxe" if scene.sees(STATIONS[material]) else f"place_{STATIONS[material]}"


def choose(scene: Scene, goals: Sequence[Goal] = GOALS) -> str:
    """The action of the first of ``goals`` that applies; ``settle`` always does."""
    return next(action for action in (goal(scene) for goal in goals) if action is not None)
