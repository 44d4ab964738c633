import hashlib
import os
import subprocess
import sys

import crafter
import gymnasium
import numpy as np
import pytest
from crafter import engine
from gymnasium.utils.env_checker import check_env

from dreamer_ray.config_file import parse_config
from dreamer_ray.envs.crafter import ACTION_SPACE, ACTIONS, LADDER, TASKS, CrafterConfig, CrafterEnv, frame_shape, ladder_prompt
from dreamer_ray.envs.crafter_player import ScriptedPlayer
from dreamer_ray.errors import UserError


@pytest.fixture(scope="module")
def env() -> CrafterEnv:
    return CrafterEnv(CrafterConfig(length=60))


def fingerprint(seeds: list[int], steps: int) -> str:
    env, digest = CrafterEnv(CrafterConfig(length=steps)), hashlib.sha256()
    for seed in seeds:
        actions = np.random.default_rng(seed)
        digest.update(env.reset(seed=seed)[0].tobytes())
        for _ in range(steps):
            frame, _, died, _, info = env.step(int(actions.integers(5)))
            digest.update(frame.tobytes() + info["events"].tobytes())
            if died:
                break
    return digest.hexdigest()


def test_a_world_leaves_the_number_of_threads_of_pytorch_alone():
    program = (
        "import torch; torch.set_num_threads(1); from dreamer_ray.envs.crafter import CrafterConfig, CrafterEnv;"
        "CrafterEnv(CrafterConfig()).reset(seed=0); from numba import threading_layer; print(torch.get_num_threads(), threading_layer())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert done.stdout.split() == ["1", "workqueue"]  # elsewhere by chance: a second thread needs a second CPU


def test_another_process_plays_the_same():
    program = (
        "import sys, importlib.util; junk = [object() for _ in range(77777)];"
        "spec = importlib.util.spec_from_file_location('worlds', sys.argv[1]); module = importlib.util.module_from_spec(spec);"
        "spec.loader.exec_module(module); print(module.fingerprint([0, 1], 150))"
    )
    other = subprocess.run([sys.executable, "-c", program, __file__], capture_output=True, text=True, timeout=120, check=True)
    assert other.stdout.strip() == fingerprint([0, 1], 150)


def test_a_seed_is_a_world_whatever_was_played_before(env):
    one, _ = env.reset(seed=5)
    for action in range(10):
        env.step(action)
    other, _ = env.reset(seed=6)
    again, _ = env.reset(seed=5)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_reset_without_seed_goes_on_with_the_generator_of_the_last_seed(env):
    env.reset(seed=5)
    one, two = env.reset()[0], env.reset()[0]
    env.reset(seed=5)
    assert np.array_equal(one, env.reset()[0])
    assert not np.array_equal(one, two)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasium_accepts_the_environment(env):
    check_env(env, skip_render_check=True)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == ACTION_SPACE["action"].size == 17
    assert len(TASKS) == 22


def test_tiles_are_whole_in_the_picture(env):
    frame, _ = env.reset(seed=3)
    assert frame.shape == (*frame_shape(env.config), 3)
    assert frame.dtype == np.uint8
    tiles = frame.reshape(9, 8, 9, 8, 3).transpose(0, 2, 1, 3, 4)[:7].reshape(63, -1)
    x, y = env.state().position
    names = env.state().tiles[x - 4 : x + 5, y - 3 : y + 4].T.ravel()
    for name in np.unique(names):
        assert len(np.unique(tiles[names == name], axis=0)) == 1, "the same thing looks the same on every tile by day"


def test_worlds_are_those_of_crafter(env):
    for seed in range(12):
        plain = crafter.Env(seed=seed)
        plain.reset()
        game = env._game
        game.restart(seed)
        np.testing.assert_array_equal(game.world._mat_map, plain._world._mat_map)
        ours, theirs = ([(type(thing), *thing.pos) for thing in world.objects] for world in (game.world, plain._world))
        assert ours == theirs
        assert game.world.random.uniform() == plain._world.random.uniform()


def test_names_are_those_of_crafter():
    assert list(ACTIONS) == crafter.constants.actions
    assert list(TASKS) == crafter.constants.achievements


def test_events_are_the_rises_of_the_counters(env):
    _, info = env.reset(seed=0)
    actions, total = np.random.default_rng(0), info["events"].astype(int)
    for _ in range(60):
        _, _, died, ended, info = env.step(int(actions.choice([1, 2, 3, 4, 5, 6], p=[0.1, 0.1, 0.1, 0.1, 0.5, 0.1])))
        total += info["events"]
        assert info["events"].dtype == np.uint8
        assert total.tolist() == list(info["achievements"].values())
    assert total.sum() > 0
    assert ended
    assert not died


def test_death_terminates_and_the_limit_truncates(env):
    env.reset(seed=0)
    env._game.player.health = 0
    _, _, terminated, truncated, _ = env.step(0)
    assert (terminated, truncated) == (True, False)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(60)]
    assert ends[:-1] == [(False, False)] * 59
    assert ends[-1] == (False, True)


def test_state_follows_the_player(env):
    env.reset(seed=0)
    before = env.state()
    env.step(ACTIONS.index("move_right"))
    after = env.state()
    assert after.facing == (1, 0)
    assert after.position[0] - before.position[0] in (0, 1)
    assert after.inventory["health"] == 9


def test_ladder_prompt_is_the_first_missing_rung():
    nothing = dict.fromkeys(TASKS, 0)
    assert TASKS[ladder_prompt(nothing)] == "collect_wood"
    assert TASKS[ladder_prompt(nothing | {"collect_wood": 3, "collect_stone": 1})] == "place_table"
    assert TASKS[ladder_prompt(dict.fromkeys(TASKS, 1))] == LADDER[-1] == "collect_diamond"
    assert set(LADDER) < set(TASKS)


def test_mistakes_are_refused(env):
    env.reset(seed=0)
    with pytest.raises(UserError, match="action 17"):
        env.step(17)
    with pytest.raises(UserError, match="size = 64"):
        parse_config(CrafterConfig, {"size": 64, "length": 10}, "here")


@pytest.mark.parametrize("size", [72, 45])
def test_pictures_are_those_of_crafter(size):
    ours, plain = (CrafterEnv(CrafterConfig(size=size, length=400)) for _ in range(2))
    game = plain._game
    game._local_view = engine.LocalView(game.world, game._textures, [9, 7])
    game._item_view = engine.ItemView(game._textures, [9, 2])
    np.testing.assert_array_equal(ours.reset(seed=3)[0], plain.reset(seed=3)[0])
    player, asleep, dark, edges = ScriptedPlayer(np.random.default_rng(0), noise=0.1), 0, 0, {220: (0, 3), 230: (63, 60)}
    for step in range(240):
        for env in (ours, plain):
            if step in edges:  # the view reaches over the edge of the world
                env._game.world.move(env._game.player, edges[step])
        action = player.act(plain) if step < 200 else ACTIONS.index("sleep")
        frame = ours.step(action)[0]
        np.testing.assert_array_equal(frame, plain.step(action)[0], err_msg=f"step {step}")
        asleep, dark = asleep + ours.state().sleeping, dark + (ours.state().daylight < 0.5)
    assert ours.state().position == (63, 60)
    assert asleep
    assert dark
