"""Training workers whose steps do not get on end themselves, and say so."""

import time

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.heartbeat import heartbeat

LIMIT = 5.0


@pytest.fixture
def board(local_ray):
    board = Board.remote(0)
    yield board
    ray.kill(board)


@ray.remote(num_cpus=1, max_retries=0)
def work(board, steps: int, pause: float) -> str:
    """A worker that does so many steps and then takes ``pause`` seconds for one."""
    with heartbeat(board, "tokenizer", 1, limit=LIMIT) as after_step:
        for step in range(steps):
            time.sleep(0.5)
            after_step(step + 1)
        time.sleep(pause)
    time.sleep(LIMIT + 1)
    return "done"


def test_a_worker_whose_step_hangs_ends_and_the_board_hears_why(board):
    begun = time.monotonic()
    with pytest.raises(WorkerCrashedError):
        ray.get(work.remote(board, 3, 600), timeout=300)
    assert time.monotonic() - begun > LIMIT
    (line,) = ray.get(board.told.remote())
    assert line.startswith("tokenizer: worker 1 has done no step for cluster.job_seconds = 5, is taken for hung and ended")
    assert ray.get(board.pulse.remote())[1] > 0


def test_a_worker_that_gets_on_lives_however_long_it_trains_and_after_it(board):
    assert ray.get(work.remote(board, 16, 0), timeout=300) == "done"
    assert ray.get(board.told.remote()) == []
    assert ray.get(board.pulse.remote())[1] > 1
