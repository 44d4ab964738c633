"""`dreamer-ray run` with these arguments on a cluster that grows and shrinks on demand, by Ray's own provider of made-up nodes.

The run's pool is to have 3 replicas, each on a node of its own, and 1 once all 3 have dreamed. Prints, as JSON, how many nodes there were
before the run and at each look of its driver at the pool; ends with the exit code of the run. In processes of its own, found and ended by
their folder of temporary files: Ray's own way would stop every Ray on the machine.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import ray

from dreamer_ray.cli.main import main as dreamer_ray
from dreamer_ray.cluster_section import REPLICA_RESOURCE
from dreamer_ray.distributed import imagine

MOST = 3


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
                "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
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
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=4", "--object-store-memory=83886080", f"--temp-dir={folder}"]
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


class Wanted:
    """How many replicas there should be, in the place of what idle times say."""

    def __init__(self, metrics: Path):
        self.metrics, self.nodes, self.shrunk = metrics, [nodes()], False

    def __call__(self, count: int, **shares: float) -> int:
        self.nodes.append(nodes())
        dreaming = json.loads(self.metrics.read_text().splitlines()[-1])["replicas"]
        self.shrunk = self.shrunk or dreaming == MOST
        return 1 if self.shrunk else MOST


def main(metrics: str, *arguments: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with growing_cluster(MOST) as address:
        ray.init(address=address, log_to_driver=False)
        wanted = Wanted(Path(metrics))
        ray.shutdown()
        imagine.useful_replicas, imagine.SECONDS_BETWEEN_LOOKS = wanted, 1.0
        os.environ["RAY_ADDRESS"] = address
        try:
            dreamer_ray(list(arguments))
        finally:
            print(json.dumps(wanted.nodes))


if __name__ == "__main__":
    main(*sys.argv[1:])
