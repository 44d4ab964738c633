"""Run as a process of its own: a pool with two fast replicas that share a GPU (a made-up one) and a slow one on a CPU, which only count.

Says which calls came, who did them and what the GPU had left.
"""

import json
import sys
import time

import ray
import torch

from dreamer_ray.cluster_section import ClusterSection
from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.imagine import ElasticPool
from dreamer_ray.distributed.replica_pool import ReplicaPool, TimedTrajectory
from dreamer_ray.distributed.replicas import device_of, replica_resources
from dreamer_ray.imagination.schedule import Schedule

CALLS, STEPS = 4, 40
SECONDS = {"cuda": 0.05, "cpu": 1.0}
SECTION = ClusterSection(replicas=2, gpus_per_replica=0.5, cpu_replicas=1, fewest_replicas=1)


@ray.remote(num_cpus=0.5)
class CountingReplica:
    """Says with each call which device it was started for."""

    def __init__(self, device: str):
        self.device = device

    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> TimedTrajectory:
        time.sleep(SECONDS[self.device])
        states, one = torch.full((1, 2, 1), float(call)), torch.zeros(1, 1)
        slow = torch.full((1,), int(self.device == "cpu"))
        return TimedTrajectory(states, {"action": one}, one, one, slow, version, seconds=SECONDS[self.device])


def start(place: int, number: int) -> ray.actor.ActorHandle:
    device = device_of(place, SECTION)
    return CountingReplica.options(**replica_resources(SECTION, device)).remote(device)


def run(replicas: list) -> dict:
    pool = ReplicaPool(replicas, Schedule(CALLS, 0), "s")
    ray.get([replica.ready.remote() for replica in replicas])
    seen, slow = [], 0
    for batch in pool.updates(0, STEPS):
        seen += batch.states[:, 0, 0].int().tolist()
        slow += int(batch.task.sum())
    return {"seen": seen, "slow": slow, "lost": pool.schedule.lost}


def main() -> None:
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    try:
        elastic = ElasticPool(start, Board.remote(0), SECTION.dreaming_replicas, lost=lambda: None)
        found: dict = {"mixed": run(elastic.replicas)}
        third = CountingReplica.options(**replica_resources(SECTION, "cuda")).remote("cuda")
        found["third on the GPU"] = len(ray.wait([third.ready.remote()], timeout=2)[0])
        ray.kill(third)
        whole = list(elastic.replicas)
        elastic.resize(2)
        found["after the first end"] = [whole.index(replica) for replica in elastic.replicas]
        found["fast"] = run(elastic.replicas)
    finally:
        ray.shutdown()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
