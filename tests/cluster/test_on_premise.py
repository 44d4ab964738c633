"""The on-premise cluster as it stands: its own start commands, on loopback, with a token.

This file is also the program that does it, in a network and a process space of its own: no port meets another Ray's, and when the program
ends the kernel ends all that it started.
"""

import fcntl
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
APART = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
REPLICAS, OBJECT_STORE, START_SECONDS = 2, 100 * 2**20, 90
DASHBOARD, HEAD = "http://127.0.0.1:8265", "127.0.0.1"
ENTRY = """
import json, os, ray
ray.init(log_to_driver=False)
kept = ray.remote(lambda: ray.get_runtime_context().get_node_id()).options(resources={"replica": 1}).remote()
nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
print("SEEN", json.dumps({"mode": os.environ["RAY_AUTH_MODE"], "node": nodes[ray.get(kept)], "nodes": list(nodes.values())}))
"""


def start(command: str, **resources: int) -> None:
    """As ``ray up`` does, which names the head and what a node has in variables."""
    has = json.dumps({"object_store_memory": OBJECT_STORE, **resources})
    variables = os.environ | {"RAY_HEAD_IP": HEAD, "RAY_OVERRIDE_RESOURCES": has}
    done = subprocess.run(["bash", "-c", command], env=variables, capture_output=True, text=True, check=False, timeout=START_SECONDS)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def submit(**variables: str) -> dict:
    """A trivial job, sent by a shell that has these variables."""
    (script := Path.home() / "entry.py").write_text(ENTRY)
    line = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", DASHBOARD, "--", "python", str(script)]
    done = subprocess.run(line, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=2 * START_SECONDS)
    return {"code": done.returncode, "output": done.stdout + done.stderr}


def loopback_up() -> None:
    """A new network has its loopback interface down."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


def two_nodes() -> bool:
    """Whether head and worker have joined."""
    line = [sys.executable, "-c", "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"]
    variables = os.environ | {"RAY_ADDRESS": f"{HEAD}:6379", "RAY_AUTH_MODE": "token"}
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False, timeout=START_SECONDS)
    return done.stdout.strip().endswith("2")


def play() -> dict:
    """Starts head and worker, submits with the token, without it and with a wrong one."""
    loopback_up()
    config = yaml.safe_load((ROOT / "cluster" / "on-premise.yaml").read_text())
    head, worker = ([line for line in config[f"{who}_start_ray_commands"] if "ray stop" not in line] for who in ("head", "worker"))
    assert len(head) == len(worker) == 1
    start(head[0])
    start(worker[0], CPU=2)
    deadline = time.monotonic() + START_SECONDS
    while not two_nodes():
        assert time.monotonic() < deadline, "no second node"
    return {
        "token": submit(RAY_AUTH_MODE="token"),
        "none": submit(RAY_AUTH_MODE="disabled"),
        "wrong": submit(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)),
    }


def prepare(home: Path) -> None:
    """What a machine has before Ray is started there: the token, the environment, and on the head the cluster as ``ray up`` prepared it."""
    from ray.autoscaler._private.util import prepare_config

    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").touch(mode=0o600)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    (home / "venv").symlink_to(sys.prefix)
    config = yaml.safe_load((ROOT / "cluster" / "on-premise.yaml").read_text())
    config |= {"min_workers": 0, "max_workers": 0, "provider": {"type": "local", "head_ip": HEAD, "worker_ips": []}}
    (home / "ray_bootstrap_config.yaml").write_text(json.dumps(prepare_config(config)))


@pytest.fixture(scope="module")
def seen():
    """What ``play`` returns, played apart from this machine's network and processes."""
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network of their own here (unshare)")
    with tempfile.TemporaryDirectory(prefix="op-", ignore_cleanup_errors=True) as folder:
        prepare(home := Path(folder))
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        variables |= {"HOME": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        variables |= {"DREAMER_RAY_REPLICAS": str(REPLICAS)}
        line = [*APART, sys.executable, __file__, str(home / "seen.json")]
        done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads((home / "seen.json").read_text())


@pytest.mark.slow
def test_a_job_with_the_token_runs_where_replicas_have_room(seen):
    assert seen["token"]["code"] == 0, seen["token"]["output"]
    said = json.loads(next(line for line in seen["token"]["output"].splitlines() if line.startswith("SEEN ")).removeprefix("SEEN "))
    assert said["mode"] == "token"
    assert (said["node"]["CPU"], said["node"]["replica"]) == (2, REPLICAS)
    assert len(said["nodes"]) == 2
    assert [node.get("CPU", 0) for node in said["nodes"] if "replica" not in node] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "wrong"])
def test_a_job_without_the_token_is_refused(seen, how):
    assert seen[how]["code"] != 0
    assert "SEEN" not in seen[how]["output"]
    assert "Authenticat" in seen[how]["output"]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(play()))
