"""Phase 2: behaviour cloning and reward on agent tokens, with the video loss kept on (Dreamer 4, section 3.3, Eq. 9)."""

import torch

from dreamer_ray.models.agent import Agent
from dreamer_ray.phases.cloning import FinetuningConfig, cloning_terms
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import LatentClip, Loss


class AgentFinetuning(Phase):
    """Trains dynamics, task embedding, policy, reward and continue heads."""

    def __init__(self, agent: Agent, config: FinetuningConfig):
        super().__init__(config.weights)
        self.agent, self.config = agent, config
        agent.value.requires_grad_(False)

    def forward(self, batch: LatentClip, *, generator: torch.Generator, progress: float) -> Loss:
        agent = self.agent
        terms = cloning_terms(agent, agent.policy, batch, self.config, average=self.average, generator=generator, progress=progress)
        return self.weigh(terms)
