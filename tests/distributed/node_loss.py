"""A pool over nodes of different sizes that lose one and get another; prints what came of it as JSON. In a process of its own: its Ray
has several nodes. Replicas only count; they ask for a node that is kept for replicas.
"""

import json
import sys
import time

import ray
import torch
from ray.cluster_utils import Cluster

from dreamer_ray.cluster_section import REPLICA_RESOURCE
from dreamer_ray.distributed.replica_pool import ReplicaPool
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.types import Trajectory

CALLS, STEPS = 3, 16


@ray.remote(num_cpus=0, max_restarts=-1, resources={REPLICA_RESOURCE: 1})
class CountingReplica:
    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        time.sleep(0.2)
        # Large enough to lie in the object store of the replica's node, and to be lost with it.
        states, one = torch.full((1, 2, 100_000), float(call)), torch.zeros(1, 1)
        return Trajectory(states, {"action": one}, one, one, torch.zeros(1, dtype=torch.long), version)


def main() -> None:
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    two = cluster.add_node(num_cpus=2, resources={REPLICA_RESOURCE: 2}, **small)
    cluster.add_node(num_cpus=1, resources={REPLICA_RESOURCE: 1}, **small)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        pool = ReplicaPool([CountingReplica.remote() for _ in range(4)], Schedule(CALLS, 1), "s")
        seen, replicas = [], {}
        for update, batch in enumerate(pool.updates(0, STEPS)):
            seen += batch.states[:, 0, 0].int().tolist()
            if update == 4:
                cluster.remove_node(two, allow_graceful=False)
            if update == 9:
                replicas["without the node"] = pool.counts()["replicas"]
                cluster.add_node(num_cpus=2, resources={REPLICA_RESOURCE: 3}, **small)
        given_up = time.monotonic() + 60
        while sum(seat.ready for seat in pool.seats) < 4 and time.monotonic() < given_up:
            pool._collect()
        replicas["with another"] = pool.counts()["replicas"]
    finally:
        ray.shutdown()
        cluster.shutdown()
    json.dump({"seen": seen, "replicas": replicas, "lost": pool.schedule.lost}, sys.stdout)


if __name__ == "__main__":
    main()
