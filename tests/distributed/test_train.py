"""How a supervised stage begins, and how it ends: whole, or with an error that says how to go on."""

import time
from pathlib import Path

import pytest
import ray

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import train as module
from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.train import figures, starts
from dreamer_ray.errors import RunError
from dreamer_ray.recipe import Recipe
from dreamer_ray.training.checkpoint import save_checkpoint

TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


def test_a_stage_whose_last_checkpoint_is_an_earlier_one_is_not_done(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 5, made_by={}, tensors={})
    with pytest.raises(RunError, match="stage dynamics: its workers ended at step 5 of 10 without an error; run again"):
        figures("dynamics", checkpoint, 10)
    assert figures("dynamics", checkpoint, 5) == {"checkpoint": checkpoint.fingerprint, "steps": 5}


@pytest.mark.parametrize(("seconds", "attempts"), [(0, 15), (450, 15), (1800, 60)])
def test_workers_look_for_room_for_a_while_longer_than_a_cluster_takes_to_grow(seconds, attempts):
    assert starts(load_config(Recipe, TOY, [f"cluster.wait_seconds={seconds}"])) == attempts


@pytest.mark.usefixtures("local_ray")
def test_it_is_said_now_and_then_that_no_worker_has_begun_until_one_has(monkeypatch, caplog):
    monkeypatch.setattr(module, "SECONDS_OF_A_START", 0.5)
    board, given_up = Board.remote(0), time.monotonic() + 60
    try:
        with caplog.at_level("WARNING", "dreamer_ray"), module._told_to_wait("tokenizer", board):
            while caplog.text.count("stage tokenizer: no worker has begun for") < 2:
                assert time.monotonic() < given_up
                time.sleep(0.1)
            ray.get(board.beat.remote(0))
            time.sleep(1)
            caplog.clear()
            time.sleep(2)
            assert not caplog.text
    finally:
        ray.kill(board)
