"""Imagination training that loses a process every 20 seconds for 20 minutes: it ends as if it had lost none, and its memory does not grow.

SOAK_SECONDS in the environment makes it shorter or longer.
"""

import json
import os
import random
import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

SECONDS = float(os.environ.get("SOAK_SECONDS", "1200"))
BETWEEN = 20.0
VICTIMS = ("Learner", "WorldModelReplica", "WeightStore", "Board", "RoundEvaluator")
CALIBRATION = 40
"""Updates by which it is measured how many fill the time."""
SHARE = 0.65
"""Of its speed that a run which loses so much is expected to keep."""
MB = 2**20


def settings(updates: int) -> tuple[str, ...]:
    playing = ("cluster.evaluators=1", "evaluation.round_worlds=6")
    return (f"imagination.fit.steps={updates}", "imagination.fit.checkpoint_every=5", *playing)


def memory(processes) -> int:
    """Bytes of all together, what they share counted once."""
    total = 0
    for process in processes:
        try:
            total += sum(
                int(kb) for kb in re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
            )
        except OSError:
            continue
    return total * 1024


def in_store(processes) -> int | None:
    """Bytes of the objects that are referred to, by what the node says of itself every ten seconds."""
    for raylet in processes:
        with suppress(OSError):
            session = re.search(r"--store_socket_name=(\S+?)/sockets/", Path(f"/proc/{raylet.pid}/cmdline").read_text().replace("\0", " "))
            if raylet.called("raylet") and session is not None:
                said = re.search(r"pinned objects size: (\d+)", (Path(session[1]) / "logs" / "debug_state.txt").read_text())
                return int(said[1]) if said else None
    return None


def assert_flat(figures: list[int], *, slack: float) -> None:
    third = len(figures) // 3
    assert third > 2
    first, last = median(figures[:third]), median(figures[-third:])
    assert last <= first + slack, (first, last, figures)


def disturb(run, seed: int) -> tuple[Counter, list[int], list[int]]:
    """Ends a random process of ``run`` every 20 seconds until it has ended; who, and memory and store in the course of time."""
    chance, killed, used, stored = random.Random(seed), Counter(), [], []
    due = time.monotonic() + BETWEEN
    while run.process.poll() is None:
        assert time.monotonic() < run.given_up, run.said.read_text()
        alive = run.look()
        there = sorted((kind, each.pid, each) for each in alive for kind in VICTIMS if each.called(kind))
        if there and time.monotonic() >= due:  # there is none while the run begins and when it ends
            kind = chance.choice(sorted({kind for kind, _, _ in there}))
            chance.choice([each for found, _, each in there if found == kind]).kill()
            killed[kind] += 1
            due += BETWEEN
        elif run.newest() is not None:
            used.append(memory(alive))
            stored += [found] if (found := in_store(alive)) is not None else []
        time.sleep(2)
    return killed, used, stored


@pytest.mark.slow
@pytest.mark.timeout(6 * SECONDS + 600)
def test_a_soak(begin_stage):
    calibration = begin_stage("imagination", *settings(CALIBRATION), limit=SECONDS / 2 + 240)
    calibration.end()
    lines = (calibration.folder / "imagination" / "metrics.jsonl").read_text().splitlines()
    updates = round(SHARE * SECONDS * median(json.loads(line)["steps_per_second"] for line in lines))
    wanted, _ = begin_stage("imagination", *settings(updates), limit=2 * SECONDS + 240).result()
    disturbed = begin_stage("imagination", *settings(updates), limit=4 * SECONDS + 240)
    begun = time.monotonic()
    killed, used, stored = disturb(disturbed, seed=0)
    seconds = time.monotonic() - begun
    found, figures = disturbed.result()
    print(f"{updates} updates in {seconds:.0f} s, killed {dict(killed)}; MiB of memory {[int(bytes_ / MB) for bytes_ in used[::30]]}")
    assert (found.step, found.checksums) == (updates, wanted.checksums)
    assert killed.total() >= 0.8 * (seconds - 60) / BETWEEN
    assert bool(killed["Learner"]) <= figures["learner_restarts"] <= killed["Learner"]
    assert_flat(used, slack=0.1 * median(used) + 50 * MB)
    assert_flat(stored, slack=10 * MB)
