"""How a supervised stage begins, and how it ends: whole, or with an error that says how to go on."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import WorkerGroupError

from dreamer_ray.config_file import load_config
from dreamer_ray.deadline import Deadline
from dreamer_ray.distributed import train as module
from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.restarts import MOST_IN_VAIN
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


@pytest.fixture
def board(local_ray):
    board = Board.remote(0)
    yield board
    ray.kill(board)


def test_it_is_said_now_and_then_that_no_worker_is_at_work_but_not_while_one_beats(board, monkeypatch, caplog):
    monkeypatch.setattr(module, "SECONDS_OF_A_START", 2.0)

    def said_twice() -> None:
        caplog.clear()
        given_up = time.monotonic() + 60
        while caplog.text.count("stage tokenizer: no worker has been at work for") < 2:
            assert time.monotonic() < given_up
            time.sleep(0.1)

    with caplog.at_level("WARNING", "dreamer_ray"), module._told_to_wait("tokenizer", board):
        said_twice()
        for beat in range(40):
            ray.get(board.beat.remote(0))
            time.sleep(0.2)
            if beat == 15:
                caplog.clear()
        assert not caplog.text
        said_twice()


class StandIn:
    """In the place of Ray Train's trainers: each ends as the next of ``ends`` says, a checkpoint before its error."""

    def __init__(self, checkpoints: Path, ends: Iterable[tuple[int | None, Exception | None]]):
        self.checkpoints, self.ends, self.count = checkpoints, iter(ends), 0

    def fit(self) -> None:
        self.count += 1
        step, error = next(self.ends)
        if step is not None:
            save_checkpoint(self.checkpoints, step, made_by={}, tensors={})
        if error is not None:
            raise error


@pytest.fixture
def fit(board, monkeypatch, tmp_path):
    """Runs the stage with trainers that end so; how many there were."""

    def run(*ends: tuple[int | None, Exception | None]) -> int:
        trainer = StandIn(tmp_path / "tokenizer" / "checkpoints", ends)
        monkeypatch.setattr(module, "_trainer", lambda *_: trainer)
        module._fit("tokenizer", load_config(Recipe, TOY), tmp_path, board, Deadline())
        return trainer.count

    return run


LOST, FAILED = ActorDiedError(), WorkerGroupError("rank 0: CUDA error", {})


@pytest.mark.parametrize("error", [LOST, OutOfMemoryError("Ray's memory monitor ended it")])
def test_a_trainer_that_is_lost_before_a_checkpoint_is_replaced(fit, caplog, error):
    with caplog.at_level("WARNING", "dreamer_ray"):
        assert fit((None, error), (None, error), (None, None)) == 3
    lines = [record.message for record in caplog.records if "trainer" in record.message]
    assert [line.partition(" (")[0] for line in lines] == ["tokenizer: trainer 0 is lost", "tokenizer: trainer 1 is lost"]
    assert all(line.endswith("; started again from step 0") for line in lines)


def test_trainers_that_are_lost_again_and_again_end_the_run_with_the_true_reason(fit):
    with pytest.raises(
        RunError, match=rf"tokenizer: its trainer was lost {MOST_IN_VAIN + 1} times without a new checkpoint, last: ActorDied"
    ):
        fit(*[(None, LOST)] * MOST_IN_VAIN, (None, LOST))


def test_workers_that_fail_again_and_again_end_the_run_unless_there_is_a_new_checkpoint(fit):
    assert fit((5, FAILED), (10, FAILED), (None, LOST), (None, None)) == 4
    with pytest.raises(RunError, match=r"(?s)its workers failed up to 4 times without a new checkpoint, last with: .*CUDA error"):
        fit((15, FAILED), (None, FAILED))
