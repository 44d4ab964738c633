"""What the processes of a run tell Prometheus."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import ray
import torch
from prometheus_client import CollectorRegistry
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import PreemptionError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.controller.state import RestartingState, RunningState

from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.job_status import ActorGroup, with_replaced
from dreamer_ray.distributed.telemetry import GroupRestarts, export_peak, export_success, exporter
from dreamer_ray.envs.crafter import TASKS
from dreamer_ray.errors import RunError
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.training.parallel import Tuning
from dreamer_ray.training.telemetry import Exporter, PrometheusMeter

RUN = {"run": "toy", "stage": "evaluate"}
SECONDS_TO_EXPORT = 60
"""Ray's processes report every ten."""


def episode(*achieved: str) -> EpisodeResult:
    counts = [2 * (task in achieved) for task in TASKS]
    return EpisodeResult(0, counts, [1 if count else -1 for count in counts], 10, died=False)


def descendants(pid: int) -> list[int]:
    """All processes that ``pid`` has begun, directly or not."""
    children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return [*children, *(further for child in children for further in descendants(child))]


def scraped(targets: list[str]) -> dict[str, float]:
    """Our samples at these addresses, without the labels that Ray adds."""
    found = {}
    for target in targets:
        for line in urlopen(f"http://{target}/metrics", timeout=10).read().decode().splitlines():
            if line.startswith("ray_dreamer"):
                name, labels, value = re.fullmatch(r"(\w+){(.*)} (\S+)", line).groups()
                ours = sorted(re.findall(r'(?<!\w)([a-z]+="[^"]*")', re.sub(r'otel_\w+="[^"]*"', "", labels)))
                found[f"{name}{{{','.join(ours)}}}"] = float(value)
    return found


def test_success_is_the_share_of_episodes_by_variant_and_task():
    registry = CollectorRegistry()
    episodes = [episode("collect_wood"), episode("collect_wood", "place_table"), episode()]
    export_success(Exporter(PrometheusMeter(registry), **RUN), "agent", episodes, TASKS)
    shares = {
        task: registry.get_sample_value("ray_dreamer_success_ratio", RUN | {"variant": "agent", "task": task})
        for task in ("collect_wood", "place_table", "collect_stone")
    }
    assert shares == {"collect_wood": pytest.approx(2 / 3), "place_table": pytest.approx(1 / 3), "collect_stone": 0.0}


def test_before_the_first_episode_there_is_no_success():
    registry = CollectorRegistry()
    export_success(Exporter(PrometheusMeter(registry), **RUN), "agent", [], TASKS)
    assert registry.get_sample_value("ray_dreamer_success_ratio", RUN | {"variant": "agent", "task": "collect_wood"}) is None


def test_nothing_is_said_of_the_peak_of_a_cpu():
    registry = CollectorRegistry()
    export_peak(Exporter(PrometheusMeter(registry), **RUN, rank="0"), torch.device("cpu"), Tuning())
    assert registry.get_sample_value("ray_dreamer_peak_operations_per_second", RUN | {"rank": "0"}) is None


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_measured():
    registry = CollectorRegistry()
    export_peak(Exporter(PrometheusMeter(registry), **RUN, rank="0"), torch.device("cuda"), Tuning(precision="bf16"))
    peak = registry.get_sample_value("ray_dreamer_peak_operations_per_second", RUN | {"rank": "0"})
    assert peak is not None
    assert peak > 1e13


def wait_until_served(expected: dict[str, float]) -> None:
    wait_for(lambda: expected.items() <= scraped(agents()).items(), SECONDS_TO_EXPORT)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(1)


def agents() -> list[str]:
    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()]


@pytest.fixture
def board(local_ray):
    board = Board.remote(0)
    yield board
    ray.kill(board)


def lose(restarts: GroupRestarts, error: Exception) -> None:
    """What Ray Train's controller does when a group was lost and waits for room."""
    running, restarting = RunningState(), RestartingState(error)
    for states in ((running, running), (running, restarting), (restarting, restarting)):
        restarts.after_controller_state_update(*states)


GONE = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
MISSED = RuntimeError("gloo: connection closed by peer")
PREEMPTED = PreemptionError(PreemptionInfo(None, {"node": [2]}), drain_timed_out=True)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (WorkerGroupError("", {0: MISSED, 1: GONE}), "worker 1 is lost (ActorDiedError: "),
        (
            WorkerGroupError("", {0: MISSED, 1: WorkerHealthCheckFailedError("", OutOfMemoryError("ended"))}),
            "worker 1 is lost (OutOfMemoryError: ",
        ),
        (WorkerGroupError("", {3: MISSED}), "worker 3 is lost (RuntimeError: gloo: connection closed by peer)"),
        (PREEMPTED, "worker 2 is lost (PreemptionError: "),
    ],
    ids=["gone", "out of memory", "failed", "preempted"],
)
def test_the_loss_of_a_group_is_told_once_with_its_cause_and_so_that_status_counts_it(board, error, told):
    lose(GroupRestarts("told", "tokenizer", board), error)
    (line,) = ray.get(board.told.remote())
    assert line.startswith(f"tokenizer: {told}")
    workers = with_replaced([ActorGroup("RayTrainWorker", alive=2)], f"10:28:40  {line}\n")
    assert workers == [ActorGroup("RayTrainWorker", alive=2, restarts=1)]


def test_an_error_of_ours_that_ends_the_run_is_no_loss(board):
    lose(GroupRestarts("told", "tokenizer", board), WorkerGroupError("", {0: GONE, 1: RunError("loss is NaN")}))
    assert ray.get(board.told.remote()) == []


def test_ray_serves_what_a_process_exports(board):
    export = exporter("served", "imagination", replica="3")
    export(4, {"lag": 0.5, "lost_calls": 2.0})
    export.add("frames_dreamed", 240)
    lose(GroupRestarts("served", "tokenizer", board), WorkerGroupError("", {0: ValueError()}))
    wait_until_served(
        {
            'ray_dreamer_step{run="served",stage="imagination"}': 4,
            'ray_dreamer_lag_updates{run="served",stage="imagination"}': 0.5,
            'ray_dreamer_lost_calls_total{run="served",stage="imagination"}': 2,
            'ray_dreamer_frames_dreamed_total{replica="3",run="served",stage="imagination"}': 240,
            'ray_dreamer_restarts_total{part="worker",run="served",stage="tokenizer"}': 1,
        }
    )


@pytest.mark.slow
def test_a_gauge_that_was_set_once_stays_as_long_as_its_process(local_ray):
    exporter("lasting", "tokenizer", rank="0").set("peak_operations_per_second", 5.0)
    expected = {'ray_dreamer_peak_operations_per_second{rank="0",run="lasting",stage="tokenizer"}': 5.0}
    wait_until_served(expected)
    time.sleep(35)
    assert expected.items() <= scraped(agents()).items()


@pytest.fixture(scope="module")
def training(tmp_path_factory, toy_command):
    """A run in its tokenizer stage: its process, and what Ray serves of it now."""
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # the path of Ray's sockets has room for 107 bytes
        command = toy_command(tmp_path_factory.mktemp("runs"), "cluster.dashboard=true", "tokenizer.fit.steps=5000")
        run = subprocess.Popen(command, env=os.environ | {"RAY_TMPDIR": short}, stderr=subprocess.DEVNULL)

        def served() -> dict[str, float]:
            assert run.poll() is None
            try:
                return scraped(json.loads((Path(short) / "ray" / "prom_metrics_service_discovery.json").read_text())[0]["targets"])
            except (FileNotFoundError, URLError):
                return {}

        try:
            yield run, served
        finally:
            run.send_signal(signal.SIGTERM)
            run.wait(60)


TOKENIZER = 'run="crafter-toy",stage="tokenizer"'


@pytest.mark.slow
def test_a_run_exports_its_figures_while_it_trains(training):
    wait_for(lambda: f"ray_dreamer_loss{{{TOKENIZER}}}" in training[1](), 240)
    served = training[1]()
    steps, frames = served[f"ray_dreamer_step{{{TOKENIZER}}}"], served[f'ray_dreamer_frames_learned_total{{rank="0",{TOKENIZER}}}']
    assert steps > 0
    assert frames >= steps * 8 * 4
    assert frames % 32 == 0
    assert served[f"ray_dreamer_data_wait_ratio{{{TOKENIZER}}}"] <= 1
    assert served[f'ray_dreamer_operations_total{{rank="0",{TOKENIZER}}}'] > 0
    assert f'ray_dreamer_figure{{figure="mse",{TOKENIZER}}}' in served


@pytest.mark.slow
def test_a_lost_training_worker_is_counted(training):
    run, served = training
    wait_for(lambda: f"ray_dreamer_loss{{{TOKENIZER}}}" in served(), 240)
    (worker,) = [pid for pid in descendants(run.pid) if "RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: served().get(f'ray_dreamer_restarts_total{{part="worker",{TOKENIZER}}}') == 1, 60)
