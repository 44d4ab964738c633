import numpy as np
import pytest

from dreamer_ray.envs.crafter import ACTIONS, TASKS, TILES, CrafterConfig, CrafterEnv, CrafterState
from dreamer_ray.envs.crafter_player import ScriptedPlayer, ambition, choose
from dreamer_ray.envs.crafter_scene import Scene

TOOLS = [f"{material}_{tool}" for tool in ("pickaxe", "sword") for material in ("wood", "stone", "iron")]
EMPTY = dict.fromkeys(["sapling", "wood", "stone", "coal", "iron", "diamond", *TOOLS], 0)
WELL = {"health": 9, "food": 9, "drink": 9, "energy": 9}
LETTERS = {".": "grass", " ": "path", "#": "stone", "T": "tree", "~": "water", "c": "coal", "i": "iron", "D": "diamond"}
LETTERS |= {"t": "table", "f": "furnace", "@": "player", "Z": "zombie", "C": "cow", "!": "lava"}


def scene(*rows: str, facing: tuple[int, int] = (0, 1), sleeping: bool = False, daylight: float = 1.0, **have: int) -> Scene:
    tiles = np.array([[TILES.index(LETTERS[letter]) for letter in row] for row in rows], np.uint8).T
    x, y = np.argwhere(tiles == TILES.index("player"))[0].tolist()
    return Scene(CrafterState(tiles, (x, y), facing, EMPTY | WELL | have, sleeping, daylight))


@pytest.fixture(scope="module")
def env() -> CrafterEnv:
    return CrafterEnv(CrafterConfig(length=150))


@pytest.mark.parametrize(
    ("situation", "action"),
    [
        (scene("@.T"), "move_right"),
        (scene(".@T"), "move_right"),
        (scene(".@T", facing=(1, 0)), "do"),
        (scene("T...@.T"), "move_right"),
        (scene("..@", "..Z", facing=(-1, 0)), "move_down"),
        (scene("..@", "..Z"), "do"),
        (scene("@..", "T..", facing=(1, 0), wood=3), "place_table"),
        (scene("@t.", wood=1), "make_wood_pickaxe"),
        (scene("@t.", wood=1, stone=1, wood_pickaxe=1), "make_stone_pickaxe"),
        (scene("@t", ".f", wood=1, coal=1, iron=1, wood_pickaxe=1, stone_pickaxe=1), "make_iron_pickaxe"),
        (scene("@t", "..", stone=4, wood_pickaxe=1, stone_pickaxe=1), "place_furnace"),
        (scene("@!", "..", facing=(1, 0), stone=1), "place_stone"),
        (scene("@~", "..", facing=(1, 0), drink=8), "do"),
        (scene("@..C", food=5), "move_right"),
        (scene("@..C..", "T.....", facing=(1, 0), food=9), "move_down"),
        (scene("@.", sapling=1, facing=(1, 0)), "place_plant"),
        (scene("###", "#@#", "###", energy=2), "sleep"),
        (scene("###", "#@#", "###", wood_pickaxe=1, stone=1, energy=9, health=5), "noop"),
        (scene("@.", sleeping=True), "sleep"),
        (scene("@#D", facing=(1, 0), wood_pickaxe=1, stone_pickaxe=1, iron_pickaxe=1), "do"),
        (scene("@~D", "###", facing=(1, 0), drink=9, stone=1, wood_pickaxe=1, stone_pickaxe=1, iron_pickaxe=1), "place_stone"),
    ],
)
def test_choice(situation, action):
    assert choose(situation) == action


def test_keeps_a_tile_away_from_lava():
    assert choose(scene("....", "@..T", ".!..")) == "move_up"
    assert choose(scene("....", "@..T", "....")) == "move_right"


def test_lava_is_walked_around():
    assert choose(scene("@!T", "...", "...")) == "move_down"


def test_digs_in_when_tired(env):
    env.reset(seed=0)
    world, player = env._game.world, env._game.player
    for thing in world.objects[1:]:
        world.remove(thing)
    for x in range(64):
        for y in range(64):
            world[x, y] = "stone" if y > 32 else "grass"
    player.inventory.update(energy=2, wood_pickaxe=1, stone=1)
    scripted = ScriptedPlayer(np.random.default_rng(0), 0.0, curiosity=0.0)
    for _ in range(12):
        env.step(scripted.act(env))
    x, y = env.state().position
    assert player.sleeping
    assert y > 32
    assert world[x, y - 1][0] == "stone"


def test_without_noise_makes_a_pickaxe_of_wood(env):
    for seed in (0, 1):
        env.reset(seed=seed)
        scripted, ended = ScriptedPlayer(np.random.default_rng(seed), 0.0), False
        while not ended:
            _, _, died, truncated, info = env.step(scripted.act(env))
            ended = died or truncated
        assert all(info["achievements"][task] for task in ("collect_wood", "place_table", "make_wood_pickaxe", "collect_stone"))
        assert list(info["achievements"]) == list(TASKS)


def test_noise_is_the_share_of_random_actions(env):
    env.reset(seed=0)
    scripted = ScriptedPlayer(np.random.default_rng(0), 1.0)
    counts = np.bincount([scripted.act(env) for _ in range(1700)], minlength=len(ACTIONS))
    assert counts.min() > 60
    assert counts.max() < 150
    half = ScriptedPlayer(np.random.default_rng(0), 0.5, curiosity=0.0)
    planned = ACTIONS.index(choose(Scene(env.state())))
    share = np.mean([half.act(env) == planned for _ in range(400)])
    assert 0.45 < share < 0.62


def test_equal_generators_play_alike(env):
    runs = []
    for _ in range(2):
        env.reset(seed=4)
        scripted = ScriptedPlayer(np.random.default_rng(9), 0.3)
        actions = []
        for _ in range(60):
            actions.append(scripted.act(env))
            env.step(actions[-1])
        runs.append(actions)
    assert runs[0] == runs[1]


def test_less_skill_overlooks_needs(env):
    def wood(skill: float) -> int:
        total = 0
        for seed in range(3):
            env.reset(seed=seed)
            player = ScriptedPlayer(np.random.default_rng(seed), 0.0, skill=skill)
            for _ in range(60):
                total += int(env.step(player.act(env))[4]["events"][TASKS.index("collect_wood")])
        return total

    assert wood(1.0) > wood(0.3) > 0


@pytest.mark.parametrize(
    ("situation", "action", "fails"),
    [
        (scene(".@T", facing=(1, 0)), "do", False),
        (scene("T@.", facing=(1, 0)), "do", True),
        (scene(".@#", facing=(1, 0)), "do", True),
        (scene(".@#", facing=(1, 0), wood_pickaxe=1), "do", False),
        (scene(".@.", facing=(1, 0), wood=2), "place_table", False),
        (scene(".@.", facing=(1, 0)), "place_table", True),
        (scene(".@T", facing=(1, 0), wood=2), "place_table", True),
        (scene(".@t", wood=1), "make_wood_pickaxe", False),
        (scene(".@.", wood=1), "make_wood_pickaxe", True),
        (scene(".@t"), "make_wood_pickaxe", True),
    ],
)
def test_what_fails(situation, action, fails):
    assert situation.fails(action) is fails


@pytest.mark.parametrize(
    ("situation", "wanted"),
    [
        (scene(".@."), "place_table"),
        (scene(".@.", wood=1), "place_table"),
        (scene("t@."), "make_wood_pickaxe"),
        (scene(".@.", wood_pickaxe=1), "place_table"),
        (scene("t@.", wood_pickaxe=1), "make_stone_pickaxe"),
        (scene("t@.", wood_pickaxe=1, stone_pickaxe=1), "place_furnace"),
        (scene("t@.", wood_pickaxe=1, stone_pickaxe=1, iron_pickaxe=1), "do"),
    ],
)
def test_what_a_player_tries_too_soon(situation, wanted):
    assert ambition(situation) == wanted


def test_a_player_that_tries_much_fails_much(env):
    """By what the world does: an action that fails leaves the inventory as it was, but for needs."""

    def in_vain(attempts):
        """The share of the hand's uses, placings and makings that fail; the longest row of them."""
        player, failed = ScriptedPlayer(np.random.default_rng(0), 0.0, attempts=attempts, curiosity=0.0), []
        env.reset(seed=3)
        for _ in range(150):
            before, now = env.state(), player.act(env)
            env.step(now)
            if ACTIONS[now] == "do" or ACTIONS[now].startswith(("place_", "make_")):
                kept = {name: count for name, count in before.inventory.items() if name not in WELL}
                failed.append(all(env.state().inventory[name] == count for name, count in kept.items()))
        return np.mean(failed), max(len(row) for row in "".join("x" if each else " " for each in failed).split(" "))

    (without, _), (often, row) = in_vain(0.0), in_vain(0.2)
    assert without < 0.3 < 0.5 < often
    assert row >= 4
