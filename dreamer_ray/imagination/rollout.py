"""Whole dreams from a context of real frames: with the policy's own actions, or with given ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.imagination.sampler import commit_frame, context_noising, sample_frame
from dreamer_ray.models.actions import previous_actions
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Conditioning, Dynamics
from dreamer_ray.nn.transformer import TransformerCache
from dreamer_ray.objectives.shortcut_forcing import corrupt
from dreamer_ray.types import Actions, LatentClip, Trajectory


def prefill(
    dynamics: Dynamics, context: LatentClip, generator: torch.Generator, *, agent: Float[Tensor, "b t a d"] | None = None
) -> tuple[TransformerCache, Float[Tensor, "b t d"] | None]:
    """Fills a new cache with a context in one pass, at the context signal; returns it and the agent states of all frames."""
    clean = dynamics.standardize(context.latents)
    noising = context_noising(dynamics, *clean.shape[:2])
    noisy = corrupt(clean, _noise(clean, generator), noising.tau(dynamics.config.k_max))
    cache = dynamics.new_cache(clean.shape[0])
    actions, labelled = previous_actions(context.notes.actions, context.notes.labelled)
    prediction = dynamics(noisy, noising, Conditioning(actions, labelled, agent), cache=cache)
    return cache, prediction.states


@torch.no_grad()
def imagine(agent: Agent, context: LatentClip, *, horizon: int, steps: int, generator: torch.Generator, version: int = 0) -> Trajectory:
    """One rollout of ``horizon`` actions per context, actions sampled by the policy, frames by K = ``steps`` shortcut steps.

    Rewards and continues are the heads' expectations on the states that the actions led to.
    """
    dynamics, task = agent.dynamics, context.notes.task
    cache, states = prefill(dynamics, context, generator, agent=agent.prompt(task, context.latents.shape[1]))
    assert states is not None
    h, prompt = [states[:, -1]], agent.prompt(task, 1)
    taken: list[Actions] = []
    known = torch.ones(len(task), 1, dtype=torch.bool, device=task.device)
    for _ in range(horizon):
        taken.append(agent.policy.now(h[-1]).sample(generator))
        actions = {name: value.unsqueeze(1) for name, value in taken[-1].items()}
        noise = _noise(context.latents[:, :1], generator)
        latents = sample_frame(dynamics, cache, Conditioning(actions, known), steps=steps, noise=noise)
        noise = _noise(latents, generator)
        state = commit_frame(dynamics, cache, Conditioning(actions, known, prompt), latents=latents, noise=noise)
        assert state is not None
        h.append(state)
    reached = torch.stack(h, dim=1)
    return Trajectory(
        states=reached,
        actions={name: torch.stack([action[name] for action in taken], dim=1) for name in taken[0]},
        rewards=agent.reward.now(reached[:, 1:]).mean,
        continues=agent.continues.probability(reached[:, 1:]),
        task=task,
        version=version,
    )


@torch.no_grad()
def dream(dynamics: Dynamics, context: LatentClip, actions: Actions, *, steps: int, generator: torch.Generator) -> Float[Tensor, "b t l c"]:
    """The tokenizer latents that ``dynamics`` sees follow on ``context`` under given ``actions``.

    ``actions`` holds ``[b t ...]``, the first one taken at the last frame of the context; as many frames are returned.
    """
    cache, _ = prefill(dynamics, context, generator)
    frames = []
    horizon = next(iter(actions.values())).shape[1]
    known = torch.ones(context.latents.shape[0], 1, dtype=torch.bool, device=context.latents.device)
    for t in range(horizon):
        conditioning = Conditioning({name: value[:, t : t + 1] for name, value in actions.items()}, known)
        noise = _noise(context.latents[:, :1], generator)
        latents = sample_frame(dynamics, cache, conditioning, steps=steps, noise=noise)
        commit_frame(dynamics, cache, conditioning, latents=latents, noise=_noise(latents, generator))
        frames.append(latents)
    return dynamics.restore(torch.cat(frames, dim=1))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
