"""When a stage gives up: not after many restarts, but after many in a row that no new checkpoint stands between."""

from hypothesis import given
from hypothesis import strategies as st

from dreamer_ray.distributed.restarts import MOST_IN_VAIN, Restarts, newest_step
from dreamer_ray.training.checkpoint import save_checkpoint


def test_restarts_with_a_new_checkpoint_between_them_may_be_any_number():
    restarts = Restarts(0)
    for step in range(5, 5000, 5):
        restarts.count(step)
        assert not restarts.too_many
    assert restarts.all == 999


def test_restarts_in_vain_end_it_also_after_progress():
    restarts = Restarts(0)
    for step in (5, 5, 5, 10, *[15] * MOST_IN_VAIN):
        restarts.count(step)
        assert not restarts.too_many
    restarts.count(15)
    assert restarts.too_many
    assert restarts.in_vain == MOST_IN_VAIN + 1


@given(st.lists(st.integers(0, 3), max_size=60))
def test_it_gives_up_exactly_after_too_many_in_a_row_without_a_step_forward(gains):
    restarts, step, row = Restarts(0), 0, 0
    for gain in gains:
        step, row = step + gain, 1 if gain else row + 1
        restarts.count(step)
        assert (restarts.in_vain, restarts.too_many) == (row, row > MOST_IN_VAIN)


def test_the_newest_step_is_that_of_the_last_committed_checkpoint(tmp_path):
    assert newest_step(tmp_path / "none") == 0
    for step in (5, 10):
        save_checkpoint(tmp_path, step, made_by={}, tensors={})
    (tmp_path / ".partial-00000015").mkdir()
    assert newest_step(tmp_path) == 10
