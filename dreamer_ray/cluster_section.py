"""What of a recipe says how the work is spread over processes and machines."""

from typing import Literal

from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.imagination.tuning import DreamTuning
from dreamer_ray.training.parallel import Tuning

LEAST_OBJECT_STORE_MB = 80
"""Room for two windows of batches and the weights."""
REPLICA_RESOURCE = "replica"
"""Of nodes that are kept for replicas: as much of it as there is room for replicas."""


class ClusterSection(Config):
    """How the work is spread. On a cluster that is already there (RAY_ADDRESS) ``cpus`` and ``object_store_mb`` do not apply."""

    cpus: int | None = Field(default=None, gt=0)
    """CPUs that a local Ray declares; None is those of the machine, at least 4, since most actors wait most of the time."""
    wait_seconds: float = Field(default=0, ge=0)
    """How long a cluster that grows on demand may take until it has the CPUs and GPUs that a stage needs; 0 takes it as it is."""
    object_store_mb: int = Field(default=300, ge=LEAST_OBJECT_STORE_MB)
    workers: int = Field(default=1, gt=0)
    """Data-parallel learner workers of the supervised phases."""
    fewest_workers: int | None = Field(default=None, gt=0)
    """Where fewer than ``workers``: with so many a phase begins and goes on while the cluster has no room for more."""
    gpus_per_worker: float = Field(default=0, ge=0)
    threads: int = Field(default=2, gt=0)
    """Torch threads of a learner worker."""
    tuning: Tuning = Tuning()
    """Of the supervised phases."""
    dreaming: DreamTuning = DreamTuning()
    """Of the dreams of imagination training."""
    learners: int = Field(default=1, gt=0)
    """Learners of imagination training, which share every update."""
    gpus_per_learner: float = Field(default=0, ge=0)
    """Beside those of the replicas. Heads learn fast enough on a CPU; for ``imagination.finetune: all`` give each learner a GPU."""
    replicas: int = Field(default=2, gt=0)
    """Actors that record, encode, dream and evaluate."""
    cpu_replicas: int = Field(default=0, ge=0)
    """Dreaming replicas on CPUs besides the ``replicas`` that have a share of a GPU."""
    fewest_replicas: int | None = Field(default=None, gt=0)
    """Where fewer than all that dream: they end while the learner is slower than they are, and start again when it waits.

    Those on CPUs are the first to end and the last to start.
    """
    dedicated_replicas: bool = False
    """Dreaming replicas go to nodes with the resource ``replica`` only, one of it each: where none is free they wait for the autoscaler.

    Not those of ``cpu_replicas``, which go where there is a CPU.
    """
    weight_transport: Literal["object_store", "gloo", "nccl"] = "object_store"
    """How new weights come to dreaming replicas: through the object stores, or from the learner's process, by NCCL from GPU to GPU."""
    evaluators: int = Field(default=0, ge=0)
    """Actors that play with the newest weights while imagination trains (``evaluation.round_worlds``); 0 is none."""
    call_seconds: float = Field(default=300, gt=0)
    """After so long without an answer a dreaming replica or one of ``evaluators`` is taken for hung and started again."""
    job_seconds: float = Field(default=3600, gt=0)
    """The same for an actor that records or encodes a file of episodes or plays a batch of worlds in the stage ``evaluate``, and for a
    worker of the supervised phases that does no step, with all that it waits for.
    """
    gpus_per_replica: float = Field(default=0, ge=0)
    """Of those that encode, dream or evaluate, and of ``evaluators``; 0.5 lets two share a GPU."""
    dashboard: bool = True

    @property
    def least_replicas(self) -> int:
        """How many dreaming replicas there always are."""
        return self.fewest_replicas or self.dreaming_replicas

    @property
    def dreaming_replicas(self) -> int:
        """How many replicas dream at most."""
        return self.replicas + self.cpu_replicas

    @property
    def replica_device(self) -> str:
        """Where replicas hold their models."""
        return "cuda" if self.gpus_per_replica else "cpu"

    @model_validator(mode="after")
    def _fewest_of_all(self) -> "ClusterSection":
        if (self.fewest_workers or 0) > self.workers:
            raise ValueError(f"fewest_workers = {self.fewest_workers} is more than workers = {self.workers}")
        if (self.fewest_replicas or 0) > self.dreaming_replicas:
            raise ValueError(f"fewest_replicas = {self.fewest_replicas} is more than replicas + cpu_replicas = {self.dreaming_replicas}")
        if self.learners > self.least_replicas:
            key = "replicas" if self.fewest_replicas is None else "fewest_replicas"
            raise ValueError(f"learners = {self.learners}, each of which needs a replica of its own, but {key} = {self.least_replicas}")
        return self

    @model_validator(mode="after")
    def _graph_on_gpu(self) -> "ClusterSection":
        if self.dreaming.graph and not self.gpus_per_replica:
            raise ValueError("dreaming.graph = true needs a GPU: set gpus_per_replica, or graph = false")
        return self

    @model_validator(mode="after")
    def _gpus_where_they_are_meant(self) -> "ClusterSection":
        if self.cpu_replicas and not self.gpus_per_replica:
            raise ValueError(
                f"cpu_replicas = {self.cpu_replicas} are meant besides replicas on GPUs, but gpus_per_replica = 0: raise replicas instead"
            )
        if self.weight_transport == "nccl" and not (self.gpus_per_replica and self.gpus_per_learner):
            raise ValueError(
                f"weight_transport = nccl goes from the learner's GPU to those of replicas, but gpus_per_learner = "
                f"{self.gpus_per_learner:g} and gpus_per_replica = {self.gpus_per_replica:g}: set both, or use gloo or object_store"
            )
        return self
