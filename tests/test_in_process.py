"""Stages without Ray: jobs side by side, and stopping in time."""

import os
from math import factorial
from pathlib import Path

import pytest
import torch

from dreamer_ray.config_file import load_config
from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.in_process import processes, refuse_missing_gpu, until
from dreamer_ray.recipe import Recipe
from dreamer_ray.training.loop import FitConfig
from dreamer_ray.training.optimizer import OptimizerConfig


class Clock:
    """Moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = -1.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def take(pairs, done: list) -> None:
    """Keeps what came before an error."""
    for pair in pairs:
        done.append(pair)  # noqa: PERF402


def test_without_a_limit_it_is_never_over():
    assert not Deadline(None, Clock()).over
    limited = Deadline(2, Clock())
    assert [limited.over for _ in range(3)] == [False, True, True]


def test_one_process_does_its_jobs_in_order_until_the_time_is_over():
    with processes(1, Deadline()) as spread:
        assert list(spread(factorial, [3, 1, 2])) == [(3, 6), (1, 1), (2, 2)]
    done = []
    with processes(1, Deadline(3, Clock())) as spread, pytest.raises(OutOfTimeError, match="stopped after 3 s"):
        take(spread(factorial, range(5)), done)
    assert done == [(0, 1), (1, 1)]


def test_several_processes_do_all_jobs_and_hand_on_errors():
    with processes(2, Deadline()) as spread:
        assert dict(spread(factorial, range(6))) == {number: factorial(number) for number in range(6)}
        with pytest.raises(ValueError, match="negative"):
            list(spread(factorial, [3, -4]))
        assert list(spread(factorial, [])) == []
        with pytest.raises(RunError, match=r"lower cluster\.replicas"):
            list(spread(os._exit, [7]))


def test_what_was_begun_is_finished_after_the_time_and_the_rest_is_left():
    deadline, done = Deadline(2, Clock()), []
    with processes(2, deadline) as spread, pytest.raises(OutOfTimeError):
        take(spread(factorial, range(40)), done)
    assert 0 < len(done) < 40
    assert all(result == factorial(job) for job, result in done)


def test_training_ends_right_after_a_checkpoint():
    config = FitConfig(steps=20, optimizer=OptimizerConfig(learning_rate=1e-3), checkpoint_every=5)
    drawn = []

    def batches(start: int):
        return iter(range(start, 20))

    deadline = Deadline(2, Clock())
    with pytest.raises(OutOfTimeError):
        take(until(deadline, batches, config)(0), drawn)
    assert drawn == [0, 1, 2, 3, 4], "the look at step 0 is in time, that at step 5 is not"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_done():
    recipe = load_config(Recipe, Path(__file__).parents[1] / "configs/crafter/reproduce_gpu.yaml")
    with pytest.raises(UserError, match=r"gpus_per_worker = 1.*there is no GPU; set all three to 0"):
        refuse_missing_gpu(recipe)
