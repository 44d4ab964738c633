"""A recipe: the configuration of one whole experiment, section by section, as a YAML file holds it."""

from typing import Literal

from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.data.batches import BatchConfig
from dreamer_ray.data.crafter import HELDOUT_SEEDS, SEEDS_A_SET, RecordConfig
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig
from dreamer_ray.imagination.tuning import DreamTuning
from dreamer_ray.models.agent import AgentConfig
from dreamer_ray.models.dynamics import DynamicsConfig
from dreamer_ray.models.tokenizer import TokenizerConfig
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig
from dreamer_ray.training.loop import FitConfig
from dreamer_ray.training.parallel import Tuning

FIRST_FRESH_WORLD, MOST_WORLDS = 2 * HELDOUT_SEEDS, 1_000_000
FIRST_ROUND_WORLD = SEEDS_A_SET - MOST_WORLDS
"""Worlds that are played during training have their seeds from here on: neither data sets nor the evaluation reach them."""
LEAST_OBJECT_STORE_MB = 80
"""Room for two windows of batches and the weights."""
REPLICA_RESOURCE = "replica"
"""Of nodes that are kept for replicas: as much of it as there is room for replicas."""


class DataSection(Config):
    """Where the episodes come from: played in Crafter by a script, or recordings of others."""

    crafter: RecordConfig | None = None
    recordings: RecordingsConfig | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "DataSection":
        if (self.crafter is None) == (self.recordings is None):
            raise ValueError("wanted one of crafter and recordings")
        return self

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a picture."""
        if self.crafter is not None:
            return self.crafter.size, self.crafter.size
        assert self.recordings is not None
        return self.recordings.layout.shape

    @property
    def longest_episode(self) -> int:
        """Frames."""
        if self.crafter is not None:
            return self.crafter.length + 1
        assert self.recordings is not None
        return self.recordings.episode_frames


class TokenizerSection(Config):
    """Phase 1a."""

    model: TokenizerConfig
    batches: BatchConfig
    fit: FitConfig


class DynamicsSection(Config):
    """Phase 1b."""

    model: DynamicsConfig
    forcing: ForcingConfig = ForcingConfig()
    batches: BatchConfig
    fit: FitConfig


class AgentSection(Config):
    """Phase 2."""

    model: AgentConfig = AgentConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    batches: BatchConfig
    fit: FitConfig
    scratch: bool = True
    """Also train the same agent from random weights instead of the pretrained dynamics, for the comparison in the report."""

    @model_validator(mode="after")
    def _some_clips_are_relevant(self) -> "AgentSection":
        share, rows = self.batches.relevant_fraction, self.batches.batch_size
        if int(share * rows + 1e-9) < 1:
            raise ValueError(
                f"batches.relevant_fraction = {share:g} of batch_size = {rows} is no whole clip: only task-relevant clips are cloned"
            )
        return self


class ImaginationSection(Config):
    """Phase 3."""

    contexts: BatchConfig
    """Dreams start from clips of this length; ``batch_size`` is that of one update."""
    horizon: int = Field(default=15, gt=0)
    """Actions of a dream."""
    sampling_steps: int = Field(default=4, gt=0)
    """K."""
    dreams_per_call: int = Field(default=16, gt=0)
    """Contexts that one replica dreams in one call; divides ``contexts.batch_size``."""
    max_lag: int = Field(default=2, ge=0)
    """Largest age, in updates, of the weights that dreamed what an update uses; 0 is synchronous and reproducible."""
    finetune: Literal["heads", "all"] = "heads"
    """What learns: policy and value heads on a frozen transformer (paper), or all weights, with the terms and batches of agent finetuning
    kept on; these publish the whole agent after every update."""
    loss: ImaginationLossConfig = ImaginationLossConfig()
    fit: FitConfig

    @model_validator(mode="after")
    def _whole_calls(self) -> "ImaginationSection":
        if self.contexts.batch_size % self.dreams_per_call:
            raise ValueError(f"dreams_per_call = {self.dreams_per_call} does not divide contexts.batch_size = {self.contexts.batch_size}")
        return self


class EvaluationSection(Config):
    """What is measured at the end."""

    worlds: int = Field(gt=0, le=MOST_WORLDS)
    """Fresh worlds played by behaviour cloning and by the agent after imagination (the same for both)."""
    baseline_worlds: int = Field(gt=0, le=MOST_WORLDS)
    """How many of these random play and the agent from random weights play."""
    length: int = Field(gt=0)
    """Step limit of an episode."""
    environment: EnvironmentConfig | None = None
    """The world of recordings that were made in a Gymnasium environment; agents are played there."""
    worlds_per_call: int = Field(default=40, gt=0)
    windows: int = Field(default=48, gt=0)
    """Held-out clips on which dreams are compared with the truth."""
    dream_frames: int = Field(default=8, gt=0)
    pictures: int = Field(default=256, gt=0)
    """Held-out pictures on which reconstruction is measured."""
    sampling_steps: int = Field(default=4, gt=0)
    seed: int = Field(default=FIRST_FRESH_WORLD, ge=FIRST_FRESH_WORLD, le=FIRST_ROUND_WORLD - MOST_WORLDS)
    """Worlds take the seeds from here on; no recorded episode and no round has one of them."""
    round_worlds: int = Field(default=40, ge=2, le=MOST_WORLDS)
    """Worlds of each round that ``cluster.evaluators`` play during training: the same ones in every round, never those of the end."""

    def round_seeds(self) -> range:
        """The worlds of a round."""
        return range(FIRST_ROUND_WORLD, FIRST_ROUND_WORLD + self.round_worlds)


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
    """The same for an actor that records a file of episodes or plays a batch of worlds in the stage ``evaluate``."""
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


class Recipe(Config):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Results go to ``runs/NAME``."""
    data: DataSection
    tokenizer: TokenizerSection
    dynamics: DynamicsSection
    agent: AgentSection
    imagination: ImaginationSection
    evaluation: EvaluationSection
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        latents, dynamics = self.tokenizer.model.latents, self.dynamics.model
        if latents % dynamics.packing:
            raise ValueError(f"dynamics.model.packing = {dynamics.packing} does not divide tokenizer.model.latents = {latents}")
        for section, steps in (("imagination", self.imagination.sampling_steps), ("evaluation", self.evaluation.sampling_steps)):
            if steps > dynamics.k_max or steps & (steps - 1):
                raise ValueError(
                    f"{section}.sampling_steps = {steps}: expected a power of two from 1 to dynamics.model.k_max = {dynamics.k_max}"
                )
        if dynamics.transformer.context < 2:
            raise ValueError("dynamics.model.transformer.context = 1: the dynamics could not see any frame before the one that it predicts")
        batches = {
            "tokenizer.batches": self.tokenizer.batches,
            "dynamics.batches": self.dynamics.batches,
            "agent.batches": self.agent.batches,
        }
        clips = batches | {"imagination.contexts": self.imagination.contexts}
        longest = {name: max(config.length, config.long_length or 0) for name, config in clips.items()}
        longest["evaluation.dream_frames (and the context before them)"] = dynamics.transformer.context - 1 + self.evaluation.dream_frames
        for name, frames in longest.items():
            if frames > (episode := self.data.longest_episode):
                key = "data.crafter.length" if self.data.crafter else "data.recordings.episode_frames"
                raise ValueError(f"{name}: clips of {frames} frames, but {key} allows episodes of {episode} at most")
        return self

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> "Recipe":
        workers, elastic = self.cluster.workers, self.cluster.fewest_workers is not None
        for name, section in (("tokenizer", self.tokenizer), ("dynamics", self.dynamics), ("agent", self.agent)):
            for key, size in (("batch_size", section.batches.batch_size), ("long_batch_size", section.batches.long_batch_size or 0)):
                shares = workers * section.fit.accumulate
                if 0 < size < shares or (size % shares and not elastic):  # of other numbers of workers some have a row more than others
                    raise ValueError(
                        f"{name}.batches.{key} = {size} cannot be shared by cluster.workers = {workers} "
                        f"with {name}.fit.accumulate = {section.fit.accumulate}"
                    )
        rows, parts, learners = self.imagination.contexts.batch_size, self.imagination.fit.accumulate, self.cluster.learners
        if rows // self.imagination.dreams_per_call % learners:
            raise ValueError(
                f"cluster.learners = {learners} cannot share imagination.contexts.batch_size = {rows} "
                f"by calls of imagination.dreams_per_call = {self.imagination.dreams_per_call}"
            )
        if rows // learners % parts:
            raise ValueError(f"imagination.contexts.batch_size = {rows} cannot be shared by imagination.fit.accumulate = {parts}")
        clips = self.agent.batches.batch_size, self.agent.batches.long_batch_size or self.agent.batches.batch_size
        if self.imagination.finetune == "all" and min(clips) < learners * parts:
            raise ValueError(
                f"agent.batches: {min(clips)} clips, which imagination.finetune = all trains on too, cannot be shared by "
                f"cluster.learners = {learners} with imagination.fit.accumulate = {parts}"
            )
        return self
