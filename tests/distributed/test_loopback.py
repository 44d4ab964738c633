"""Where the processes of a run listen: on the loopback interface and nowhere else, also those that train together."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

LISTENING = "0A"
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1, ::ffff:127.0.0.1, as the kernel writes them."""


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses at which these processes take connections, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(descriptor)  # noqa: PTH115
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == LISTENING and row[9] in inodes}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("dynamics", ["cluster.workers=2", "dynamics.fit.checkpoint_every=5"]),
        (
            "imagination",
            ["cluster.learners=2", "cluster.weight_transport=gloo", "cluster.evaluators=1", "imagination.fit.checkpoint_every=2"],
        ),
    ],
)
def test_a_run_listens_on_loopback_only(begin_stage, descendants, stage, arguments):
    running = begin_stage(stage, "cluster.cpus=6", *arguments)
    running.reach(2)
    found = listening([running.process.pid, *(process.pid for process in descendants(running.process.pid))])
    assert len(found) > 5, "Ray's own ports and those of the process groups"
    assert {address for address in found if address.split(":")[0] not in LOOPBACK} == set()
    running.result()
