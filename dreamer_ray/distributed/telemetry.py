"""Metrics on Ray: every process gives its figures to Ray's agent on its node, which Prometheus reads.

Exporter in worker, learner, replica, driver --ray.util.metrics--> agent of the node, port in Ray's discovery file <--scrapes-- Prometheus

A process that is replaced begins new series (tag WorkerId): dashboards take sums of counters and one gauge of each kind by run and stage.
"""

import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import ray.util.metrics
import torch
from ray.train import PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import RestartingState

from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.distributed.failures import in_a_line, plain
from dreamer_ray.estimate import matrix_product_speed
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.training.parallel import Tuning
from dreamer_ray.training.telemetry import RUN_TAGS, Exporter, Metric

PEAK_WIDTH = 8192
"""Of the matrices whose product is taken for the peak of a GPU."""
SECONDS_BETWEEN_REPEATS = 5.0


class RayMeter:
    """Gives values to Ray; each metric is registered when it first has one.

    Ray forgets a gauge that was not set within the last 20 seconds, so this sets all of them again while the process lives.
    """

    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}
        self._gauges: dict[tuple[str, ...], tuple[Any, float, dict[str, str]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._repeat, daemon=True).start()

    def add(self, metric: Metric, amount: float, tags: dict[str, str]) -> None:
        """Raises a counter."""
        self._instrument(metric).inc(amount, tags)

    def set(self, metric: Metric, value: float, tags: dict[str, str]) -> None:
        """Sets a gauge."""
        with self._lock:
            gauge = self._instrument(metric)
            self._gauges[metric.name, *tags.values()] = (gauge, value, tags)
            gauge.set(value, tags)

    def _instrument(self, metric: Metric) -> Any:
        if metric.name not in self._instruments:
            kind = {"counter": ray.util.metrics.Counter, "gauge": ray.util.metrics.Gauge}[metric.kind]
            self._instruments[metric.name] = kind(metric.name, metric.text, (*RUN_TAGS, *metric.tags))
        return self._instruments[metric.name]

    def _repeat(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_REPEATS)
            with self._lock:
                for gauge, value, tags in self._gauges.values() if ray.is_initialized() else ():
                    gauge.set(value, tags)


@cache
def _meter() -> RayMeter:
    return RayMeter()


def exporter(run: str, stage: str, **tags: str) -> Exporter:
    """The exporter of ``stage`` of the run of that name in this process."""
    return Exporter(_meter(), run=run, stage=stage, **tags)


def export_peak(export: Exporter, device: torch.device, tuning: Tuning) -> None:
    """Says how fast the GPU of this worker multiplies in the precision of its training, measured now; of a CPU nothing is said."""
    if device.type == "cuda":
        dtype = torch.bfloat16 if tuning.precision == "bf16" else torch.float32
        export.set("peak_operations_per_second", matrix_product_speed(PEAK_WIDTH, device=device, dtype=dtype))


def export_success(export: Exporter, variant: str, episodes: list[EpisodeResult], tasks: Sequence[str]) -> None:
    """Says of each of ``tasks`` which share of ``episodes`` achieved it."""
    for index, task in enumerate(tasks if episodes else ()):
        achieved = sum(episode.counts[index] > 0 for episode in episodes)
        export.set("success_ratio", achieved / len(episodes), variant=variant, task=task)


class GroupRestarts(ControllerCallback):
    """Counts and tells, in Ray Train's controller, that a group of workers was lost and starts again.

    A callback inside Ray: its public one hears again and again of a worker that is preempted, and nothing where the last of them is ended.
    """

    def __init__(self, run: str, stage: str, board: Actor):
        self.run, self.stage, self.board = run, stage, board

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train, also again and again while a group waits for room."""
        if not isinstance(current_state, RestartingState) or isinstance(previous_state, RestartingState):
            return
        rank, why = _lost(current_state.training_failed_error)
        if plain(why) is None:  # one of ours ends the run
            exporter(self.run, self.stage).add("restarts", part="worker")
            self.board.tell.remote(f"{self.stage}: worker {rank} is lost ({in_a_line(why)}); its group is started again")


def _lost(error: TrainingFailedError) -> tuple[int, Exception]:
    """The rank that was lost, and why: one with an error of ours or without a process, rather than one that only misses it."""
    if isinstance(error, PreemptionError):
        failures = dict.fromkeys(error.preemption_info.preempted_ranks, error)
    else:
        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = [(rank, getattr(each, "health_check_failure", each)) for rank, each in failures.items()]
    return min(causes, key=lambda cause: (plain(cause[1]) is None, not isinstance(cause[1], LOST)), default=(0, error))
