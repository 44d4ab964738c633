"""Jobs on a Ray that this file starts itself (token authentication on), through the command line as a user has it.

The folder that is submitted holds a ``dreamer_ray`` of its own, a few lines long, which a job runs then: so the way from the shell to the
run and back is tested without the minutes that a run takes. The slow test submits this repository.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dreamer_ray.training.checkpoint import latest_checkpoint

ROOT = Path(__file__).parents[2]
TOY = ROOT / "configs/crafter/toy.yaml"
TOKEN = "0123456789abcdef" * 4
SECONDS = 240


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Head:
    """A Ray head of its own, and the command line beside it."""

    address: str
    gcs: str
    environment: dict[str, str]
    process: subprocess.Popen

    def popen(self, verb: str, *words: object, environment: dict[str, str] | None = None, **options) -> subprocess.Popen:
        line = [sys.executable, "-m", "dreamer_ray", verb, "--address", self.address, *map(str, words)]
        environment = self.environment | {"PYTHONPATH": str(ROOT)} | (environment or {})
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT} | options
        return subprocess.Popen(line, text=True, env=environment, **options)

    def command(self, verb: str, *words: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """``dreamer-ray VERB ... --address`` of this head, to its end."""
        running = self.popen(verb, *words, environment=environment)
        try:
            out, err = running.communicate(timeout=SECONDS)
        finally:
            running.kill()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def join(self, folder: Path, *overrides: str, within: Sequence[str] = (), **variables: str) -> subprocess.CompletedProcess:
        """The first stage of a run that joins this cluster itself, without the home directory's token."""
        words = ["run", str(TOY), "--only", "record", "--runs", str(folder / "runs"), *overrides]
        line = [*within, sys.executable, "-m", "dreamer_ray", *words]
        environment = self.environment | {"PYTHONPATH": str(ROOT), "HOME": str(folder), "RAY_ADDRESS": self.gcs} | variables
        return subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)

    def ask(self, path: str, values: dict | None = None) -> dict:
        """The dashboard's answer."""
        request = urllib.request.Request(
            self.address + path,
            data=None if values is None else json.dumps(values).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait(self, job: str, *states: str) -> dict:
        """Details of a job once it is in one of these states."""
        deadline = time.monotonic() + SECONDS
        while (found := self.ask(f"/api/jobs/{job}"))["status"] not in states:
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
        return found


@contextmanager
def started(*extra: str, **variables: str) -> Iterator[Head]:
    """A head while the ``with`` lasts, with further options and environment variables."""
    ports = free_ports(6)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    options = [f"--{name}={port}" for name, port in zip(names, ports, strict=False)] + [f"--ray-client-server-port={ports[5]}"]
    options += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=4", f"--object-store-memory={100 * 2**20}", *extra]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path: it names sockets
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_TMPDIR": folder, "PATH": path} | variables
        line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
        head = Head(f"http://127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}", environment, process)
        try:
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    head.ask("/api/jobs/")
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.3)
            yield head
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started() as head:
        yield head


Project = Callable[..., list[object]]


@pytest.fixture
def project(tmp_path) -> Project:
    """Makes a folder with a recipe and a ``dreamer_ray`` that runs the given lines; returns what submit is told of it."""

    def make(lines: str = "", runs: str = "/shared/runs") -> list[object]:
        folder = tmp_path / "project"
        (folder / "dreamer_ray").mkdir(parents=True)
        (folder / "dreamer_ray/__init__.py").touch()
        (folder / "dreamer_ray/__main__.py").write_text(f"import os, signal, sys, time\n{lines}")
        shutil.copy(TOY, folder / "recipe.yaml")
        return [folder / "recipe.yaml", "--working-dir", folder, "--runs", runs]

    return make


def said_until(running: subprocess.Popen, words: str) -> str:
    """What a command has written to stdout when these words have come."""
    said = ""
    for line in running.stdout:
        said += line
        if words in said:
            return said
    raise AssertionError(said)


def assert_one_message(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("  error: ") == 1  # Ray has lines of its own about errors
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(("lines", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_submit_shows_the_log_and_ends_with_the_job_s_own_exit_code(head, project, lines, code):
    done = head.command("submit", *project(f"print(sys.argv[1:], flush=True)\n{lines}\n"), "name=x")
    assert done.returncode == code, done.stderr
    assert "['run', 'recipe.yaml', '--runs', '/shared/runs', 'name=x']" in done.stdout
    assert f"exit code {code}" in done.stderr


def test_the_printed_command_submits_the_same(head, project):
    elsewhere = {"RAY_ADDRESS": "127.0.0.1:1"}
    words = [*project("print(os.getcwd())"), "--id", "ours", "--no-wait", "data.crafter.noise=[0.0, 0.1]"]
    done = head.command("submit", *words, environment=elsewhere)
    assert done.returncode == 0, done.stderr
    printed, name = done.stdout.splitlines()
    assert name == "ours"
    line = printed.replace("--submission-id ours", "--submission-id theirs")
    # In a shell, as somebody pastes it: its quotes are what is tested.
    subprocess.run(line, shell=True, check=True, cwd=ROOT, env=head.environment | elsewhere, capture_output=True, timeout=SECONDS)
    ours, theirs = (head.wait(job, "SUCCEEDED") for job in ("ours", "theirs"))
    for key in ("entrypoint", "runtime_env", "metadata"):
        assert ours[key] == theirs[key]


def test_a_name_is_used_once(head, project):
    head.ask("/api/jobs/", {"entrypoint": "true", "submission_id": "once"})
    head.wait("once", "SUCCEEDED")
    assert_one_message(head.command("submit", *project(), "--id", "once"), "--id once: there is a job of this name already (SUCCEEDED)")


WORKER = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1)
class WorldModelReplica:
    def ready(self): pass
replicas = [WorldModelReplica.options(name=f"replica-{i}", num_cpus=cpus).remote() for i, cpus in enumerate((1, 1, 64))]
ray.get([replica.ready.remote() for replica in replicas[:2]])
print("10:26:43  record        run (not there yet)", flush=True)
print("10:26:43  record        5/10 episodes  1.24 episodes/s  ETA 0:00:24  lag 2", flush=True)
print("10:26:44  imagination   version 4 in 40 worlds  ladder_events 1.25  collect_wood 0.5", flush=True)
def stop(*_):
    time.sleep(5)  # longer than Ray waits unless it is told to
    print("stopped in peace", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
time.sleep(600)
"""


@pytest.mark.timeout(2 * SECONDS)
def test_ctrl_c_leaves_a_job_running_that_status_shows_and_stop_stops_in_peace(head, project):
    running = head.popen("submit", *project(WORKER), "--id", "long", stderr=subprocess.STDOUT)
    said_until(running, "40 worlds")
    running.send_signal(signal.SIGINT)
    said = running.stdout.read()
    assert running.wait() == 130
    assert f"the job goes on; follow it with `dreamer-ray status long --address {head.address} --follow`" in said
    shown = head.command("status", "long").stdout
    assert re.search(r"^job +long +RUNNING \d:\d\d:\d\d$", shown, re.MULTILINE)
    assert re.search(r"^stages +record +running\n +tokenizer +waiting$", shown, re.MULTILINE)
    assert "record 5/10 episodes  1.24 episodes/s  ETA 0:00:24  lag 2" in shown
    assert re.search(r"^played +version 4 in 40 worlds  ladder_events 1.25  collect_wood 0.5$", shown, re.MULTILINE)
    assert re.search(r"^replica +2 +1 +0 +0$", shown, re.MULTILINE)
    found = json.loads(head.command("status", "long", "--json").stdout)
    assert found["actors"] == [{"name": "replica", "alive": 2, "pending": 1, "restarting": 0, "restarts": 0}]
    assert found["progress"]["figures"] == {"lag": 2}
    assert found["round"] == {"version": 4, "worlds": 40, "figures": {"ladder_events": 1.25, "collect_wood": 0.5}}
    assert re.search(r"^long +RUNNING .* /shared/runs/crafter-toy$", head.command("status").stdout, re.MULTILINE)
    following = head.popen("status", "long", "--follow")
    stopped = head.command("stop", "long")
    assert stopped.returncode == 0, stopped.stderr
    assert "job long stopped; submitted again with the same --runs it goes on" in stopped.stderr
    out, err = following.communicate(timeout=60)
    assert "stopped in peace" in out
    assert following.returncode == 130, err
    assert "cut off" in head.command("status", "long").stdout
    again = head.command("stop", "long")
    assert (again.returncode, "has ended already: STOPPED" in again.stderr) == (0, True)


def test_a_job_that_waits_is_stopped(head):
    """Ray's own ``ray job stop`` never ends then."""
    head.ask("/api/jobs/", {"entrypoint": "dreamer-ray run x.yaml ", "submission_id": "waits", "entrypoint_num_cpus": 64})
    head.wait("waits", "PENDING")
    assert "It may be waiting for resources" in head.command("status", "waits").stdout
    done = head.command("stop", "waits")
    assert done.returncode == 0, done.stderr
    assert "job waits stopped before it began" in done.stderr
    assert head.ask("/api/jobs/waits")["driver_exit_code"] is None
    assert head.ask("/api/jobs/waits")["status"] == "FAILED"
    assert [job for job in head.ask("/api/jobs/") if "ray.kill" in job["entrypoint"]] == [], "what it needed for that is gone"
    again = head.command("stop", "waits")
    assert (again.returncode, "has ended already" in again.stderr) == (0, True)


def test_a_job_that_is_not_there_is_one_message(head):
    for words in (["status", "nothing"], ["status", "nothing", "--follow"], ["stop", "nothing"]):
        assert_one_message(head.command(*words), f"job nothing: there is none at {head.address}")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 64}, ["Invalid authentication token", "RAY_AUTH_TOKEN"]),
        ({"RAY_AUTH_MODE": "disabled"}, ["with RAY_AUTH_MODE=disabled", "Missing authentication token"]),
        ({"RAY_AUTH_MODE": ""}, ["RAY_AUTH_MODE is not set"]),
    ],
    ids=["wrong", "none", "unset"],
)
def test_a_token_that_is_refused_is_one_message(head, environment, words):
    assert_one_message(head.command("status", environment=environment), *words)


def test_another_ray_in_the_environment_does_not_replace_the_address(head):
    done = head.command("status", environment={"RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"})
    assert done.returncode == 0, done.stderr


def test_more_replicas_than_the_cluster_can_hold_are_refused_with_numbers(head, project):
    done = head.command("submit", *project(), "cluster.replicas=50", "cluster.gpus_per_replica=0.5", "--dry-run")
    assert_one_message(done, "51 CPUs, there 4; for 25 GPUs, there 0", "which has no autoscaler; lower cluster.workers")


def test_what_only_other_stages_need_is_no_reason_to_refuse_one(head, project):
    done = head.command("submit", *project(), "--only", "record", "cluster.gpus_per_worker=1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "asks for" not in done.stderr


AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "fake_multinode": True},
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
        "cpu_group": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "head",
    "idle_timeout_minutes": 1,
    "upscaling_speed": 1.0,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


@pytest.mark.slow
def test_where_an_autoscaler_may_add_nodes_there_is_only_a_warning(project, tmp_path):
    """The fake provider reads no example file when the head is begun so, and no other Ray is stopped."""
    (tmp_path / "autoscaler.yaml").write_text(json.dumps(AUTOSCALER))
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with started(f"--autoscaling-config={tmp_path / 'autoscaler.yaml'}", **variables) as head:
        deadline = time.monotonic() + SECONDS
        while not ((head.ask("/api/cluster_status")["data"]["clusterStatus"] or {}).get("autoscalerReport") or {}).get("nodeTypeMapping"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        done = head.command("submit", *project(), "cluster.replicas=50", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "51 CPUs, there 4" in done.stderr
    assert "the run waits or ends unless the autoscaler adds nodes" in done.stderr


class Relay:
    """Passes connections on to a port, until ``cut`` ends all that are open; while ``lost`` it answers as an ingress without its target."""

    def __init__(self, port: int) -> None:
        self.target, self.open, self.lost = port, [], False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.lost:
                with near:
                    near.recv(65536)
                    near.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for each in self.open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.open.clear()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 5], ids=["cut", "and 502 for a while"])
def test_a_broken_connection_is_made_again_and_nothing_is_shown_twice(head, project, seconds):
    relay = Relay(int(head.address.rpartition(":")[2]))
    far = replace(head, address=f"http://127.0.0.1:{relay.port}")
    lines = "for i in range(40): print('line', i, flush=True); time.sleep(0.2)\nsys.exit(4)"
    running = far.popen("submit", *project(lines), stderr=subprocess.STDOUT)
    said = said_until(running, "line 5\n")
    relay.lost = True
    relay.cut()
    time.sleep(seconds)
    relay.lost = False
    said += running.stdout.read()
    relay.listener.close()
    assert running.wait() == 4, said
    assert re.findall(r"^line \d+$", said, re.MULTILINE) == [f"line {i}" for i in range(40)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_head_that_is_lost_ends_the_following_with_how_to_go_on(project):
    with started() as head:
        running = head.popen("submit", *project("print('begun', flush=True); time.sleep(900)"), stderr=subprocess.STDOUT)
        said_until(running, "begun\n")
    said = running.stdout.read()
    assert running.wait() == 1, said
    assert "no Ray dashboard answers there" in said
    assert "submitted again with the same --runs it goes on" in said
    assert "Traceback" not in said


SHORT = (
    "data.crafter.episodes=5 tokenizer.fit.steps=6 dynamics.fit.steps=4 agent.fit.steps=2 agent.scratch=false imagination.fit.steps=4 "
    "evaluation.worlds=2 evaluation.baseline_worlds=2 evaluation.length=10 evaluation.windows=2 evaluation.pictures=4"
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_run_of_this_repository_is_a_job_and_a_second_one_skips_it(head, tmp_path):
    words = [TOY, "--working-dir", ".", "--runs", tmp_path / "runs", *SHORT.split()]
    running = head.popen("submit", *words, stderr=subprocess.STDOUT)
    said, _ = running.communicate(timeout=1500)
    assert running.returncode == 0, said
    assert "uploads" in said
    assert "runs its dreamer_ray" in said
    assert re.search(r"joined the Ray cluster at 127.0.0.1:\d+: 4 CPUs", said)
    assert "<video" in (tmp_path / "runs/crafter-toy/report.html").read_text()
    jobs = json.loads(head.command("status", "--json").stdout)
    report = json.loads(head.command("status", jobs[-1]["name"], "--json").stdout)
    assert [stage["state"] for stage in report["stages"]] == ["done"] * 8
    again = head.command("submit", *words)
    assert again.returncode == 0
    assert "all done already" in again.stdout
    wrong = head.command("submit", *words, "agent.fit.steps=3")
    assert wrong.returncode == 2
    assert "stage agent was made with other values" in wrong.stdout


LONGER = ("imagination.fit.steps=40", "imagination.fit.checkpoint_every=5")
ACTORS = {"Learner", "WorldModelReplica", "WeightStore", "Board"}


def actors_alive(head: Head) -> set[str]:
    found = head.ask("/api/v0/actors?limit=1000")["data"]["result"]["result"]
    return {actor["class_name"] for actor in found if actor["state"] != "DEAD"} & ACTORS


@pytest.fixture
def imagination(toy, tmp_path) -> tuple[Path, list[object]]:
    """Where the checkpoints of the stage imagination come to lie in a copy of the toy run that lacks it; what submit is told to make it."""
    folder = shutil.copytree(toy[0], tmp_path / "runs" / toy[0].name)
    shutil.rmtree(folder / "imagination")
    return folder / "imagination/checkpoints", [TOY, "--working-dir", ".", "--runs", folder.parent, "--only", "imagination", *LONGER]


def wait_for_a_checkpoint(head: Head, job: str, checkpoints: Path) -> None:
    deadline = time.monotonic() + 2 * SECONDS
    while not any(checkpoints.glob("step-*")):
        assert time.monotonic() < deadline
        assert (found := head.ask(f"/api/jobs/{job}"))["status"] in ("PENDING", "RUNNING"), found
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_whose_driver_is_killed_leaves_no_actor_and_goes_on_when_submitted_again(head, imagination, begin_stage):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    checkpoints, words = imagination
    running = head.popen("submit", *words, "--id", "killed", stderr=subprocess.STDOUT)
    said_until(running, "job killed -> ")
    wait_for_a_checkpoint(head, "killed", checkpoints)
    assert actors_alive(head) == ACTORS
    os.kill(int(head.ask("/api/jobs/killed")["driver_info"]["pid"]), signal.SIGKILL)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 137, said
    deadline = time.monotonic() + 60
    while left := actors_alive(head):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    cut = latest_checkpoint(checkpoints)
    assert cut is not None
    assert cut.step < 40
    again = head.command("submit", *words)
    assert again.returncode == 0, again.stdout
    assert "imagination   resume (was cut off)" in again.stdout
    found = latest_checkpoint(checkpoints)
    assert found is not None
    assert found.checksums == wanted.checksums
    assert actors_alive(head) == set()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_loses_the_head_ends_and_goes_on_when_submitted_to_another(imagination, begin_stage, descendants):
    wanted, _ = begin_stage("imagination", *LONGER).result()
    checkpoints, words = imagination
    with started() as head:
        done = head.command("submit", *words, "--id", "lost", "--no-wait")
        assert done.returncode == 0, done.stderr
        wait_for_a_checkpoint(head, "lost", checkpoints)
        driver = int(head.ask("/api/jobs/lost")["driver_info"]["pid"])
        begun = descendants(head.process.pid)
        assert driver in {each.pid for each in begun}
        next(each for each in begun if each.called("gcs_server")).kill()
        deadline = time.monotonic() + 120
        while left := [each for each in begun if each.alive()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
    cut = latest_checkpoint(checkpoints)
    assert cut is not None
    assert cut.step < 40
    with started() as another:
        again = another.command("submit", *words)
        assert again.returncode == 0, again.stdout
        assert "imagination   resume (was cut off)" in again.stdout
        assert actors_alive(another) == set()
    found = latest_checkpoint(checkpoints)
    assert found is not None
    assert found.checksums == wanted.checksums


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_AUTH_MODE": ""}, "RAY_AUTH_MODE is not set: RAY_AUTH_MODE=token (with RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": ""}, "refused, with RAY_AUTH_MODE=token"),
        pytest.param({"RAY_AUTH_TOKEN": "f" * 64}, "refused, with RAY_AUTH_MODE=token", marks=pytest.mark.slow),
        pytest.param({"RAY_AUTH_MODE": "disabled"}, "refused, with RAY_AUTH_MODE=disabled", marks=pytest.mark.slow),
    ],
    ids=["no mode", "no token", "another token", "another mode"],
)
def test_a_run_that_a_cluster_does_not_let_in_is_refused_with_the_remedy(head, tmp_path, variables, message):
    done = head.join(tmp_path, **variables)
    assert_one_message(done, message, "RAY_AUTH_TOKEN_PATH")


def test_a_run_with_the_token_joins(head, tmp_path):
    done = head.join(tmp_path, "cluster.replicas=50")
    assert_one_message(done, "cluster.replicas = 50", "the cluster has 4")
    assert f"joined the Ray cluster at {head.gcs}: 4 CPUs" in done.stderr


APART = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


def test_a_run_on_a_machine_that_is_no_node_of_the_cluster_is_told_to_submit(head, tmp_path):
    """No process of another space is seen from a process space of one's own, so that Ray finds no node here."""
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a process space of their own here (unshare)")
    done = head.join(tmp_path, within=APART, RAY_gcs_server_request_timeout_seconds="5")
    assert_one_message(done, f"RAY_ADDRESS = {head.gcs}: cannot be joined from here (No node info found", "dreamer-ray submit RECIPE")
