"""The learners of imagination training: ``fit`` over the trajectories of the pool, publishing the heads after every update.

ReplicaPool --Trajectory--> fit(ImaginationTraining) --heads, version = updates done--> WeightStore, or straight --> replicas

Several learners share every update and average their gradients; where one is lost all are replaced.
"""

import socket
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from torch import nn

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.board import note_failure
from dreamer_ray.distributed.direct_transport import WEIGHT_THREADS, WeightSource, weight_transport
from dreamer_ray.distributed.replica_pool import ReplicaPool
from dreamer_ray.distributed.telemetry import exporter
from dreamer_ray.distributed.weights import Weights
from dreamer_ray.errors import DreamerError
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.phases.imagination_training import ImaginationTraining
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import imagination
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.metrics import FileSink

SHOWN = ("lag", "replicas", "lost_calls", "dropped_calls", "dreamed_return", "kl")
"""Figures that come first, and so stand in the progress line."""
GROUP_SECONDS = 120.0
"""How long a learner waits for the others to join or to answer."""


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS, **WEIGHT_THREADS)
class Learner(WeightSource):
    """Owns the policy and value heads in training, together with the other learners of its group."""

    def __init__(self, recipe: str, run: str, rank: int):
        torch.set_num_threads(1)
        self.recipe, self.run_folder, self.rank = Recipe.model_validate_json(recipe), Path(run), rank

    def address(self) -> str:
        """Where the others meet this one."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((host, 0))
            return f"tcp://{host}:{free.getsockname()[1]}"

    def run(self, replicas: list[Actor], store: Actor, board: Actor, address: str | None) -> dict[str, int]:
        """Fits to the end and returns counts of calls. Errors of ours go to the board."""
        ranks = self.recipe.cluster.learners
        try:
            if address is not None:
                wait = timedelta(seconds=GROUP_SECONDS)
                dist.init_process_group("gloo", init_method=address, rank=self.rank, world_size=ranks, timeout=wait)
            return self._fit(replicas, store, board)
        except (DreamerError, RayError, OSError) as error:
            if isinstance(error, RayActorError):
                raise
            note_failure(board, error)
            return {}

    def _fit(self, replicas: list[Actor], store: Actor, board: Actor) -> dict[str, int]:
        config, cluster = self.recipe.imagination, self.recipe.cluster
        folder, session = self.run_folder / "imagination", uuid.uuid4().hex
        device, source = "cuda" if cluster.gpus_per_learner else "cpu", self if self.rank == 0 else None
        transport = weight_transport(cluster.weight_transport, store, device=device, source=source)
        export = exporter(self.recipe.name, "imagination", rank=str(self.rank))
        phase, made_by = imagination(self.recipe, self.run_folder)
        published = 0

        def publish(version: int) -> None:
            nonlocal published
            published = version
            if self.rank == 0:
                with export.timed("publishes", "publish_seconds"):
                    transport.publish(session, version, _heads(phase))
            _wait_for_all()

        pool = ReplicaPool(
            replicas,
            Schedule(config.contexts.batch_size // config.dreams_per_call, config.max_lag, share=(self.rank, cluster.learners)),
            session,
            call_seconds=cluster.call_seconds,
            publish_again=lambda: transport.publish(session, published, _heads(phase)) if self.rank == 0 else None,
            look=_roster(board),
        )

        def batches(start: int) -> Any:
            publish(start)
            return pool.updates(start, config.fit.steps)

        files = FileSink(folder) if self.rank == 0 else None

        def sink(done: int, figures: dict[str, float]) -> None:
            if files is not None:
                figures = figures | pool.figures()
                files(done, figures)
                export(done, figures)
                board.report.remote(done, {name: figures[name] for name in SHOWN} | figures)

        place = Place(folder / "checkpoints", sink, rank=self.rank)
        fit(phase, export.counted(batches), config.fit, place=place, made_by=made_by, after_step=publish)
        return {"lost_calls": pool.schedule.lost, "dropped_calls": pool.schedule.dropped}

    def __repr__(self) -> str:
        return f"Learner({self.rank})"


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def _roster(board: Actor) -> Callable[[], list[Actor] | None]:
    """Asks the board, without waiting, who is in the pool."""
    asked = [board.enlisted.remote()]

    def look() -> list[Actor] | None:
        if not ray.wait(asked, timeout=0)[0]:
            return None
        (answer,) = asked
        asked[0] = board.enlisted.remote()
        try:
            return ray.get(answer)
        except RayActorError:  # a lost board changes nothing
            return None

    return look


def _heads(phase: ImaginationTraining) -> Weights:
    parts: dict[str, nn.Module] = {"policy": phase.policy, "value": phase.value}
    return {f"{part}.{k}": v.detach().cpu().clone() for part, module in parts.items() for k, v in module.state_dict().items()}
