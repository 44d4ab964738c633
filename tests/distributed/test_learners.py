"""Learners that fail, hang or are lost, as the driver sees them: learners without a model, the real board and the real driver's loop."""

import logging
import os
import shutil
import time
from pathlib import Path

import pytest
import ray

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import board as board_module
from dreamer_ray.distributed import imagine, learner
from dreamer_ray.distributed.board import Board, answer, watched
from dreamer_ray.distributed.elastic_pool import ElasticPool
from dreamer_ray.distributed.restarts import MOST_IN_VAIN
from dreamer_ray.errors import RunError
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe

TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


@ray.remote(num_cpus=0.1)
class FatefulLearner:
    """Learns nothing; ``fate`` befalls the first one of a run, or ``always`` each."""

    def __init__(self, recipe: str, run: str, rank: int):
        self.folder = Path(run)
        self.rank, self.fate = rank, (self.folder / "fate").read_text()
        self.first = not (self.folder / "begun").exists()
        (self.folder / "begun").touch()

    def run(self, session, replicas, store, board, address):
        board.beat.remote(self.rank)
        if self.first or self.fate.startswith("always"):
            if "foreign" in self.fate:
                raise ValueError("CUDA error: an illegal memory access was encountered")
            if "hangs" in self.fate:
                time.sleep(600)
            if "dies" in self.fate:
                os._exit(1)
        if self.first and self.fate == "loses the board":
            ray.kill(board, no_restart=False)
            given_up = time.monotonic() + 60
            while ray.get(board.enlisted.remote()) is None:
                board.beat.remote(self.rank)
                assert time.monotonic() < given_up, "the board does not know who is in the pool"
                time.sleep(0.2)
        return {"lost_calls": 0}


@pytest.fixture
def supervised(local_ray, tmp_path, monkeypatch, caplog):
    """The figures of a run whose learner has this fate, and what was said."""
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)
    monkeypatch.setattr(imagine, "Learner", FatefulLearner)
    monkeypatch.setattr(imagine, "silent_seconds", lambda cluster: 3.0)
    monkeypatch.setattr(imagine, "SECONDS_BETWEEN_LOOKS", 0.5)

    def act(fate: str):
        (tmp_path / "fate").write_text(fate)
        recipe = load_config(Recipe, TOY, [])
        places = imagine._places(recipe)
        try:
            with watched(Progress("imagination", 8, "updates"), tmp_path / "imagination" / "checkpoints") as board:
                pool = ElasticPool(lambda place, number: None, board, 0, lambda: None)
                return imagine._supervise(recipe, tmp_path, pool, None, board, places), caplog.messages
        finally:
            ray.util.remove_placement_group(places)

    return act


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        ("foreign", "ValueError: CUDA error: an illegal memory access was encountered"),
        ("dies", "ActorDiedError"),
        ("hangs", "no update for 3 s, taken for hung"),
    ],
)
def test_a_learner_that_fails_dies_or_hangs_is_told_of_and_replaced(supervised, fate, why):
    figures, said = supervised(fate)
    assert figures["learner_restarts"] == 1
    (line,) = [message for message in said if "is lost" in message]
    assert line.startswith(f"imagination: learner 0 is lost ({why}")
    assert line.endswith("started again from step 0")


def test_a_board_that_is_lost_hears_again_who_is_in_the_pool(supervised):
    assert supervised("loses the board")[0]["learner_restarts"] == 0


def test_imagination_that_ends_before_its_last_step_is_not_done(local_ray, toy, tmp_path, monkeypatch):
    """As where an error of ours, which ended the learner, was lost with the board."""
    monkeypatch.setattr(imagine, "Learner", FatefulLearner)
    run = shutil.copytree(toy[0], tmp_path / toy[0].name)
    (run / "fate").write_text("ends")
    recipe = load_config(Recipe, TOY, ["imagination.fit.steps=16"])
    with pytest.raises(RunError, match="stage imagination: its workers ended at step 8 of 16 without an error; run again to resume"):
        imagine.imagine_and_learn(recipe, run, Progress("imagination", 16, "updates"))


def test_a_learner_hears_at_once_who_is_in_the_pool(local_ray, monkeypatch):
    monkeypatch.setattr(learner, "ROSTER_SECONDS", 30.0)
    board = Board.remote(0)
    look = learner._roster(board, 0)
    assert look() is None, "nobody has said"
    for members in (["one"], ["one", "another"], []):
        ray.get(board.enlist.remote(members))
        assert look() == members
    ray.kill(board)


@pytest.mark.slow
def test_a_learner_that_always_fails_ends_the_run_with_the_cause(supervised):
    with pytest.raises(RunError, match=rf"lost {MOST_IN_VAIN + 1} times .*last: learner 0 is lost \(ValueError: CUDA error") as ended:
        supervised("always foreign")
    assert str(ended.value).endswith("run again to resume from the last one")


def test_what_workers_tell_the_board_is_logged_once_of_a_topic(local_ray, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)
    with watched(Progress("imagination", 8, "updates"), tmp_path) as board:
        for line, topic in (("one", ""), ("two", ""), ("slow", "pace"), ("slower", "pace")):
            board.tell.remote(line, topic)
    assert [message for message in caplog.messages if message in ("one", "two", "slow", "slower")] == ["one", "two", "slow"]


def test_a_board_that_takes_long_to_start_again_is_waited_for(local_ray, monkeypatch):
    monkeypatch.setattr(board_module, "ANSWER_SECONDS", 0.01)
    board, tries = Board.remote(5), []

    def ask():
        tries.append(1)
        if len(tries) == 3:
            monkeypatch.setattr(board_module, "ANSWER_SECONDS", 60.0)
        return board.read.remote()

    assert answer(ask) == (5, {})
    ray.kill(board)
    monkeypatch.setattr(board_module, "LOST_SECONDS", 1.0)
    with pytest.raises(RunError, match="the board of the run has not answered for 1 s"):
        answer(board.read.remote)
