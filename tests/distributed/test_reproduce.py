"""A reproduction as Ray tasks is the one in a single process, world for world, in one go and in pieces."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamer_ray.cli.reproduce import UNFINISHED, shipped_recipe
from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.distributed.reproduce import _tasks
from dreamer_ray.errors import UserError

SCRIPT = """
import sys
from pathlib import Path
from dreamer_ray.loopback import bind_ray_to_loopback
bind_ray_to_loopback()
from dreamer_ray.config_file import load_config
from dreamer_ray.distributed.reproduce import reproduce_on_ray
from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.recipe import Recipe
from dreamer_ray.reproduce import Reproduction, reproduce

class Looks:
    # of which every process has its own: it ends the piece after a few looks

    def __init__(self, looks):
        self.left = looks

    def __call__(self):
        self.left -= 1
        return 0.0 if self.left >= 0 else 10.0


place, folder, path, *overrides = sys.argv[1:]
reproduction = Reproduction(load_config(Recipe, path, overrides), Path(folder), 2)
deadline = Deadline(1, Looks(3)) if place == "pieces" else Deadline()
try:
    (reproduce if place == "here" else reproduce_on_ray)(reproduction, deadline)
except OutOfTimeError as stopped:
    sys.exit(stopped.exit_code)
"""
OVERRIDES = [
    "data.crafter={size: 72, episodes: 5, holdout_episodes: 5, length: 100, noise: [0.0]}",
    "tokenizer.fit={steps: 6, optimizer: {learning_rate: 1e-3}, checkpoint_every: 3}",
    "tokenizer.batches.batch_size=4",
    "dynamics.fit={steps: 4, optimizer: {learning_rate: 1e-3}}",
    "agent.fit={steps: 4, optimizer: {learning_rate: 1e-3}, checkpoint_every: 2}",
    "agent.batches.batch_size=4",
    "imagination.contexts={batch_size: 4, length: 8, relevant_fraction: 1.0, lookahead: 4}",
    "imagination.dreams_per_call=2",
    "imagination.fit={steps: 2, optimizer: {learning_rate: 1e-3}, ema: 0.0}",
    "evaluation={worlds: 4, worlds_per_call: 2, length: 30, windows: 4, pictures: 16}",
    "cluster={threads: 1, object_store_mb: 100, cpus: 4, dashboard: false}",
]


def run(place: str, folder: Path) -> int:
    line = [sys.executable, "-c", SCRIPT, place, str(folder), str(shipped_recipe("imagination", "cpu")), *OVERRIDES]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode in (0, UNFINISHED), done.stderr
    return done.returncode


def found(folder: Path) -> tuple[dict, list]:
    values = json.loads((folder / "reproduce.json").read_text())
    return values["episodes"], values["effects"]


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    assert run("ray", folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_has_the_same_outcome_in_every_world_on_ray_and_in_one_process(on_ray, tmp_path):
    assert run("here", tmp_path) == 0
    assert found(tmp_path) == found(on_ray)
    assert {*found(tmp_path)[0]["imagination"]} == {"0", "1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray_it_stops_in_training_and_in_every_seed_and_goes_on_to_the_same_outcome(on_ray, tmp_path):
    shutil.copytree(on_ray / "phase-1", tmp_path / "phase-1")
    shutil.rmtree(tmp_path / "phase-1" / "tokenizer")
    assert run("pieces", tmp_path) == UNFINISHED
    stage = tmp_path / "phase-1" / "tokenizer"
    assert list((stage / "checkpoints").iterdir()) and not (stage / "manifest.json").exists(), "cut behind a checkpoint on Ray Train"
    shutil.rmtree(tmp_path / "phase-1")
    shutil.copytree(on_ray / "phase-1", tmp_path / "phase-1")
    pieces = 0
    while run("pieces", tmp_path) == UNFINISHED:
        pieces += 1
        assert pieces < 12
        if pieces == 1:
            begun = [tmp_path / f"seed-{seed}" / "agent" for seed in (0, 1)]
            assert all(list((agent / "checkpoints").iterdir()) for agent in begun), "each stops by itself, none is cut off by another"
    assert pieces >= 2
    assert found(tmp_path) == found(on_ray)


def sleep_or_stop(folder: Path) -> Callable[[float], float]:
    def job(seconds: float) -> float:  # workers know nothing of this module
        if not seconds:
            raise OutOfTimeError("stopped")
        time.sleep(seconds)
        (folder / f"{seconds}").touch()
        return seconds

    return job


def test_a_task_that_is_out_of_time_lets_the_others_come_to_their_stop(local_ray, tmp_path):
    with pytest.raises(OutOfTimeError, match="stopped"):
        list(_tasks(Deadline(), sleep_or_stop(tmp_path), [0, 1.5]))
    assert [file.name for file in tmp_path.iterdir()] == ["1.5"]


def test_after_the_deadline_no_task_begins_and_an_error_is_still_an_error(local_ray, tmp_path):
    with pytest.raises(OutOfTimeError, match="stopped after 0 s"):
        list(_tasks(Deadline(1e-9, time.time), sleep_or_stop(tmp_path), [0.1]))
    assert not list(tmp_path.iterdir())

    def mistake(job: int) -> None:
        raise UserError(f"job {job}")

    with pytest.raises(UserError, match="job 7"):
        list(_tasks(Deadline(), mistake, [7]))
