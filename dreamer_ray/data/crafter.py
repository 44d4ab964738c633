"""Recorded play of Crafter: which episodes there are, and one episode by the scripted player."""

from dataclasses import dataclass
from itertools import cycle
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.envs.crafter import ACTION_SPACE, LADDER, TASKS, CrafterConfig, CrafterEnv, frame_shape
from dreamer_ray.envs.crafter_player import ScriptedPlayer

HELDOUT_SEEDS = 500_000
"""Worlds of held-out episodes have their seeds from here on; those of training episodes start at 0."""
SEEDS_A_SET = 10_000_000
"""Distance between the seeds of two data sets; the gap leaves evaluation worlds (from 1,000,000 on) that no set uses."""
CRAFTER_FPS = 20.0


class RecordConfig(Config):
    """The data set that the scripted player makes."""

    size: int = Field(default=72, gt=0, multiple_of=9)
    """Side of a picture in pixels."""
    episodes: int = Field(gt=0, le=HELDOUT_SEEDS)
    holdout_episodes: int = Field(gt=0, le=HELDOUT_SEEDS)
    length: int = Field(default=400, gt=1)
    """Step limit of an episode."""
    noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.0, 0.05, 0.15, 0.3, 0.6), min_length=1)
    """Shares of random actions; episodes take them in turn, so that the data holds failures as well as successes."""
    skill: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0,), min_length=1)
    """Shares of its needs that the player notices at a step; episodes take them in turn, as they do ``noise``."""
    attempts: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.0,), min_length=1)
    """Chances of beginning, at a step, to do something that fails there (for four steps on average); episodes take them in turn.

    A player that acts only where it succeeds shows no failure, and a reward head that learns from it pays whatever looks like a try, all
    the more the longer it goes on.
    """
    ladder: tuple[str, ...] = Field(LADDER, min_length=1)
    """The tasks that prompt in training and play, in the order in which they are to be achieved."""
    seed: int = Field(default=0, ge=0, lt=1000)

    @model_validator(mode="after")
    def _possible(self) -> "RecordConfig":
        if unknown := [task for task in self.ladder if task not in TASKS]:
            raise ValueError(f"ladder: {', '.join(unknown)} is no task of Crafter ({', '.join(TASKS)})")
        if len(set(self.ladder)) < len(self.ladder):
            raise ValueError("ladder: a task stands there twice")
        return self

    def world(self) -> CrafterConfig:
        """The environment of every episode."""
        return CrafterConfig(size=self.size, length=self.length)


@dataclass(frozen=True)
class EpisodePlan:
    """One episode to record."""

    name: str
    split: Literal["train", "heldout"]
    seed: int
    noise: float
    skill: float = 1.0
    attempts: float = 0.0


def episode_plan(config: RecordConfig) -> list[EpisodePlan]:
    """All episodes of the data set; no seed is shared between the splits."""

    def planned(split: Literal["train", "heldout"], count: int, first: int) -> list[EpisodePlan]:
        shares = zip(cycle(config.noise), cycle(config.skill), cycle(config.attempts), strict=False)
        return [EpisodePlan(f"{split}-{i:06d}", split, first + i, *each) for i, each in zip(range(count), shares, strict=False)]

    base = config.seed * SEEDS_A_SET
    return planned("train", config.episodes, base) + planned("heldout", config.holdout_episodes, base + HELDOUT_SEEDS)


def shard_schema(config: RecordConfig) -> ShardSchema:
    """The schema of the recorded sets."""
    shape = frame_shape(config.world())
    return ShardSchema(codec="png", frame_shape=shape, action_space=ACTION_SPACE, tasks=TASKS, fps=CRAFTER_FPS)


def record_episode(config: RecordConfig, plan: EpisodePlan) -> Episode:
    """Plays one episode to its end; the same plan gives the same episode in any process."""
    env = CrafterEnv(config.world())
    player = ScriptedPlayer(np.random.default_rng(plan.seed), plan.noise, skill=plan.skill, attempts=plan.attempts)
    frame, info = env.reset(seed=plan.seed)
    frames, events, actions, died, ended = [frame], [info["events"]], [], False, False
    while not ended:
        actions.append(player.act(env))
        frame, _, died, truncated, info = env.step(actions[-1])
        frames.append(frame)
        events.append(info["events"])
        ended = died or truncated
    continues = np.ones(len(frames), np.float32)
    continues[-1] = 0.0 if died else 1.0
    labelled = np.arange(len(frames)) < len(actions)
    details: dict[str, float | int | str] = {"seed": plan.seed, "noise": plan.noise, "skill": plan.skill, "attempts": plan.attempts}
    return Episode(plan.name, np.stack(frames), {"action": np.array([*actions, 0])}, labelled, np.stack(events), continues, details)
