"""A Ray of its own whose actors export every metric until its standard input is closed; prints where Ray's discovery file is."""

import sys
import threading
import time
from pathlib import Path

import ray

from dreamer_ray.distributed.rounds import VARIANT
from dreamer_ray.distributed.telemetry import export_success, exporter
from dreamer_ray.envs.crafter import TASKS
from dreamer_ray.evaluation.episodes import EpisodeResult

FIGURES = ("loss", "gradient_norm", "steps_per_second", "data_wait", "lag", "calls_in_flight", "replicas", "learner_idle", "replica_idle")
RUN = "watched"


@ray.remote(num_cpus=0, max_restarts=-1)
class Publisher:
    """One process of a run."""

    def learn(self, number: int) -> None:
        export = exporter(RUN, "imagination", rank="0")
        export(number, dict.fromkeys(FIGURES, 0.5) | {"entropy": 2.0, "lost_calls": float(number), "dropped_calls": float(number)})
        export.add("frames_learned", 100)
        export.add("operations", 1e9)
        export.set("peak_operations_per_second", 4e9)
        export.add("restarts", part="learner")
        with export.timed("publishes", "publish_seconds"):
            time.sleep(0.01)

    def play(self, number: int) -> None:
        export = exporter(RUN, "imagination")
        export.set("figure", number, figure="ladder_events")
        export_success(export, VARIANT, [EpisodeResult(0, [1] * len(TASKS), [1] * len(TASKS), 10, died=False)], TASKS)

    def dream(self, number: int) -> None:
        export = exporter(RUN, "imagination", replica=str(number))
        export.add("frames_dreamed", 1000)
        with export.timed("syncs", "sync_seconds"):
            time.sleep(0.01)

    def evaluate(self) -> None:
        export = exporter(RUN, "evaluate")
        export.add("episodes", variant="agent")
        export_success(export, "agent", [EpisodeResult(0, [1] * len(TASKS), [1] * len(TASKS), 10, died=False)], TASKS)


def main(folder: Path) -> None:
    """Publishes once a second; the first replica is killed in the fifth round and restarted by Ray."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _temp_dir=str(folder),
        _system_config={"metrics_report_interval_ms": 1000},
    )
    publishers = [Publisher.options(name=f"publisher-{i}").remote() for i in range(3)]
    learner, *replicas = publishers
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print(folder / "prom_metrics_service_discovery.json", flush=True)
    for number in range(10**6):
        if ended.wait(1):
            break
        if number == 5:
            ray.kill(replicas[0], no_restart=False)
        calls = [
            learner.learn.remote(number),
            learner.play.remote(number),
            learner.evaluate.remote(),
            *(replica.dream.remote(i) for i, replica in enumerate(replicas)),
        ]
        ray.wait(calls, num_returns=len(calls), timeout=30)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
