"""An acting policy: real pictures in, sampled actions out, for a batch of episodes that begin and end on their own."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.tuning import lay_out
from dreamer_ray.models.actions import no_actions
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Actions


class ActingSession:
    """Plays an episode for each of ``seeds``, which decide its draws; acts by sampling, as the paper's agent does."""

    def __init__(self, tokenizer: Tokenizer, agent: Agent, *, seeds: Sequence[int]):
        self.tokenizer, self.engine = tokenizer, DreamEngine(agent.dynamics, slots=len(seeds), agent=agent)
        for row, seed in enumerate(seeds):
            self.engine.streams.restart(row, seed)
        lay_out(tokenizer)
        self.encoder_cache = tokenizer.new_encoder_cache(len(seeds))
        self.known = torch.zeros(len(seeds), dtype=torch.bool, device=self.engine.device)
        self.last = no_actions(agent.dynamics.actions.space, len(seeds), self.engine.device)
        self.latents: Float[Tensor, "b l c"] | None = None
        """Of the pictures that were seen last."""

    @torch.no_grad()
    def act(self, frames: UInt8[Tensor, "b y x 3"], task: Int[Tensor, "b"], *, first: Bool[Tensor, "b"]) -> Actions:
        """Actions ``[b ...]``, on the CPU, for pictures ``frames`` under prompts ``task``; rows marked ``first`` begin a new episode."""
        frames, task, first = (tensor.to(self.engine.device) for tensor in (frames, task, first))
        for cache in (self.encoder_cache, self.engine.cache):
            cache.frame.masked_fill_(first, 0)
        self.engine.task = task
        latents = self.tokenizer.encode(frames.unsqueeze(1), cache=self.encoder_cache)
        self.latents = latents[:, 0]
        self.engine.observe(latents, self.last, self.known & ~first)
        self.last, self.known = self.engine.act(), torch.ones_like(self.known)
        return {name: value.cpu() for name, value in self.last.items()}
