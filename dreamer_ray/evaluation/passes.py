"""Models over more rows than they can have in memory at once, wherever the models are."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_ray.imagination.sampler import prefill
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Batch, LatentClip

ROWS = 16


@torch.no_grad()
def in_passes(model: nn.Module, of: Callable[..., Tensor], *batches: Batch | Tensor) -> Tensor:
    """What ``of`` makes of ``batches`` on the device of ``model``, on the CPU.

    ``ROWS`` at a time, so that a pass needs no more memory where more is looked at.
    """
    device = next(model.parameters()).device
    count = len(batches[0] if isinstance(batches[0], Tensor) else batches[0].tensors()[0])
    found = []
    for first in range(0, count, ROWS):
        some = slice(first, first + ROWS)
        rows = [each[some] if isinstance(each, Tensor) else each.rows(some) for each in batches]
        found.append(of(*(each.to(device) for each in rows)).cpu())
    return torch.cat(found)


def decoded(tokenizer: Tokenizer, latents: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t y x 3"]:
    """The pictures of ``latents``, in 0 .. 1."""
    return in_passes(tokenizer, lambda rows: tokenizer.decode(rows).clamp(0, 1), latents)


def agent_states(agent: Agent, clip: LatentClip, noise: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t d"]:
    """States of recorded frames, with ``noise`` on them, under the prompts of ``clip``; in one pass."""
    states = prefill(agent.dynamics, clip, noise=noise, agent=agent.prompt(clip.notes.task, clip.latents.shape[1]))
    assert states is not None
    return states
