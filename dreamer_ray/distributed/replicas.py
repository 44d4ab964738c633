"""World-model replicas: actors that hold the frozen model and dream batches of whole rollouts on request.

ReplicaPool --dream(call, session, version)--> WorldModelReplica --Trajectory--> ReplicaPool
a replica takes the newest weights from the weight store when told of a newer version
"""

import time
from pathlib import Path
from typing import Any

import ray
import torch

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.telemetry import exporter
from dreamer_ray.distributed.weights import STORE, MissingWeightsError, ObjectStoreTransport
from dreamer_ray.recipe import REPLICA_RESOURCE, ClusterSection, Recipe
from dreamer_ray.stages import Dreamer
from dreamer_ray.training.restore import build_agent
from dreamer_ray.training.telemetry import frame_count
from dreamer_ray.types import Trajectory


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, runtime_env=ZERO_COPY_TENSORS)
class WorldModelReplica:
    """Holds the world model and the newest weights of what is trained; one call dreams one batch of whole rollouts."""

    def __init__(self, number: int, recipe: str, run: str, made_by: dict[str, Any]):
        torch.set_num_threads(1)
        self.number, self.transport, self.session, self.version = number, ObjectStoreTransport(ray.get_actor(STORE)), "", -1
        self.recipe, self.run, self.made_by = Recipe.model_validate_json(recipe), Path(run), made_by
        self.dreamer: Dreamer | None = None
        self.export = exporter(self.recipe.name, "imagination", replica=str(number))
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.export.add("restarts", part="replica")

    def ready(self) -> int:
        """Its number, once it holds the world model. Made here and not with the actor, whose errors would lose their type."""
        if self.dreamer is None:
            agent = build_agent(self.made_by)
            agent.load_state_dict(self.transport.frozen())
            self.dreamer = Dreamer(self.recipe, self.run, agent.requires_grad_(False).eval())
        return self.number

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        """The rollouts of ``call`` by the newest weights, which are at least those of ``version`` of ``session``.

        Raises ``MissingWeightsError`` where the store has no such weights.
        """
        self.ready()
        assert self.dreamer is not None
        self._renew(self.dreamer)
        if self.session != session or self.version < version:
            raise MissingWeightsError(f"the weight store has version {self.version}, {version} was to be used")
        trajectory = self.dreamer.dream(call, self.version)
        self.export.add("frames_dreamed", frame_count(trajectory))
        return trajectory

    def _renew(self, dreamer: Dreamer) -> None:
        begun = time.perf_counter()
        if (newer := self.transport.fetch((self.session, self.version))) is not None:
            self.session, self.version, weights = newer
            dreamer.agent.load_weights(weights)
            self.export.add("syncs")
            self.export.add("sync_seconds", time.perf_counter() - begun)

    def __repr__(self) -> str:
        return f"WorldModelReplica({self.number})"


def start_replica(number: int, recipe: Recipe, run: Path, made_by: dict[str, Any]) -> Actor:
    """An actor that starts as soon as the cluster has room for it."""
    options = {"name": f"replica-{number}", "num_gpus": recipe.cluster.gpus_per_replica, "resources": replica_resources(recipe.cluster)}
    return WorldModelReplica.options(**options).remote(number, recipe.model_dump_json(), str(run), made_by)


def replica_resources(cluster: ClusterSection) -> dict[str, float]:
    """What a replica asks for besides CPUs and GPUs."""
    return {REPLICA_RESOURCE: 1} if cluster.dedicated_replicas else {}
