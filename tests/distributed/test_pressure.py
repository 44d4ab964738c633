"""A small object store under large weights, and under a slow learner: nothing piles up and nothing is spilled; see ``pressure.py``."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

SCRIPT = Path(__file__).with_name("pressure.py")
MB = 2**20


def under_pressure(what: str) -> dict:
    done = subprocess.run([sys.executable, str(SCRIPT), what], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_flat(figures: list[int], *, slack: int) -> None:
    third = len(figures) // 3
    assert median(figures[-third:]) <= median(figures[:third]) + slack


@pytest.mark.slow
def test_200_publishes_of_10_mb_through_a_store_of_80_that_two_replicas_read():
    found = under_pressure("publishes")
    assert len(found["used"]) == 200
    assert found["spilled"] == 0, "2 GB went through it: old versions were let go of as fast as new ones came"
    assert_flat(found["own"], slack=100 * MB)  # what it has goes up and down by whole publishes; one in ten that stayed would be more
    for versions in found["seen"]:
        assert versions == sorted(set(versions))
        assert versions[-1] == 199


@pytest.mark.slow
def test_a_slow_learner_bounds_what_its_replicas_dream_ahead():
    found = under_pressure("trajectories")
    assert found["calls"] == list(range(60 * 2))
    assert max(found["used"]) <= 40 * MB, "max_lag = 2: three updates ahead and the one in use, of two calls of 4 MB each, and a spare one"
    assert_flat(found["used"], slack=8 * MB)
    assert_flat(found["own"], slack=20 * MB)
    assert found["spilled"] == 0
