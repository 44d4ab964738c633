"""The scripted player of Pendulum-v1: its motor cannot lift the pendulum, so it swings it up, and keeps it there."""

import gymnasium
import numpy as np

from dreamer_ray.envs.pendulum_player import swing_up

STEPS = 200


def upright(act, seed: int) -> np.ndarray:
    """Whether the pendulum stands upright at each step."""
    env, found = gymnasium.make("Pendulum-v1"), []
    state, _ = env.reset(seed=seed)
    for _ in range(STEPS):
        state, *_ = env.step(act(state))
        found.append(state[0] > 0.95 and abs(state[2]) < 1)
    return np.array(found)


def test_it_brings_the_pendulum_up_and_keeps_it_there_from_everywhere():
    assert all(upright(swing_up, seed)[-50:].all() for seed in range(40))


def test_it_starts_from_rest_where_it_hangs():
    assert abs(swing_up(np.array([-1.0, 0.0, 0.0]))[0]) == 2


def test_full_torque_to_one_side_does_not_reach_it():
    assert not any(upright(lambda _: np.array([2.0]), seed)[-50:].all() for seed in range(40))
