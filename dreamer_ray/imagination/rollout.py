"""Whole dreams from a context of real frames: with the policy's own actions, or with given ones."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.types import Actions, LatentClip, Trajectory


@torch.no_grad()
def imagine(
    engine: DreamEngine,
    context: LatentClip,
    *,
    horizon: int,
    sampling: Sampling,
    seeds: list[int],
    version: int = 0,
    following: Int[Tensor, "tasks"] | None = None,
) -> Trajectory:
    """One rollout of ``horizon`` actions per context, in free slots of an ``engine`` with an agent, whose policy draws the actions.

    The prompt is that of the context all along. With ``following``, the task that comes after each, a world whose task is achieved by more
    than half in the eyes of the reward head has the next one from the next frame on.

    Each rollout has its own seed. Rewards and continues are the heads' expectations on the states that the actions led to; of frames only
    the latents and the actions that led to them mean something.
    """
    slots = engine.join(context, seeds, sampling=sampling)
    rows = torch.tensor(slots, device=engine.device)
    start = engine.states[rows]
    try:
        frames = []
        for _ in range(horizon):
            frame = engine.dream(engine.act(sampling=sampling), sampling=sampling)
            frames.append(frame.rows(rows))
            if following is not None and frame.judgement is not None:
                engine.task = torch.where(frame.judgement.rewards > 0.5, following[engine.task], engine.task)
    finally:
        engine.leave(slots)
    judged = [frame.judgement for frame in frames if frame.judgement is not None]
    actions = {name: torch.stack([frame.actions[name] for frame in frames], dim=1) for name in frames[0].actions}
    return Trajectory(
        states=torch.stack([start, *(judgement.states for judgement in judged)], dim=1),
        actions=actions,
        rewards=torch.stack([judgement.rewards for judgement in judged], dim=1),
        continues=torch.stack([judgement.continues for judgement in judged], dim=1),
        task=context.notes.task,
        version=version,
        frames=_continued(context, torch.stack([frame.latents for frame in frames], dim=1), actions),
    )


def following(ladder: Sequence[int], tasks: int, device: torch.device | str = "cpu") -> Int[Tensor, "tasks"]:
    """Of each of ``tasks`` tasks, the one that comes after it on the ``ladder``; itself for the last one and where it is not there."""
    found = torch.arange(tasks, device=device)
    for task, after in pairwise(ladder):
        found[task] = after
    return found


def _continued(context: LatentClip, latents: Float[Tensor, "b t l c"], actions: Actions) -> LatentClip:
    """``context`` and the ``latents`` that followed on it under ``actions``; the last frame's own action is not known."""
    notes = context.notes

    def followed(known: Tensor, dreamed: Tensor) -> Tensor:
        return torch.cat([known[:, :-1], dreamed, torch.zeros_like(dreamed[:, :1])], 1)

    nothing = torch.zeros(latents.shape[:2], device=latents.device)
    return LatentClip(
        torch.cat([context.latents, latents], 1),
        replace(
            notes,
            actions={name: followed(notes.actions[name], value) for name, value in actions.items()},
            labelled=followed(notes.labelled, torch.ones_like(nothing, dtype=torch.bool)),
            rewards=torch.cat([notes.rewards, nothing], 1),
            continues=torch.cat([notes.continues, nothing], 1),
        ),
    )


def dream(
    dynamics: Dynamics, context: LatentClip, actions: Actions, known: Bool[Tensor, "b t"], *, sampling: Sampling, seeds: list[int]
) -> Float[Tensor, "b t l c"]:
    """The tokenizer latents that ``dynamics`` sees follow on ``context`` under given ``actions``, or any where they are not ``known``.

    ``actions`` holds ``[b t ...]``, the first one taken at the last frame of the context; as many frames are returned.
    """
    engine = DreamEngine(dynamics, slots=len(seeds))
    engine.join(context, seeds, sampling=sampling)
    steps = [{name: value[:, t] for name, value in actions.items()} for t in range(known.shape[1])]
    dreamed = [engine.dream(step, known=known[:, t], sampling=sampling).latents for t, step in enumerate(steps)]
    return torch.stack(dreamed, dim=1)
