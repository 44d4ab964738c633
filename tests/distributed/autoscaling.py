"""A pool on a cluster that grows and shrinks on demand, by Ray's own provider of made-up nodes; prints what came of it as JSON.

In processes of its own, found and ended by their folder of temporary files: Ray's own way would stop every Ray on the machine.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray
import torch

from dreamer_ray.cluster_section import REPLICA_RESOURCE
from dreamer_ray.distributed import replica_pool
from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.imagine import ElasticPool
from dreamer_ray.distributed.replica_pool import ReplicaPool
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.types import Trajectory

CALLS, STEPS = 3, 400


@ray.remote(num_cpus=0, max_restarts=-1, resources={REPLICA_RESOURCE: 1})
class CountingReplica:
    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        time.sleep(0.2)
        states, one = torch.full((1, 2, 1), float(call)), torch.zeros(1, 1)
        return Trajectory(states, {"action": one}, one, one, torch.zeros(1, dtype=torch.long), version)


@contextlib.contextmanager
def growing_cluster(most: int):
    """A head without room for replicas, and up to ``most`` nodes with room for one each; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        config = {
            "cluster_name": "made-up",
            "max_workers": most,
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "fake_multinode",
                "disable_node_updaters": True,
                "use_node_id_as_ip": True,
                "gcs_address": f"127.0.0.1:{port}",
            },
            "upscaling_speed": 1.0,
            "auth": {},
            "file_mounts": {},
            **{name: [] for name in ("cluster_synced_files", "initialization_commands", "setup_commands")},
            **{f"{kind}_{what}": [] for kind in ("head", "worker") for what in ("setup_commands", "start_ray_commands")},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
                "replicas": {
                    "resources": {"CPU": 1, REPLICA_RESOURCE: 1},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": most,
                },
            },
        }
        path = Path(folder) / "cluster.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--autoscaling-config={path}", f"--port={port}"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=83886080", f"--temp-dir={folder}"]
        environment = os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_raylet_start_wait_time_s": "120"}
        environment |= {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 * 2**20)}
        try:
            subprocess.run([*command, "--dashboard-port=0", "--disable-usage-stats"], env=environment, check=True, stdout=sys.stderr)
            yield f"127.0.0.1:{port}"
        finally:
            for pid in _of(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _of(folder: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                found.append(int(path.name))
    return [pid for pid in found if pid != os.getpid()]


def nodes() -> int:
    """Alive nodes besides the head."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def main() -> None:
    replica_pool.OUTAGE_LIMIT = 120.0
    with growing_cluster(most=3) as address:
        ray.init(address=address, log_to_driver=False)
        counts, board = [nodes()], Board.remote(0)
        elastic = ElasticPool(lambda _: CountingReplica.remote(), board, 3)
        pool = ReplicaPool(elastic.replicas, Schedule(CALLS, 1), "s", look=lambda: elastic.replicas)
        seen, shrunk = [], False
        begun = time.monotonic()
        for batch in pool.updates(0, STEPS):
            seen += batch.states[:, 0, 0].int().tolist()
            counts.append(nodes())
            if not shrunk and sum(seat.ready for seat in pool.seats) == 3:
                elastic.resize(1)
                shrunk = True
            if (shrunk and counts[-1] == 1) or time.monotonic() - begun > 150:
                break
        json.dump({"seen": seen, "nodes": counts, "replicas": pool.counts()["replicas"]}, sys.stdout)
        sys.stdout.flush()
        ray.shutdown()


if __name__ == "__main__":
    main()
