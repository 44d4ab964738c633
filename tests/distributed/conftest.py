"""One local Ray for all tests of the layer, one toy run through the command line, and commands to which something happens."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray

from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint

RECIPE = Path(__file__).parents[2] / "configs/crafter/toy.yaml"


@pytest.fixture(scope="session")
def local_ray():
    ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def command(runs: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dreamer_ray", "run", str(RECIPE), "--runs", str(runs), "cluster.dashboard=false", *arguments]


def run(runs: Path, *arguments: str) -> str:
    done = subprocess.run(command(runs, *arguments), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@dataclass(frozen=True)
class Process:
    """A process; its number may be given to another one once it has ended."""

    pid: int
    started: int

    def alive(self) -> bool:
        return (stat := _stat(self.pid)) is not None and stat[1] == self.started

    def kill(self) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def called(self, name: str) -> bool:
        """Whether this is its program, or so begins what Ray calls it."""
        try:
            title = Path(f"/proc/{self.pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
        except OSError:
            return False
        return title.startswith(f"ray::{name}") or Path(title).name == name


def _stat(pid: int | str) -> tuple[int, int] | None:
    """Parent and time of start of a process that has not ended."""
    try:
        state, parent, *values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else (int(parent), int(values[17]))


def _table() -> dict[int, tuple[int, int]]:
    found = {int(path.name): _stat(path.name) for path in Path("/proc").glob("[0-9]*")}
    return {pid: stat for pid, stat in found.items() if stat is not None}


def _descendants(pid: int) -> list[Process]:
    """All processes that ``pid`` has begun, directly or not."""
    table, found = _table(), [pid]
    for ancestor in found:
        found += [child for child, (parent, _) in table.items() if parent == ancestor]
    return [Process(child, table[child][1]) for child in found[1:]]


class Command:
    """A command in a process of its own, with all that it begins, for ``limit`` seconds at most."""

    def __init__(self, line: list[str], said: Path, *, limit: float, **variables: str):
        self.line, self.said, self.variables = line, said, os.environ | variables
        self.begun: set[Process] = set()
        self.given_up = time.monotonic() + limit
        self.start()

    def start(self) -> None:
        """Begins it, or begins it anew."""
        with self.said.open("w") as file:
            self.process = subprocess.Popen(self.line, stderr=file, stdout=file, env=self.variables)

    def wait(self, happened: Callable[[], object]) -> None:
        """Until ``happened`` says so."""
        while not happened():
            assert self.process.poll() is None, f"it had ended before: {self.said.read_text()}"
            assert time.monotonic() < self.given_up, self.said.read_text()
            time.sleep(0.02)

    def look(self) -> set[Process]:
        """What it has begun that is alive."""
        found = set(_descendants(self.process.pid))
        self.begun |= found
        return found

    def kill(self, name: str) -> None:
        """Ends one of its processes of this name, as soon as there is one."""
        found: list[Process] = []
        self.wait(lambda: found or found.extend(each for each in self.look() if each.called(name)))
        found[0].kill()

    def end(self, code: int = 0) -> str:
        """Waits until it and all that it began have ended; what it said."""
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < self.given_up, self.said.read_text()
            time.sleep(0.2)
        said = self.said.read_text()
        assert self.process.returncode == code, said
        while left := [each for each in self.begun if each.alive()]:
            assert time.monotonic() < self.given_up, f"{left} stay behind: {said}"
            time.sleep(0.2)
        return said

    def stop(self) -> None:
        """Ends whatever is left of it."""
        if self.process.poll() is None:
            self.look()
            self.process.kill()
            self.process.wait()
        for each in self.begun:
            each.kill()


class Stage(Command):
    """One stage of a copy of the toy run, done again as ``arguments`` say."""

    def __init__(self, toy: Path, folder: Path, stage: str, *arguments: str, limit: float, **variables: str):
        self.folder, self.stage = shutil.copytree(toy, folder / toy.name), stage
        shutil.rmtree(self.folder / stage)
        super().__init__(command(folder, "--only", stage, *arguments), folder / "said", limit=limit, **variables)

    def reach(self, step: int) -> None:
        """Waits for a checkpoint of this step or a later one."""
        self.wait(lambda: (self.newest() or 0) >= step)

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        steps = [int(path.name.removeprefix("step-")) for path in (self.folder / self.stage / "checkpoints").glob("step-*")]
        return max(steps, default=None)

    def result(self) -> tuple[Checkpoint, dict]:
        """The last checkpoint and the figures of the stage, once all has ended."""
        self.end()
        checkpoint = latest_checkpoint(self.folder / self.stage / "checkpoints")
        assert checkpoint is not None
        return checkpoint, json.loads((self.folder / self.stage / "manifest.json").read_text())["figures"]


LIMIT = 400.0
"""Seconds for a stage of the toy recipe, whatever happens to it, on a slow machine."""


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., Command]]:
    """Starts a command; what is left of it ends with the test."""
    begun: list[Command] = []

    def start(line: list[str], *, limit: float = LIMIT, **variables: str) -> Command:
        begun.append(Command(line, tmp_path / f"said-{len(begun)}", limit=limit, **variables))
        return begun[-1]

    yield start
    for each in begun:
        each.stop()


@pytest.fixture
def begin_stage(toy, tmp_path) -> Iterator[Callable[..., Stage]]:
    """Starts a stage of a copy of the toy run; what is left of it ends with the test."""
    begun: list[Stage] = []

    def start(stage: str, *arguments: str, limit: float = LIMIT, **variables: str) -> Stage:
        begun.append(Stage(toy[0], tmp_path / f"stage-{len(begun)}", stage, *arguments, limit=limit, **variables))
        return begun[-1]

    yield start
    for each in begun:
        each.stop()


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], list[Process]]:
    """All processes that one has begun, directly or not."""
    return _descendants


@pytest.fixture(scope="session")
def toy_command() -> Callable[..., list[str]]:
    """The command line of a toy run into a folder."""
    return command


@pytest.fixture(scope="session")
def dreamer_run() -> Callable[..., str]:
    """Runs the toy recipe into a folder and returns what was said."""
    return run


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> tuple[Path, str]:
    """The folder of one whole toy run, and what it said."""
    runs = tmp_path_factory.mktemp("runs")
    return runs / "crafter-toy", run(runs)


@dataclass(eq=False)
class VirtualCall:
    """A reference to what will be there at a time of the virtual clock."""

    ends: float
    result: Any


@dataclass
class VirtualRay:
    """Stands where a module has ``ray`` and ``time``: waiting moves its clock to the next end of a call."""

    now: float = 0.0
    call = VirtualCall

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, calls: list[VirtualCall], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[VirtualCall], list[VirtualCall]]:
        if not any(call.ends <= self.now for call in calls):
            self.now = max(self.now, min(self.now + timeout, *(call.ends for call in calls)))
        there = [call for call in calls if call.ends <= self.now][:num_returns]
        return there, [call for call in calls if call not in there]

    def get(self, call: VirtualCall) -> Any:
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def kill(self, actor: Any, *, no_restart: bool = True) -> None:
        actor.kill(no_restart=no_restart)


@pytest.fixture
def in_virtual_time(monkeypatch) -> Callable[..., VirtualRay]:
    """Puts a new virtual clock and Ray into modules, until the test ends."""

    def install(*modules: ModuleType) -> VirtualRay:
        virtual = VirtualRay()
        for module, name in itertools.product(modules, ("ray", "time")):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, virtual)
        return virtual

    return install
