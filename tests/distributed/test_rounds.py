"""Evaluators beside imagination training: they play the newest weights, cost it nothing, and are replaced when lost."""

import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed.rounds import MOST_LOSSES, rounds_played
from dreamer_ray.distributed.weights import MissingWeightsError
from dreamer_ray.envs.crafter import LADDER, TASKS, CrafterConfig, CrafterWorlds
from dreamer_ray.evaluation.episodes import EpisodeResult, play
from dreamer_ray.evaluation.rounds import PLAYED, append_round, read_rounds, summarized
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.recipe import FIRST_ROUND_WORLD, Recipe
from dreamer_ray.stages import acting_agent, trained
from dreamer_ray.training.checkpoint import latest_checkpoint
from dreamer_ray.training.restore import restore_tokenizer

TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"
LIMIT = 400.0
RUNGS = {task: TASKS.index(task) for task in LADDER}


@ray.remote(num_cpus=0)
class Newest:
    """A store of version numbers, each told to as many as ask before the next; -1 says that there is none yet."""

    def __init__(self, versions: list[int], asked: int = 1):
        self.versions = [version for version in versions for _ in range(asked)]

    def read(self) -> int:
        return self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]


@ray.remote(num_cpus=0)
class Evaluator:
    """Plays without any model; ``fate`` befalls it in its first round if it is the first one."""

    def __init__(self, newest, number: int, fate: str):
        self.newest, self.number, self.fate = newest, number, fate

    def ready(self) -> None:
        if self.fate == "dies at once":
            os._exit(1)
        if self.fate == "hangs while it loads" and self.number == 0:
            time.sleep(600)

    def take(self) -> int:
        if (version := ray.get(self.newest.read.remote())) < 0:
            raise MissingWeightsError("the weight store is empty")
        return version

    def play(self, seeds: list[int]) -> list[EpisodeResult]:
        if self.number == 0 and seeds[0] > FIRST_ROUND_WORLD:
            if self.fate == "dies in mid-round":
                os._exit(1)
            if self.fate == "hangs":
                time.sleep(600)
        return [EpisodeResult(seed, [1] * len(TASKS), [1] * len(TASKS), 10, died=False) for seed in seeds]


@pytest.fixture
def played(local_ray, tmp_path, caplog, monkeypatch):
    """Plays rounds beside a training that publishes these versions and ends when these words were said; the rounds and what was said."""
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)

    def act(*overrides: str, versions: list[int], until: str | None = None, fate: str = "lives", asked: int = 1):
        (tmp_path / "imagination").mkdir(exist_ok=True)
        recipe = load_config(Recipe, TOY, ["cluster.evaluators=1", "evaluation.round_worlds=6", "cluster.call_seconds=60", *overrides])
        newest, actors = Newest.remote(versions, asked), []

        def start():
            actors.append(Evaluator.remote(newest, len(actors), fate))
            return actors[-1]

        with caplog.at_level(logging.INFO, "dreamer_ray"), rounds_played(recipe, tmp_path, start):
            wait_until(lambda: until is None or any(until in message for message in caplog.messages))
        for actor in actors:
            with pytest.raises(ray.exceptions.RayActorError):
                ray.get(actor.take.remote(), timeout=30)
        return read_rounds(tmp_path / "imagination"), caplog.messages

    return act


def wait_until(condition: Callable[[], bool]) -> None:
    given_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < given_up
        time.sleep(0.1)


def test_versions_are_played_in_the_worlds_of_rounds_and_told_of(played, tmp_path):
    rounds, said = played(versions=[-1, 0, 0, 5], until="version 5")
    assert [one.version for one in rounds] == [0, 5]
    for one in rounds:
        assert list(one.worlds) == list(range(FIRST_ROUND_WORLD, FIRST_ROUND_WORLD + 6))
    assert [message for message in said if "   version" in message] == [f"imagination   {one.line()}" for one in rounds]
    assert list((tmp_path / "imagination/tensorboard/played").glob("events*"))


def test_the_last_version_is_played_after_the_end_of_training(played):
    assert [one.version for one in played(versions=[7])[0]] == [7]


def test_where_nothing_was_published_there_is_nothing_to_wait_for(played):
    assert played(versions=[-1])[0] == []


def test_a_resumed_run_goes_on_with_newer_versions(played, tmp_path):
    (tmp_path / "imagination").mkdir()
    none = [EpisodeResult(seed, [0] * len(TASKS), [-1] * len(TASKS), 10, died=False) for seed in (1, 2)]
    before = summarized(5, none, RUNGS, seconds=1.0)
    append_round(tmp_path / "imagination", before)
    rounds, _ = played(versions=[4, 5, 6], until="version 6")
    assert [one.version for one in rounds] == [5, 6]
    assert rounds[0] == before


def test_several_evaluators_play_different_versions(played, tmp_path):
    played("cluster.evaluators=2", versions=[0, 1, 2, 3], asked=4, until="version 3")
    lines = [json.loads(line) for line in (tmp_path / "imagination" / PLAYED).read_text().splitlines()]
    assert sorted(line["version"] for line in lines) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fate", "seconds", "words"),
    [
        ("dies in mid-round", 60, "ActorDiedError"),
        ("hangs", 10, "call_seconds = 10"),
        ("hangs while it loads", 10, "call_seconds = 10"),
    ],
)
def test_a_lost_evaluator_costs_its_round_only(played, fate, seconds, words):
    rounds, said = played(f"cluster.call_seconds={seconds}", versions=[3], fate=fate, until="version 3")
    assert [one.version for one in rounds] == [3]
    (warning,) = [message for message in said if "is lost" in message]
    assert words in warning
    assert "started again" in warning


def test_an_evaluator_that_is_lost_again_and_again_is_given_up_and_nothing_waits_for_it(played):
    begun = time.monotonic()
    rounds, said = played("cluster.call_seconds=1000", versions=[3], fate="dies at once", until="given up")
    assert rounds == []
    lost = [message for message in said if "is lost" in message]
    assert ["given up" in message for message in lost] == [False] * (MOST_LOSSES - 1) + [True]
    assert time.monotonic() - begun < 120


def test_a_training_that_failed_does_not_wait_for_a_round(local_ray, tmp_path):
    (tmp_path / "imagination").mkdir()
    recipe = load_config(Recipe, TOY, ["cluster.evaluators=1", "cluster.call_seconds=1000", "evaluation.round_worlds=6"])
    newest, begun = Newest.remote([3]), time.monotonic()
    with pytest.raises(ZeroDivisionError), rounds_played(recipe, tmp_path, lambda: Evaluator.remote(newest, 0, "hangs")):
        raise ZeroDivisionError
    assert time.monotonic() - begun < 30


def offspring(pid: int) -> dict[int, str]:
    """Processes that ``pid`` has begun, directly or not, and what they are called."""
    found: dict[int, str] = {}
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # which have just ended
            for child in map(int, thread.read_text().split()):
                found |= {child: Path(f"/proc/{child}/cmdline").read_text()} | offspring(child)
    return found


@pytest.fixture
def imagination(toy, toy_command, tmp_path):
    """Begins the imagination stage of a copy of the toy run; its folder and its process, which end with the test."""
    begun = []

    def start(*arguments: str) -> tuple[Path, subprocess.Popen]:
        folder = shutil.copytree(toy[0], tmp_path / str(len(begun)) / toy[0].name)
        line = toy_command(folder.parent, "--only", "imagination", "--from", "imagination", "evaluation.round_worlds=6", *arguments)
        begun.append(subprocess.Popen(line, stderr=subprocess.PIPE, text=True))
        return folder, begun[-1]

    yield start
    for process in begun:
        for pid in [*offspring(process.pid), process.pid] if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


def weights(folder: Path) -> dict[str, str]:
    checkpoint = latest_checkpoint(folder / "imagination" / "checkpoints")
    assert checkpoint is not None
    return checkpoint.checksums


@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", ["object_store", pytest.param("gloo", marks=pytest.mark.slow)])
def test_training_with_an_evaluator_is_bitwise_the_training_without(toy, imagination, transport):
    folder, process = imagination("cluster.evaluators=1", f"cluster.weight_transport={transport}")
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 0, said
    assert weights(folder) == weights(toy[0])
    rounds = read_rounds(folder / "imagination")
    versions = [json.loads(line)["version"] for line in (folder / "imagination" / PLAYED).read_text().splitlines()]
    assert versions == sorted(set(versions)) == [one.version for one in rounds]
    assert versions[-1] == 8
    assert all(f"imagination   {one.line()}" in said for one in rounds)
    seeds = list(range(FIRST_ROUND_WORLD, FIRST_ROUND_WORLD + 6))
    assert all(list(one.worlds) == seeds for one in rounds)
    tokenizer, agent = restore_tokenizer(trained(folder, "tokenizer")), acting_agent(folder, "imagination")
    worlds = CrafterWorlds(CrafterConfig(size=72, length=40))
    alone = summarized(8, play(ActingSession(tokenizer, agent, seeds=seeds), seeds, worlds), RUNGS, seconds=rounds[-1].seconds)
    assert rounds[-1] == alone, "the round at the end of training is that of the trained agent"


@pytest.mark.timeout(900)
def test_evaluators_count_where_cpus_are_too_few(imagination):
    _, process = imagination("cluster.evaluators=2", "cluster.cpus=4")
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 2, said
    assert "cluster.evaluators = 2 with 1 each), the cluster has 4; raise cluster.cpus or lower" in said


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_an_evaluator_that_is_lost_in_mid_round_costs_the_run_nothing(imagination, number):
    longer = ("imagination.fit.steps=20", "imagination.fit.checkpoint_every=5")
    wanted, alone = imagination(*longer)
    assert alone.wait(LIMIT) == 0
    folder, process = imagination(*longer, "cluster.evaluators=1", "cluster.call_seconds=40")
    victim, given_up = None, time.monotonic() + LIMIT
    while victim is None:
        assert process.poll() is None
        assert time.monotonic() < given_up
        victim = next((pid for pid, title in offspring(process.pid).items() if title.startswith("ray::RoundEvaluator.play")), None)
    before = len(read_rounds(folder / "imagination"))
    os.kill(victim, number)
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 0, said
    assert weights(folder) == weights(wanted)
    assert said.count("evaluator 0 is lost") == 1
    rounds = read_rounds(folder / "imagination")
    assert len(rounds) > before
    assert rounds[-1].version == 20
