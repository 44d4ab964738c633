"""Runs that lose processes end as undisturbed ones: bitwise the same checkpoints (nothing lost, nothing done twice), and none stays on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint

LIMIT = 240.0
"""Seconds for a stage of the toy recipe, whatever happens to it."""


def named(name: str, pids: list[int]) -> list[int]:
    """Those that Ray calls so."""
    titles = {}
    for pid in pids:
        try:
            titles[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return [pid for pid, title in titles.items() if title.startswith(f"ray::{name}")]


class Stage:
    """One stage of a copy of the toy run, done again as ``arguments`` say, in a process of its own."""

    def __init__(self, toy: Path, folder: Path, command: Callable[..., list[str]], descendants, stage: str, *arguments: str):
        self.descendants = descendants
        self.folder, self.stage = shutil.copytree(toy, folder / toy.name), stage
        shutil.rmtree(self.folder / stage / "checkpoints")
        line = command(folder, "--only", stage, "--from", stage, *arguments)
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        self.given_up = time.monotonic() + LIMIT

    def kill(self, name: str, *, after: int) -> None:
        """Ends the process that Ray calls ``name`` at the first checkpoint from step ``after`` on."""
        while (checkpoint := self._newest()) is None or checkpoint < after:
            assert self.process.poll() is None, "the run had ended before anything was lost"
            assert time.monotonic() < self.given_up
            time.sleep(0.02)
        while not (found := named(name, self.descendants(self.process.pid))):
            assert time.monotonic() < self.given_up
            time.sleep(0.02)
        os.kill(found[0], signal.SIGKILL)

    def end(self) -> tuple[Checkpoint, dict]:
        """Waits until all has ended; the last checkpoint and the figures of the stage."""
        begun = self.descendants(self.process.pid)
        said = self.process.communicate(timeout=self.given_up - time.monotonic())[1]
        assert self.process.returncode == 0, said
        while any(Path(f"/proc/{pid}").exists() for pid in begun):
            assert time.monotonic() < self.given_up, "no process stays behind"
            time.sleep(0.2)
        checkpoint = latest_checkpoint(self.folder / self.stage / "checkpoints")
        assert checkpoint is not None
        return checkpoint, json.loads((self.folder / self.stage / "manifest.json").read_text())["figures"]

    def _newest(self) -> int | None:
        steps = [int(path.name.removeprefix("step-")) for path in (self.folder / self.stage / "checkpoints").glob("step-*")]
        return max(steps, default=None)


@pytest.fixture
def begin(toy, toy_command, tmp_path, descendants):
    """Starts a stage of a copy of the toy run; what is left of it ends with the test."""
    begun = []

    def start(stage: str, *arguments: str) -> Stage:
        begun.append(Stage(toy[0], tmp_path / str(len(begun)), toy_command, descendants, stage, *arguments))
        return begun[-1]

    yield start
    for stage in begun:
        for pid in [*descendants(stage.process.pid), stage.process.pid] if stage.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


LONGER = ("imagination.fit.steps=40", "imagination.fit.checkpoint_every=5")


@pytest.mark.timeout(600)
def test_imagination_loses_its_learner_a_replica_and_the_store(begin):
    wanted, _ = begin("imagination", *LONGER).end()
    disturbed = begin("imagination", *LONGER)
    disturbed.kill("Learner", after=5)
    disturbed.kill("WorldModelReplica", after=15)
    disturbed.kill("WeightStore", after=25)
    found, figures = disturbed.end()
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1
    assert figures["lost_calls"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_imagination_over_links_ends_as_over_the_object_store_whatever_it_loses(begin):
    wanted, _ = begin("imagination", *LONGER).end()
    undisturbed, figures = begin("imagination", *LONGER, "cluster.weight_transport=gloo").end()
    assert undisturbed.checksums == wanted.checksums
    assert (figures["learner_restarts"], figures["lost_calls"]) == (0, 0)
    disturbed = begin("imagination", *LONGER, "cluster.weight_transport=gloo")
    disturbed.kill("Learner", after=5)
    disturbed.kill("WorldModelReplica", after=15)
    disturbed.kill("WeightStore", after=25)
    found, figures = disturbed.end()
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1
    assert figures["lost_calls"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_imagination_loses_one_of_two_learners(begin):
    two = (*LONGER, "cluster.learners=2", "cluster.cpus=6")
    wanted, _ = begin("imagination", *two).end()
    disturbed = begin("imagination", *two)
    disturbed.kill("Learner", after=10)
    found, figures = disturbed.end()
    assert found.checksums == wanted.checksums
    assert figures["learner_restarts"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_loses_a_loader_and_a_worker(begin, toy):
    disturbed = begin("dynamics", "dynamics.fit.checkpoint_every=5")
    disturbed.kill("Map", after=5)
    disturbed.kill("RayTrainWorker", after=15)
    found, _ = disturbed.end()
    wanted = latest_checkpoint(toy[0] / "dynamics" / "checkpoints")
    assert wanted is not None
    assert found.checksums == wanted.checksums


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pool_loses_a_node_with_what_lay_there_and_gets_another():
    script = Path(__file__).with_name("node_loss.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seen"] == list(range(3 * 16))
    assert found["replicas"]["without the node"] == 1.0
    assert found["replicas"]["with another"] == 4.0
    assert found["lost"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_grows_with_the_pool_and_gives_back_what_it_does_not_need():
    script = Path(__file__).with_name("autoscaling.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seen"] == list(range(len(found["seen"])))
    assert (found["nodes"][0], max(found["nodes"]), found["nodes"][-1]) == (0, 3, 1)
    assert found["replicas"] == 1.0
