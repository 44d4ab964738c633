"""The pinned versions hold for both builds of torch: which one comes is for the package index to say, not for the file."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

LINES = (Path(__file__).parents[2] / "docker" / "constraints-cpu.txt").read_text().splitlines()
PINS = {(pin := Requirement(line)).name: pin for line in LINES if not line.startswith("#")}


@pytest.mark.parametrize("name", ["torch", "torchvision"])
@pytest.mark.parametrize("build", ["", "+cpu", "+cu130"])
def test_builds_for_cpus_and_for_gpus_have_the_pinned_version(name, build):
    (version,) = (each.version for each in PINS[name].specifier)
    assert PINS[name].specifier.contains(version + build)


def test_what_comes_with_one_build_alone_is_not_pinned():
    assert [name for name in PINS if name.startswith(("nvidia-", "cuda-", "triton"))] == []
