import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dreamer_ray.envs.crafter_paths import route


def cheapest(costs: np.ndarray, start: tuple[int, int], goals: np.ndarray) -> int | None:
    """Relaxes all tiles until nothing changes."""
    goals = goals.copy()
    goals[start] = False
    price = np.where(goals, 1, np.where(costs > 0, costs, 10_000))
    best = np.full(costs.shape, 10_000)
    best[start] = 0
    for _ in range(costs.size):
        around = np.pad(np.where(goals, 10_000, best), 1, constant_values=10_000)
        near = np.minimum.reduce([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
        best = np.minimum(best, near + price)
    found = best[goals].min(initial=10_000)
    return int(found) if found < 10_000 else None


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, (5, 4), elements=st.integers(0, 4)), arrays(bool, (5, 4)), st.integers(0, 4), st.integers(0, 3))
def test_cost_is_the_smallest(costs, goals, x, y):
    found = route(costs, (x, y), goals)
    assert (found.cost if found else None) == cheapest(costs, (x, y), goals)


def test_goes_around_a_wall():
    costs = np.ones((3, 3), np.int64)
    costs[1, :2] = 0
    goals = np.zeros((3, 3), bool)
    goals[2, 0] = True
    found = route(costs, (0, 0), goals)
    assert found is not None
    assert (found.step, found.cost, found.arrives) == ((0, 1), 6, False)


def test_ties_go_left_right_up_down():
    goals = np.zeros((3, 3), bool)
    goals[[0, 2, 0, 2], [0, 0, 2, 2]] = True
    costs = np.ones((3, 3), np.int64)
    found = route(costs, (1, 1), goals)
    assert found is not None
    assert found.step == (-1, 0)
    goals[:2] = False
    found = route(costs, (1, 1), goals)
    assert found is not None
    assert found.step == (1, 0)


def test_a_goal_beside_the_start_is_entered_even_if_blocked():
    goals = np.array([[False, True]])
    found = route(np.array([[1, 0]]), (0, 0), goals)
    assert found is not None
    assert found.arrives
    assert route(np.array([[1, 0, 1]]), (0, 0), np.array([[False, False, True]])) is None
