"""Gymnasium environments as worlds: rules of tasks, pictures, actions, and what cannot be played."""

import gymnasium
import numpy as np
import pytest

from dreamer_ray.envs.gymnasium_env import EnvironmentConfig, InfoRule, PictureEnv, RewardRule, StateRule, TaskWatch
from dreamer_ray.errors import UserError

UPRIGHT = {"kind": "state", "name": "upright", "low": [0.95, None, -1.0], "high": [None, None, 1.0], "hold": 3}


def config(**changes) -> EnvironmentConfig:
    values = {"id": "Pendulum-v1", "repeat": 2, "tasks": (UPRIGHT,)} | changes
    return EnvironmentConfig.model_validate(values, strict=False)


def world(length=20, tasks=("upright",), picture=lambda drawn: drawn[::10, ::10], **changes) -> PictureEnv:
    return PictureEnv(config(**changes), tasks=tasks, length=length, picture=picture)


def test_a_task_is_done_while_its_condition_has_held_for_so_many_steps_and_its_event_is_the_first_of_them():
    watch = TaskWatch([RewardRule(kind="reward", name="twice", least=1.0, hold=2), RewardRule(kind="reward", name="once", least=1.0)])
    seen = [watch.step(None, float(reward), {}) for reward in (1, 1, 1, 0, 1, 1)]
    assert [done.tolist() for done, _ in seen] == [
        [False, True], [True, True], [True, True], [False, False], [False, True], [True, True],
    ]  # fmt: skip
    assert [events.tolist() for _, events in seen] == [[0, 1], [1, 0], [0, 0], [0, 0], [0, 1], [1, 0]]


def test_another_episode_forgets_what_held():
    watch = TaskWatch([RewardRule(kind="reward", name="twice", least=1.0, hold=2)])
    watch.step(None, 1.0, {})
    watch.restart()
    assert watch.step(None, 1.0, {})[1].tolist() == [0]


@pytest.mark.parametrize(
    ("state", "holds"),
    [((0.96, -0.2, 0.5), True), ((0.95, 9.0, -1.0), True), ((0.94, 0.0, 0.0), False), ((1.0, 0.0, 1.1), False)],
)
def test_a_state_is_between_its_bounds_entry_by_entry_where_there_are_any(state, holds):
    assert StateRule(**UPRIGHT | {"low": tuple(UPRIGHT["low"]), "high": tuple(UPRIGHT["high"])}).holds(np.array(state), 0.0, {}) is holds


def test_a_state_of_other_length_is_refused():
    rule = StateRule(kind="state", name="upright", low=(0.9,), high=(None,))
    with pytest.raises(UserError, match=r"task upright: low and high have 1 and 1 entries, the state \(3,\)"):
        rule.holds(np.zeros(3), 0.0, {})


def test_what_the_environment_tells_can_be_a_task():
    rule = InfoRule(kind="info", name="goal", key="is_success")
    assert rule.holds(None, 0.0, {"is_success": 1.0}) and not rule.holds(None, 0.0, {"is_success": 0.0})
    with pytest.raises(UserError, match="task goal: the environment's info has no is_success; it has success"):
        rule.holds(None, 0.0, {"success": True})


def test_names_of_tasks_differ_and_have_rules():
    with pytest.raises(ValueError, match="a name stands twice in upright, upright"):
        config(tasks=(UPRIGHT, UPRIGHT))
    with pytest.raises(UserError, match="environment Pendulum-v1: no rule for the task 'balanced'; there are rules for 'upright'"):
        world(tasks=("balanced",))


def test_an_episode_has_pictures_and_ends_at_its_step_limit():
    env = world(length=7)
    frame, info = env.reset(seed=3)
    assert (frame.dtype, frame.shape, info["events"].tolist()) == (np.uint8, (50, 50, 3), [0])
    ends = [env.step(np.zeros(1))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_an_action_is_kept_for_repeat_steps_and_the_rewards_are_summed():
    env, plain = world(), gymnasium.make("Pendulum-v1")
    env.reset(seed=5)
    plain.reset(seed=5)
    _, reward, *_, info = env.step(np.array([0.7]))
    steps = [plain.step(np.array([0.7], np.float32)) for _ in range(2)]
    np.testing.assert_allclose(info["state"], steps[1][0])
    assert reward == pytest.approx(steps[0][1] + steps[1][1])
    assert env.fps == 15


def test_actions_are_unscaled_and_cut_to_what_the_environment_takes():
    env = PictureEnv(config(), tasks=(), length=5, unscaled=lambda action: 1.5 * action + 0.5)
    assert [float(env.native(np.array([action]))[0]) for action in (0.5, 1.0, 4.0, -4.0)] == [1.25, 2.0, 2.0, -2.0]


def test_equal_seeds_are_equal_episodes_whatever_was_played_before():
    env = world()

    def played(seed):
        frames = [env.reset(seed=seed)[0]]
        return np.stack(frames + [env.step(np.array([0.1 * t]))[0] for t in range(6)])

    one, other, again = played(1), played(2), played(1)
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "CartPole-v1"}, r"CartPole-v1: has the actions Discrete\(2\); only a Box with one axis can be played"),
        ({"id": "Pendulumm-v1"}, "Pendulumm-v1: cannot be made .*look at id and kwargs"),
        ({"id": "no_such_package:Pendulum-v1"}, "cannot be made .*no_such_package"),
        ({"kwargs": {"gravity": 9.0}}, "Pendulum-v1: cannot be made .*gravity"),
        ({"kwargs": {"render_mode": None}}, "Pendulum-v1: has no rgb_array rendering"),
    ],
)
def test_what_cannot_be_played_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        world(**changes)


def test_a_configuration_is_the_same_after_json():
    text = config(kwargs={"g": 9.0}).model_dump_json()
    assert EnvironmentConfig.model_validate_json(text) == config(kwargs={"g": 9.0})
