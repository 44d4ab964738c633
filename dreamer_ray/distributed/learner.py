"""The learners of imagination training: ``fit`` over the trajectories of the pool, publishing what it trains after every update.

ReplicaPool --Trajectory--> fit(ImaginationTraining) --heads or all weights, version = updates done--> WeightStore, or straight --> replicas
Ray Data --recorded clips--^ (where all weights train)

Several learners share every update and average their gradients; where one is lost all are replaced.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray.exceptions import RayActorError, RayError

from dreamer_ray.cluster_section import ClusterSection
from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.batches import stream
from dreamer_ray.distributed.board import note_failure
from dreamer_ray.distributed.direct_transport import WEIGHT_THREADS, WeightSource, weight_transport
from dreamer_ray.distributed.group import join_group, listen
from dreamer_ray.distributed.replica_pool import OUTAGE_LIMIT, ReplicaPool
from dreamer_ray.distributed.telemetry import exporter
from dreamer_ray.distributed.weights import ObjectStoreTransport, Weights
from dreamer_ray.errors import DreamerError
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.numerics import reduce_sum
from dreamer_ray.phases.imagination_training import ImaginationTraining, Rehearsal, WholeImaginationTraining
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import REHEARSAL, dreams_of, imagination
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.metrics import FileSink
from dreamer_ray.training.parallel import Tuning, whole
from dreamer_ray.types import Clip, LatentClip, Trajectory

SHOWN = ("lag", "replicas", "lost_calls", "dropped_calls", "dreamed_return", "kl")
"""Figures that come first, and so stand in the progress line."""
GROUP_SECONDS = 120.0
"""How long a learner waits for the others to join or to answer, beyond what these may wait for dreams."""
ROSTER_SECONDS = 0.1
"""How long a learner waits to hear who is in the pool: of one that is lost or busy it hears at a later look."""


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS, **WEIGHT_THREADS)
class Learner(WeightSource):
    """Owns what is trained, the heads or the whole agent, together with the other learners of its group."""

    def __init__(self, recipe: str, run: str, rank: int):
        self.recipe, self.run_folder, self.rank = Recipe.model_validate_json(recipe), Path(run), rank
        self.whole = dreams_of(self.recipe).finetune == "all"
        torch.set_num_threads(self.recipe.cluster.threads if self.whole else 1)
        self.listening: socket.socket | None = None
        self.device = torch.device("cuda" if self.recipe.cluster.gpus_per_learner else "cpu")

    def address(self) -> tuple[str, int]:
        """Where the others meet this one; it listens there from now on, and on no other interface."""
        self.listening = listen()
        return self.listening.getsockname()

    def run(self, session: str, replicas: list[Actor], store: Actor, board: Actor, address: tuple[str, int] | None) -> dict[str, int]:
        """Fits to the end and returns counts of calls. Errors of ours go to the board; ``session`` names the life of the group."""
        try:
            if address is not None:  # others may have to wait for this one's dreams for as long as it waits itself
                wait = timedelta(seconds=GROUP_SECONDS + outage_seconds(self.recipe.cluster))
                ranks = self.recipe.cluster.learners
                join_group(address, self.listening, rank=self.rank, ranks=ranks, device=self.device, wait=wait)
            return self._fit(session, replicas, store, board)
        except (DreamerError, RayError, OSError) as error:
            if isinstance(error, RayActorError):
                raise
            note_failure(board, error)
            return {}

    def _fit(self, session: str, replicas: list[Actor], store: Actor, board: Actor) -> dict[str, int]:
        config, cluster = dreams_of(self.recipe), self.recipe.cluster
        folder, first = self.run_folder / "imagination", self.rank == 0
        transport = weight_transport(
            cluster.weight_transport if first else "object_store", store, device=self.device.type, source=self if first else None
        )
        shelf = self.device if first and cluster.weight_transport == "nccl" else "cpu"
        export = exporter(self.recipe.name, "imagination", rank=str(self.rank))
        phase, made_by = imagination(self.recipe, self.run_folder)
        published: list[tuple[str, int, Weights]] = []
        counted: dict[str, float] = {}

        def publish(version: int) -> None:
            board.beat.remote(self.rank)
            weights = _copied(phase, shelf)
            published[:] = [(session, version, weights)]  # by all: whose replicas find an emptied store must not wait for the others
            if first:
                with export.timed("publishes", "publish_seconds"):
                    publish_again()
            counts = pool.counts()
            totals = reduce_sum(*(torch.tensor(count, device=self.device) for count in counts.values()))  # they also wait for each other
            counted.update(zip(counts, map(float, totals), strict=True))

        def publish_again() -> None:
            for newest in published:
                transport.publish(*newest)

        pool = ReplicaPool(
            replicas,
            Schedule(config.contexts.batch_size // config.dreams_per_call, config.max_lag, share=(self.rank, cluster.learners)),
            session,
            call_seconds=cluster.call_seconds,
            outage_seconds=outage_seconds(cluster),
            publish_again=publish_again,
            look=_roster(board, self.rank),
            tell=board.tell.remote,
        )

        def batches(start: int) -> Any:
            publish(start)
            dreams = pool.updates(start, config.fit.steps)
            return _rehearsals(dreams, recorded(start)) if self.whole else dreams

        files = FileSink(folder) if first else None

        def sink(done: int, figures: dict[str, float]) -> None:
            if files is not None:
                figures = figures | counted | pool.clock.figures()
                files(done, figures)
                export(done, figures)
                board.report.remote(done, {name: figures[name] for name in SHOWN} | figures)

        recorded = stream(REHEARSAL, self.recipe, self.run_folder, steps=config.fit.steps, rank=self.rank, world=cluster.learners)
        place = Place(folder / "checkpoints", sink, self.device, self.rank, cluster.tuning if self.whole else Tuning())
        fit(phase, export.counted(batches), config.fit, place=place, made_by=made_by, after_step=publish)
        if cluster.evaluators:  # they play the last version when this process, and what only it holds, is gone
            last = _copied(phase, "cpu")
            if first:
                ObjectStoreTransport(store).publish(session, config.fit.steps, last)
        return {"lost_calls": pool.schedule.lost, "dropped_calls": pool.schedule.dropped}

    def __repr__(self) -> str:
        return f"Learner({self.rank})"


def outage_seconds(cluster: ClusterSection) -> float:
    """How long learners wait for any dream."""
    return max(OUTAGE_LIMIT, 2 * cluster.call_seconds, cluster.wait_seconds)


def silent_seconds(cluster: ClusterSection) -> float:
    """After so long without an update, and without waiting for dreams, learners are taken for hung."""
    return GROUP_SECONDS + outage_seconds(cluster)


def _rehearsals(dreams: Iterable[Trajectory], recorded: Iterable[Clip | LatentClip]) -> Iterator[Rehearsal]:
    for dreamed, clips in zip(dreams, recorded, strict=True):
        assert isinstance(clips, LatentClip)
        yield Rehearsal(dreamed, clips)


def _copied(phase: ImaginationTraining | WholeImaginationTraining, device: torch.device | str) -> Weights:
    """What ``phase`` publishes, as it is now; of sharded weights all learners take part in it."""
    return {name: whole(value).detach().to(device, copy=True) for name, value in phase.published().items()}


def _roster(board: Actor, rank: int) -> Callable[[], list[Actor] | None]:
    """Asks the board who is in the pool; who asks is not hung, however long the dreams of an update take."""
    asked: list[ObjectRef] = []

    def look() -> list[Actor] | None:
        board.beat.remote(rank)
        asked[:] = asked or [board.enlisted.remote()]
        if not ray.wait(asked, timeout=ROSTER_SECONDS)[0]:
            return None
        try:
            return ray.get(asked.pop())
        except RayActorError:  # a lost board changes nothing
            return None

    return look
