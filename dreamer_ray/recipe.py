"""A recipe: the configuration of one whole experiment, section by section, as a YAML file holds it."""

from typing import Literal

from pydantic import Field, model_validator

from dreamer_ray.cluster_section import ClusterSection
from dreamer_ray.config import Config
from dreamer_ray.data.batches import BatchConfig
from dreamer_ray.data.crafter import HELDOUT_SEEDS, SEEDS_A_SET, RecordConfig
from dreamer_ray.data.recordings import RecordingsConfig
from dreamer_ray.envs.gymnasium_env import EnvironmentConfig
from dreamer_ray.models.agent import AgentConfig
from dreamer_ray.models.dynamics import DynamicsConfig
from dreamer_ray.models.tokenizer import TokenizerConfig
from dreamer_ray.phases.cloning import FinetuningConfig
from dreamer_ray.phases.forcing import ForcingConfig
from dreamer_ray.phases.imagination_training import ImaginationLossConfig
from dreamer_ray.training.loop import FitConfig

FIRST_FRESH_WORLD, MOST_WORLDS = 2 * HELDOUT_SEEDS, 870_000  # those from 8,000,000 on and from 8,200,000 to 8,261,279 were looked at
FIRST_ROUND_WORLD = SEEDS_A_SET - MOST_WORLDS
"""Worlds that are played during training have their seeds from here on: neither data sets nor the evaluation reach them."""
FIRST_REPRODUCTION_WORLD = FIRST_ROUND_WORLD - MOST_WORLDS
"""Worlds of reproductions of the paper's results have theirs from here on: by none of them was a recipe chosen."""
FIRST_DOCTOR_WORLD = FIRST_REPRODUCTION_WORLD - MOST_WORLDS
"""Worlds that the doctor plays have theirs from here on: what was mended by its findings is measured in others."""


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
    """Also train the same agent from random weights by cloning alone, without a world model, for the comparison in the report."""

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
    prompts: Literal["fixed", "ladder"] = "fixed"
    """Under which a dream goes on: the task of its context; or, as in play, the first task of the ladder that was not achieved yet, and the
    next one when that is. Relevant contexts then end before an event that was due."""
    finetune: Literal["heads", "all"] = "heads"
    """What learns: policy and value heads on a frozen transformer (paper), or all weights, with the terms and batches of agent finetuning
    kept on; these publish the whole agent after every update."""
    loss: ImaginationLossConfig = ImaginationLossConfig()
    fit: FitConfig

    @model_validator(mode="after")
    def _whole_calls(self) -> "ImaginationSection":
        if self.contexts.batch_size % self.dreams_per_call:
            raise ValueError(f"dreams_per_call = {self.dreams_per_call} does not divide contexts.batch_size = {self.contexts.batch_size}")
        if self.prompts == "ladder" and self.finetune == "all":
            raise ValueError("prompts = ladder with finetune = all is not supported: set prompts = fixed, or finetune = heads")
        if self.prompts == "ladder" and self.contexts.relevant_fraction and not self.contexts.lookahead:
            raise ValueError("prompts = ladder with contexts.lookahead = 0: contexts end before their event then, so raise it")
        return self


class EvaluationSection(Config):
    """What is measured at the end. Where there are no worlds to play in, all that speaks of worlds is without effect."""

    worlds: int = Field(default=160, gt=0, le=MOST_WORLDS)
    """Fresh worlds played by behaviour cloning and by the agent after imagination (the same for both)."""
    baseline_worlds: int = Field(default=80, gt=0, le=MOST_WORLDS)
    """How many of these random play and the agent from random weights play."""
    length: int = Field(default=400, gt=0)
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
    seed: int = Field(default=FIRST_FRESH_WORLD, ge=FIRST_FRESH_WORLD, le=FIRST_DOCTOR_WORLD - MOST_WORLDS)
    """Worlds take the seeds from here on; no recorded episode, no round, no reproduction and no doctor's visit has one of them."""
    round_worlds: int = Field(default=40, ge=2, le=MOST_WORLDS)
    """Worlds of each round that ``cluster.evaluators`` play during training: the same ones in every round, never those of the end."""

    def round_seeds(self) -> range:
        """The worlds of a round."""
        return range(FIRST_ROUND_WORLD, FIRST_ROUND_WORLD + self.round_worlds)

    def reproduction_seeds(self) -> range:
        """The worlds of a reproduction, the same for every variant and every seed of training."""
        return range(FIRST_REPRODUCTION_WORLD, FIRST_REPRODUCTION_WORLD + self.worlds)


class Recipe(Config):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Results go to ``runs/NAME``."""
    data: DataSection
    tokenizer: TokenizerSection
    dynamics: DynamicsSection
    agent: AgentSection | None = None
    """None where nothing is to act: the run ends with the dynamics. Needs recorded actions and tasks."""
    imagination: ImaginationSection | None = None
    """None leaves the agent at behaviour cloning."""
    evaluation: EvaluationSection = EvaluationSection()
    cluster: ClusterSection = ClusterSection()

    def absolute(self) -> "Recipe":
        """The same with local paths of recordings made absolute, for processes whose working directory is another.

        What is recorded of a run holds the paths as they were written.
        """
        if self.data.recordings is None:
            return self
        return self.model_copy(update={"data": self.data.model_copy(update={"recordings": self.data.recordings.absolute()})})

    @property
    def supervised(self) -> dict[str, TokenizerSection | DynamicsSection | AgentSection]:
        """The sections of the phases on recorded clips that there are, by name."""
        found: dict[str, TokenizerSection | DynamicsSection | AgentSection] = {"tokenizer": self.tokenizer, "dynamics": self.dynamics}
        return found if self.agent is None else found | {"agent": self.agent}

    @property
    def clips(self) -> dict[str, BatchConfig]:
        """The batches of all phases that there are, by the key that holds them."""
        found = {f"{name}.batches": section.batches for name, section in self.supervised.items()}
        return found if self.imagination is None else found | {"imagination.contexts": self.imagination.contexts}

    @model_validator(mode="after")
    def _agent_to_improve(self) -> "Recipe":
        if self.imagination is not None and self.agent is None:
            raise ValueError("imagination: improves an agent, and there is none; add the section agent, or leave imagination out")
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        latents, dynamics = self.tokenizer.model.latents, self.dynamics.model
        if latents % dynamics.packing:
            raise ValueError(f"dynamics.model.packing = {dynamics.packing} does not divide tokenizer.model.latents = {latents}")
        for name, section in (("imagination", self.imagination), ("evaluation", self.evaluation)):
            steps = section.sampling_steps if section else 1
            if steps > dynamics.k_max or steps & (steps - 1):
                raise ValueError(
                    f"{name}.sampling_steps = {steps}: expected a power of two from 1 to dynamics.model.k_max = {dynamics.k_max}"
                )
        if dynamics.transformer.context < 2:
            raise ValueError("dynamics.model.transformer.context = 1: the dynamics could not see any frame before the one that it predicts")
        longest = {name: max(config.length, config.long_length or 0) for name, config in self.clips.items()}
        longest["evaluation.dream_frames (and the context before them)"] = dynamics.transformer.context - 1 + self.evaluation.dream_frames
        for name, frames in longest.items():
            if frames > (episode := self.data.longest_episode):
                key = "data.crafter.length" if self.data.crafter else "data.recordings.episode_frames"
                raise ValueError(f"{name}: clips of {frames} frames, but {key} allows episodes of {episode} at most")
        return self

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> "Recipe":
        workers, elastic = self.cluster.workers, self.cluster.fewest_workers is not None
        for name, section in self.supervised.items():
            for key, size in (("batch_size", section.batches.batch_size), ("long_batch_size", section.batches.long_batch_size or 0)):
                shares = workers * section.fit.accumulate
                if 0 < size < shares or (size % shares and not elastic):  # of other numbers of workers some have a row more than others
                    raise ValueError(
                        f"{name}.batches.{key} = {size} cannot be shared by cluster.workers = {workers} "
                        f"with {name}.fit.accumulate = {section.fit.accumulate}"
                    )
        return self

    @model_validator(mode="after")
    def _teachers_have_an_average(self) -> "Recipe":
        forced: list[tuple[str, ForcingConfig, str, FitConfig]] = [
            ("dynamics.forcing", self.dynamics.forcing, "dynamics", self.dynamics.fit)
        ]
        if self.agent is not None:
            forced.append(("agent.finetuning", self.agent.finetuning, "agent", self.agent.fit))
            if self.imagination is not None and self.imagination.finetune == "all":
                forced.append(("agent.finetuning", self.agent.finetuning, "imagination", self.imagination.fit))
        for key, forcing, stage, fit in forced:
            if forcing.teacher == "ema" and not fit.ema:
                raise ValueError(f"{key}.teacher = ema, and {stage}.fit.ema = 0 keeps no average: raise it, or take teacher = self")
            if forcing.teacher == "ema" and self.cluster.tuning.sharded:
                raise ValueError(f"{key}.teacher = ema with cluster.tuning.sharded = true is not supported: set one of them back")
        return self

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> "Recipe":
        fits = {name: section.fit for name, section in self.supervised.items()}
        if self.imagination is not None:
            fits["imagination"] = self.imagination.fit
        for name in (name for name, fit in fits.items() if fit.optimizer.kind == "muon"):
            if self.cluster.tuning.sharded:
                raise ValueError(
                    f"{name}.fit.optimizer.kind = muon with cluster.tuning.sharded = true is not supported: set one of them back"
                )
            if name == "imagination" and self.imagination is not None and self.imagination.finetune == "heads":
                raise ValueError("imagination.fit.optimizer.kind = muon moves transformers, but imagination.finetune = heads: use adamw")
        return self

    @model_validator(mode="after")
    def _dreams_can_be_shared(self) -> "Recipe":
        if self.imagination is None or self.agent is None:
            return self
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
