"""An acting policy: real pictures in, sampled actions out, for a batch of episodes that begin and end on their own."""

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from dreamer_ray.imagination.sampler import commit_frame
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Conditioning
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Actions, Binary, Categorical


class ActingSession:
    """Keeps the caches of tokenizer and dynamics for ``batch`` episodes; acts by sampling, as the paper's agent does."""

    def __init__(self, tokenizer: Tokenizer, agent: Agent, *, batch: int, generator: torch.Generator):
        self.tokenizer, self.agent, self.generator = tokenizer, agent, generator
        self.encoder_cache = tokenizer.new_encoder_cache(batch)
        self.cache = agent.dynamics.new_cache(batch)
        device = self.cache.frame.device
        self.known = torch.zeros(batch, dtype=torch.bool, device=device)
        self.last: Actions = {}
        for name, component in agent.dynamics.actions.space.items():
            shape = (batch,) if isinstance(component, Categorical) else (batch, component.size)
            dtype = torch.float32 if not isinstance(component, Categorical | Binary) else torch.long
            self.last[name] = torch.zeros(shape, dtype=dtype, device=device)

    @torch.no_grad()
    def act(self, frames: UInt8[Tensor, "b y x 3"], task: Int[Tensor, "b"], *, first: Bool[Tensor, "b"]) -> Actions:
        """Actions ``[b ...]`` for pictures ``frames`` under prompts ``task``; rows marked ``first`` begin a new episode."""
        for cache in (self.encoder_cache, self.cache):
            cache.frame.masked_fill_(first, 0)
        dynamics = self.agent.dynamics
        latents = dynamics.standardize(self.tokenizer.encode(frames.unsqueeze(1), cache=self.encoder_cache))
        conditioning = Conditioning(
            {name: value.unsqueeze(1) for name, value in self.last.items()},
            (self.known & ~first).unsqueeze(1),
            self.agent.prompt(task, 1),
        )
        noise = torch.randn(latents.shape, generator=self.generator, device=latents.device)
        state = commit_frame(dynamics, self.cache, conditioning, latents=latents, noise=noise)
        assert state is not None
        self.last = self.agent.policy.now(state).sample(self.generator)
        self.known = torch.ones_like(self.known)
        return self.last
