"""Publishes and dreams on a Ray whose object store is small, in a process of its own; prints what came of it as JSON.

    python pressure.py publishes      a learner publishes large heads, which two replicas fetch all the time
    python pressure.py trajectories   a learner that is slower than its replicas uses large trajectories

The numbers are bytes: of the store over time, spilled to disk in all, and the memory of the learner over time.
"""

import json
import sys
import time
from pathlib import Path

import ray
import torch
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from dreamer_ray.distributed import ZERO_COPY_TENSORS
from dreamer_ray.distributed.replica_pool import ReplicaPool
from dreamer_ray.distributed.weights import MissingWeightsError, ObjectStoreTransport, WeightStore
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.types import Trajectory

STORE_BYTES, HEAD_BYTES, CALL_BYTES = 80 * 2**20, 10 * 2**20, 4 * 2**20
PUBLISHES, UPDATES, CALLS, MAX_LAG = 200, 60, 2, 2


def memory() -> int:
    """What this process has in memory (bytes), without the object store."""
    (line,) = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:")]
    return int(line.split()[1]) * 1024


class Gauge:
    """Reads the store and the memory of this process."""

    def __init__(self):
        self.state = get_state_from_address(ray.get_runtime_context().gcs_address)
        self.used: list[int] = []
        self.own: list[int] = []

    def read(self) -> None:
        self.stats = get_memory_info_reply(self.state).store_stats
        self.used.append(self.stats.object_store_bytes_used)
        self.own.append(memory())

    def figures(self) -> dict:
        return {"used": self.used, "own": self.own, "spilled": self.stats.spilled_bytes_total}


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS)
class Reader:
    """Takes the newest heads into memory of its own, as a replica does, until it has those of a version."""

    def follow(self, store, last: int) -> list[int]:
        transport, heads, known, seen = ObjectStoreTransport(store), torch.zeros(HEAD_BYTES // 4), ("", -1), []
        while known[1] < last:
            try:
                newer = transport.fetch(known)
            except MissingWeightsError:
                time.sleep(0.05)
                continue
            if newer is not None:
                heads.copy_(newer[2]["policy"])
                known = newer[:2]
                assert (heads == known[1]).all()
                seen.append(known[1])
        return seen


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS)
class Publisher:
    def publish(self, store) -> dict:
        transport, gauge = ObjectStoreTransport(store), Gauge()
        for version in range(PUBLISHES):
            transport.publish("s", version, {"policy": torch.full((HEAD_BYTES // 4,), float(version))})
            gauge.read()
        return gauge.figures()


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS)
class Dreaming:
    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        states, one = torch.full((1, 1, CALL_BYTES // 4), float(call)), torch.zeros(1, 1)
        return Trajectory(states, {"action": one}, one, one, torch.zeros(1, dtype=torch.long), version)


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS)
class SlowLearner:
    def learn(self, replicas) -> dict:
        pool, gauge, calls = ReplicaPool(replicas, Schedule(CALLS, MAX_LAG), "s"), Gauge(), []
        for batch in pool.updates(0, UPDATES):
            calls += batch.states[:, 0, 0].int().tolist()
            del batch
            time.sleep(0.3)
            gauge.read()
        return gauge.figures() | {"calls": calls}


def main() -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False)
    try:
        if sys.argv[1] == "publishes":
            store = WeightStore.remote("")
            reading = [Reader.remote().follow.remote(store, PUBLISHES - 1) for _ in range(2)]
            found = ray.get(Publisher.remote().publish.remote(store), timeout=200)
            found["seen"] = ray.get(reading, timeout=60)
        else:
            found = ray.get(SlowLearner.remote().learn.remote([Dreaming.remote() for _ in range(2)]), timeout=200)
    finally:
        ray.shutdown()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
