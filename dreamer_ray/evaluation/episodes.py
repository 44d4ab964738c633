"""Closed loop in the real environment: many worlds at once, sampled actions, the prompt moving up the ladder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dreamer_ray.envs.crafter import ACTION_SPACE, TASKS, CrafterConfig, CrafterEnv, ladder_prompt
from dreamer_ray.types import Actions


class Player(Protocol):
    """Chooses actions for a batch of episodes, such as ``ActingSession``."""

    def act(self, frames: Tensor, task: Tensor, *, first: Tensor) -> Actions:
        """Actions ``[b]`` for pictures uint8 ``[b y x 3]``, prompts int64 ``[b]`` and marks of first frames bool ``[b]``."""
        ...


class RandomPlayer:
    """Uniform over all actions."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def act(self, frames: Tensor, task: Tensor, *, first: Tensor) -> Actions:
        """See ``Player.act``."""
        size = ACTION_SPACE["action"].size
        return {"action": torch.randint(0, size, (len(frames),), generator=self.generator)}


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one world."""

    seed: int
    counts: list[int]
    """How often each task of ``TASKS`` was achieved."""
    first_step: list[int]
    """Step of the first time, from 1; -1 where never."""
    steps: int
    died: bool


def play(
    player: Player, seeds: Sequence[int], config: CrafterConfig, *, on_step: Callable[[int], None] | None = None
) -> list[EpisodeResult]:
    """Plays one episode in the world of each seed, all of them in one batch; ``on_step`` hears how many worlds still ran.

    The prompt of a world is the lowest task of the ladder that it has not achieved yet.
    """
    envs = [CrafterEnv(config) for _ in seeds]
    frames = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    counts = np.zeros((len(envs), len(TASKS)), dtype=np.int64)
    first_step = np.full_like(counts, -1)
    running, died, steps = np.ones(len(envs), bool), np.zeros(len(envs), bool), np.zeros(len(envs), int)
    first = torch.ones(len(envs), dtype=torch.bool)
    while running.any():
        prompts = torch.tensor([ladder_prompt(dict(zip(TASKS, row.tolist(), strict=True))) for row in counts])
        actions = player.act(torch.from_numpy(frames), prompts, first=first)["action"]
        first = torch.zeros_like(first)
        for i in np.flatnonzero(running):
            frames[i], _, terminated, truncated, info = envs[i].step(int(actions[i]))
            steps[i] += 1
            events = np.asarray(info["events"], dtype=np.int64)
            first_step[i][(events > 0) & (counts[i] == 0)] = steps[i]
            counts[i] += events
            running[i], died[i] = not (terminated or truncated), terminated
        if on_step is not None:
            on_step(int(running.sum()))
    return [
        EpisodeResult(int(seed), counts[i].tolist(), first_step[i].tolist(), int(steps[i]), bool(died[i])) for i, seed in enumerate(seeds)
    ]
