"""World-model replicas: actors that hold the frozen model and dream batches of whole rollouts on request.

ReplicaPool --dream(call, session, version)--> WorldModelReplica --Trajectory--> ReplicaPool
a replica takes the newest weights from the weight store when told of a newer version
"""

import time
from pathlib import Path
from typing import Any

import ray
import torch

from dreamer_ray.cluster_section import REPLICA_RESOURCE, ClusterSection
from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.direct_transport import weight_transport
from dreamer_ray.distributed.replica_pool import TimedTrajectory
from dreamer_ray.distributed.telemetry import exporter
from dreamer_ray.distributed.weights import STORE, MissingWeightsError
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import Dreamer
from dreamer_ray.training.restore import build_agent
from dreamer_ray.training.telemetry import frame_count


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, runtime_env=ZERO_COPY_TENSORS)
class WorldModelReplica:
    """Holds the world model and the newest weights of what is trained; one call dreams one batch of whole rollouts."""

    def __init__(self, number: int, recipe: str, run: str, made_by: dict[str, Any], device: str):
        torch.set_num_threads(1)
        self.number, self.session, self.version, self.device = number, "", -1, device
        self.recipe, self.run, self.made_by = Recipe.model_validate_json(recipe), Path(run), made_by
        self.warm = device == "cpu" and not self.recipe.cluster.dreaming.compile  # otherwise the first call takes longer than others
        self.dreamer: Dreamer | None = None
        self.export = exporter(self.recipe.name, "imagination", replica=str(number))
        self.transport = weight_transport(
            self.recipe.cluster.weight_transport,
            ray.get_actor(STORE),
            device=device,
            link_lost=lambda: self.export.add("restarts", part="weight link"),
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.export.add("restarts", part="replica")

    def ready(self) -> int:
        """Its number, once it holds the world model. Made here and not with the actor, whose errors would lose their type."""
        if self.dreamer is None:
            agent = build_agent(self.made_by)
            agent.load_state_dict(self.transport.frozen())
            self.dreamer = Dreamer(self.recipe, self.run, agent.requires_grad_(False).eval(), device=self.device)
        return self.number

    def dream(self, call: int, session: str, version: int) -> TimedTrajectory:
        """The rollouts of ``call`` by the newest weights, which are at least those of ``version`` of ``session``.

        Raises ``MissingWeightsError`` where the store has no such weights.
        """
        called = time.perf_counter()
        self.ready()
        assert self.dreamer is not None
        self._renew(self.dreamer)
        if self.session != session or self.version < version:
            raise MissingWeightsError(f"the weight store has version {self.version}, {version} was to be used")
        begun = time.perf_counter()
        trajectory = self.dreamer.dream(call, self.version)
        self.export.add("frames_dreamed", frame_count(trajectory))
        ended, measured, self.warm = time.perf_counter(), self.warm, True
        return TimedTrajectory(**vars(trajectory), seconds=ended - begun if measured else None, busy=ended - called)

    def _renew(self, dreamer: Dreamer) -> None:
        begun = time.perf_counter()
        if (newer := self.transport.fetch((self.session, self.version))) is not None:
            self.session, self.version, weights = newer
            dreamer.agent.load_weights(weights)
            self.export.add("syncs")
            self.export.add("sync_seconds", time.perf_counter() - begun)

    def __repr__(self) -> str:
        return f"WorldModelReplica({self.number})"


def start_replica(number: int, recipe: Recipe, run: Path, made_by: dict[str, Any], *, device: str) -> Actor:
    """An actor that starts as soon as the cluster has room for it."""
    options = {"name": f"replica-{number}"} | replica_resources(recipe.cluster, device)
    return WorldModelReplica.options(**options).remote(number, recipe.model_dump_json(), str(run), made_by, device)


def replica_resources(cluster: ClusterSection, device: str) -> dict[str, Any]:
    """What a replica on ``device`` asks for besides a CPU; one without a GPU beside others that have one takes no room from them."""
    if device != cluster.replica_device:
        return {}
    return {"num_gpus": cluster.gpus_per_replica, "resources": {REPLICA_RESOURCE: 1} if cluster.dedicated_replicas else {}}


def device_of(place: int, cluster: ClusterSection) -> str:
    """Where the replica at a place of the pool has its models: those on GPUs come first, so the others are the first to end."""
    return cluster.replica_device if place < cluster.replicas else "cpu"
