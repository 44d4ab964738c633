"""Metrics for Prometheus: one table of names, one exporter with the shape of a metric sink, and the meter for processes without Ray.

(steps done, figures) --Exporter: table, tags--> Meter: prometheus-client here | ``ray.util.metrics`` in distributed/telemetry.py
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import prometheus_client
from prometheus_client import CollectorRegistry

from dreamer_ray.phases.imagination_training import Rehearsal
from dreamer_ray.types import Batch, Clip, LatentClip, Trajectory

PREFIX = "dreamer_"
RUN_TAGS = ("run", "stage")
"""Every metric has these."""


@dataclass(frozen=True)
class Metric:
    """One row of the table. Prometheus has it as ``ray_NAME``, a counter as ``ray_NAME_total``."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    figure: str | None = None
    """The figure of a stage that it shows; a counter's figure is a total so far, not an increment."""
    tags: tuple[str, ...] = ()
    """Besides ``RUN_TAGS``."""

    @property
    def series(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


METRICS = (
    Metric(f"{PREFIX}step", "gauge", "Steps or updates done."),
    Metric(f"{PREFIX}steps_per_second", "gauge", "Steps or updates a second.", "steps_per_second"),
    Metric(f"{PREFIX}loss", "gauge", "The loss that is differentiated.", "loss"),
    Metric(f"{PREFIX}gradient_norm", "gauge", "Norm of the gradient before it is clipped.", "gradient_norm"),
    Metric(
        f"{PREFIX}figure", "gauge", "Every figure of a stage that has no row of its own: terms of the loss and the like.", tags=("figure",)
    ),
    Metric(f"{PREFIX}data_wait_ratio", "gauge", "Share of the time in which training waited for its batch.", "data_wait"),
    Metric(f"{PREFIX}frames_learned", "counter", "Frames of the batches that were trained on.", tags=("rank",)),
    Metric(f"{PREFIX}operations", "counter", "Floating point operations that the model needed for them.", tags=("rank",)),
    Metric(f"{PREFIX}peak_operations_per_second", "gauge", "Of a big matrix product on the GPU of a worker.", tags=("rank",)),
    Metric(f"{PREFIX}frames_dreamed", "counter", "Frames dreamed for imagination training.", tags=("replica",)),
    Metric(f"{PREFIX}lag_updates", "gauge", "Mean age in updates of the heads that dreamed what the learner used.", "lag"),
    Metric(f"{PREFIX}calls_in_flight", "gauge", "Calls sent to replicas and not back yet: the queue.", "calls_in_flight"),
    Metric(f"{PREFIX}lost_calls", "counter", "Calls sent again because their replica or its node was lost.", "lost_calls"),
    Metric(f"{PREFIX}dropped_calls", "counter", "Results that came back too old; their calls were sent again.", "dropped_calls"),
    Metric(f"{PREFIX}replicas", "gauge", "Replicas that are ready.", "replicas"),
    Metric(f"{PREFIX}learner_idle_ratio", "gauge", "Share of the time in which the learner waited for dreams.", "learner_idle"),
    Metric(f"{PREFIX}replica_idle_ratio", "gauge", "Share of their time in which ready replicas had no call.", "replica_idle"),
    Metric(f"{PREFIX}publishes", "counter", "Versions of the weights that were published."),
    Metric(f"{PREFIX}publish_seconds", "counter", "Time that publishing took."),
    Metric(f"{PREFIX}syncs", "counter", "Versions of the weights that a replica took.", tags=("replica",)),
    Metric(f"{PREFIX}sync_seconds", "counter", "Time from asking for a version to dreaming with it.", tags=("replica",)),
    Metric(
        f"{PREFIX}restarts",
        "counter",
        "Lost and replaced: a learner, a replica, an evaluator, the group of training workers.",
        tags=("part",),
    ),
    Metric(f"{PREFIX}episodes", "counter", "Episodes played in evaluation, or in rounds during training.", tags=("variant",)),
    Metric(
        f"{PREFIX}success_ratio",
        "gauge",
        "Share that achieved a task: of the episodes so far, of the newest round in training.",
        tags=("variant", "task"),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}
BY_FIGURE = {metric.figure: metric for metric in METRICS if metric.figure}


class Meter(Protocol):
    """Where values go."""

    def add(self, metric: Metric, amount: float, tags: dict[str, str]) -> None:
        """Raises a counter."""
        ...

    def set(self, metric: Metric, value: float, tags: dict[str, str]) -> None:
        """Sets a gauge."""
        ...


class Exporter:
    """A metric sink that exports the figures of one stage in one process; ``tags`` are at least ``RUN_TAGS``.

    All names may be given without their prefix. Raises ``KeyError`` for a name that the table lacks or a tag that nobody gave.
    """

    def __init__(self, meter: Meter, **tags: str):
        self.meter, self.tags = meter, tags
        self._totals: dict[str, float] = {}

    def __call__(self, done: int, figures: dict[str, float]) -> None:
        self.set("step", done)
        for name, value in figures.items():
            metric = BY_FIGURE.get(name)
            if metric is None:
                self.set("figure", value, figure=name)
            elif metric.kind == "gauge":
                self.set(metric.name, value)
            else:
                self._grow(metric.name, value)

    def add(self, name: str, amount: float = 1.0, **tags: str) -> None:
        """Raises the counter ``name``."""
        if amount:  # Ray refuses zero
            self.meter.add(*self._row(name, amount, tags))

    def set(self, name: str, value: float, **tags: str) -> None:
        """Sets the gauge ``name``."""
        self.meter.set(*self._row(name, value, tags))

    @contextmanager
    def timed(self, events: str, seconds: str) -> Iterator[None]:
        """Counts one of ``events`` and how many ``seconds`` the ``with`` took: two counters, whose quotient is the mean."""
        begun = time.perf_counter()
        yield
        self.add(events)
        self.add(seconds, time.perf_counter() - begun)

    def counted(self, batches: Callable[[int], Any], operations: float = 0.0) -> Callable[[int], Iterator[Any]]:
        """``batches``, whose frames are counted as they are taken, with so many ``operations`` for each."""

        def taken(start: int) -> Iterator[Any]:
            for batch in batches(start):
                frames = frame_count(batch)
                self.add("frames_learned", frames)
                self.add("operations", operations * frames)
                yield batch

        return taken

    def _grow(self, name: str, total: float) -> None:
        before = self._totals.get(name, 0.0)
        self._totals[name] = total
        self.add(name, total - before if total >= before else total)  # what counts from zero again was restarted

    def _row(self, name: str, value: float, tags: dict[str, str]) -> tuple[Metric, float, dict[str, str]]:
        metric = BY_NAME[PREFIX + name.removeprefix(PREFIX)]
        known = self.tags | tags
        return metric, float(value), {tag: known[tag] for tag in (*RUN_TAGS, *metric.tags)}


class PrometheusMeter:
    """The metrics of a process without Ray, under the names that Ray gives them, so that one dashboard shows both.

    ``prometheus_client.start_http_server(port, addr="127.0.0.1", registry=registry)`` serves them.
    """

    def __init__(self, registry: CollectorRegistry):
        kinds = {"counter": prometheus_client.Counter, "gauge": prometheus_client.Gauge}
        self._instruments: dict[str, Any] = {
            metric.name: kinds[metric.kind](metric.series, metric.text, (*RUN_TAGS, *metric.tags), registry=registry) for metric in METRICS
        }

    def add(self, metric: Metric, amount: float, tags: dict[str, str]) -> None:
        """Raises a counter."""
        self._instruments[metric.name].labels(**tags).inc(amount)

    def set(self, metric: Metric, value: float, tags: dict[str, str]) -> None:
        """Sets a gauge."""
        self._instruments[metric.name].labels(**tags).set(value)


def frame_count(batch: Batch) -> int:
    """Frames of a batch of any of our kinds; of trajectories those that were dreamed."""
    if isinstance(batch, Rehearsal):
        return frame_count(batch.dreamed) + frame_count(batch.recorded)
    if isinstance(batch, Trajectory):
        return batch.rewards.numel()
    assert isinstance(batch, Clip | LatentClip)
    return batch.notes.labelled.numel()
