"""Closed loop in the real environment: many worlds at once, sampled actions, the prompt moving up the ladder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from dreamer_ray.types import ActionComponent, Actions, ActionSpace, Binary, Categorical


class Worlds(Protocol):
    """Where agents are played: one environment a world, a world a seed."""

    def make(self) -> gymnasium.Env:
        """A new environment: pictures uint8 ``[y, x, 3]``, and ``info["events"]``, uint8 ``[m]``: by how much each task's count rose.

        It takes a number for a Categorical component of the action space, an array for the others; by name where there are several.
        """
        ...

    def prompt(self, counts: Sequence[int]) -> int:
        """The task that is to be done next where each was achieved so often."""
        ...


class Player(Protocol):
    """Chooses actions for a batch of episodes, such as ``ActingSession``."""

    def act(self, frames: Tensor, task: Tensor, *, first: Tensor) -> Actions:
        """Actions ``[b]`` for pictures uint8 ``[b y x 3]``, prompts int64 ``[b]`` and marks of first frames bool ``[b]``."""
        ...


class RandomPlayer:
    """Uniform over all actions of ``space``; over -1 .. 1 where they are continuous."""

    def __init__(self, space: ActionSpace, generator: torch.Generator):
        self.space, self.generator = space, generator

    def act(self, frames: Tensor, task: Tensor, *, first: Tensor) -> Actions:
        """See ``Player.act``."""
        return {name: self._draw(component, len(frames)) for name, component in self.space.items()}

    def _draw(self, component: ActionComponent, rows: int) -> Tensor:
        if isinstance(component, Categorical):
            return torch.randint(0, component.size, (rows,), generator=self.generator)
        if isinstance(component, Binary):
            return torch.randint(0, 2, (rows, component.size), generator=self.generator).float()
        return torch.rand(rows, component.size, generator=self.generator) * 2 - 1


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one world."""

    seed: int
    counts: list[int]
    """How often each task was achieved."""
    first_step: list[int]
    """Step of the first time, from 1; -1 where never."""
    steps: int
    died: bool


def play(player: Player, seeds: Sequence[int], worlds: Worlds, *, on_step: Callable[[int], None] | None = None) -> list[EpisodeResult]:
    """Plays one episode in the world of each seed, all of them in one batch; ``on_step`` hears how many worlds still ran.

    The prompt of a world goes with what was achieved in it so far.
    """
    envs = [worlds.make() for _ in seeds]
    begun = [env.reset(seed=seed) for env, seed in zip(envs, seeds, strict=True)]
    frames = np.stack([frame for frame, _ in begun])
    counts = np.stack([np.zeros(len(info["events"]), dtype=np.int64) for _, info in begun])
    first_step = np.full_like(counts, -1)
    running, died, steps = np.ones(len(envs), bool), np.zeros(len(envs), bool), np.zeros(len(envs), int)
    first = torch.ones(len(envs), dtype=torch.bool)
    while running.any():
        prompts = torch.tensor([worlds.prompt(row.tolist()) for row in counts])
        actions = player.act(torch.from_numpy(frames), prompts, first=first)
        first = torch.zeros_like(first)
        for i in np.flatnonzero(running):
            frames[i], _, terminated, truncated, info = envs[i].step(_taken(actions, int(i)))
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


def _taken(actions: Actions, row: int) -> Any:
    """The action of one row, as environments take it."""
    values = {name: value[row].numpy() if value.ndim > 1 else int(value[row]) for name, value in actions.items()}
    return next(iter(values.values())) if len(values) == 1 else values
