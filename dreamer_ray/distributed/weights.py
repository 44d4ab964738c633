"""Where weights live: one small actor owns every reference, so that a killed learner takes none along.

Learner --publish(session, version, heads)--> WeightStore <--latest / frozen-- WorldModelReplica
"""

from pathlib import Path

import ray
from ray import ObjectRef
from torch import Tensor

from dreamer_ray.distributed import ZERO_COPY_TENSORS
from dreamer_ray.stages import trained
from dreamer_ray.training.restore import restore_agent

Weights = dict[str, Tensor]
KEPT_VERSIONS = 2


@ray.remote(num_cpus=0, max_restarts=-1, runtime_env=ZERO_COPY_TENSORS)
class WeightStore:
    """Holds the agent of the run in folder ``run`` once, frozen, and the newest versions of the head weights."""

    def __init__(self, run: str):
        self.run = Path(run)
        self.frozen_ref: ObjectRef | None = None
        self.versions: list[tuple[str, int, ObjectRef]] = []

    def publish(self, session: str, version: int, heads: Weights) -> None:
        """Takes the heads of one version; ``session`` names the learner's life, since a restarted learner may go back."""
        self.versions = [*self.versions, (session, version, ray.put(heads))][-KEPT_VERSIONS:]

    def latest(self) -> tuple[str, int, list[ObjectRef]]:
        """Session, version and (in a list, so that it is not fetched here) the reference of the newest heads."""
        session, version, reference = self.versions[-1]
        return session, version, [reference]

    def frozen(self) -> list[ObjectRef]:
        """The reference of the frozen weights, in a list."""
        if self.frozen_ref is None:
            self.frozen_ref = ray.put(restore_agent(trained(self.run, "agent")).state_dict())
        return [self.frozen_ref]

    def __repr__(self) -> str:
        return f"WeightStore(version={self.versions[-1][1] if self.versions else None})"
