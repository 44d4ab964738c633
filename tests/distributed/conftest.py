"""One local Ray for all tests of the layer, and one toy run through the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

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


def _descendants(pid: int) -> list[int]:
    """All processes that ``pid`` has begun, directly or not."""
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(before.partition(" ")[0]): int(after.split()[1]) for before, _, after in stats}
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], list[int]]:
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
