"""Phase 2: behaviour cloning and reward on agent tokens, with the video loss kept on (Dreamer 4, section 3.3, Eq. 9)."""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.imagination.sampler import context_noising
from dreamer_ray.models.agent import Agent
from dreamer_ray.numerics import masked_mean
from dreamer_ray.objectives.behavior import future, in_clip
from dreamer_ray.objectives.shortcut_forcing import shortcut_forcing
from dreamer_ray.phases.forcing import Forced, ForcingConfig, force, with_signal
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import LatentClip, Loss


class FinetuningConfig(ForcingConfig):
    """Noising of the batches and weights of the terms."""

    relevant_signal: Literal["sampled", "context"] = "sampled"
    """Signal of task-relevant rows: drawn as in pretraining (paper), or that at which the agent acts."""
    dynamics_weight: float = Field(default=1.0, ge=0)
    policy_weight: float = Field(default=1.0, ge=0)
    reward_weight: float = Field(default=1.0, ge=0)
    continue_weight: float = Field(default=1.0, ge=0)


class AgentFinetuning(Phase):
    """Trains dynamics, task embedding, policy, reward and continue heads.

    The policy learns from task-relevant rows only, the dynamics from uniform rows only (else it would become optimistic),
    reward and continue from both.
    """

    def __init__(self, agent: Agent, config: FinetuningConfig):
        super().__init__(
            {
                "shortcut": config.dynamics_weight,
                "policy": config.policy_weight,
                "reward": config.reward_weight,
                "continue": config.continue_weight,
            }
        )
        self.agent, self.config = agent, config
        agent.value.requires_grad_(False)

    def forward(self, batch: LatentClip, *, generator: torch.Generator, progress: float) -> Loss:
        dynamics, relevant = self.agent.dynamics, batch.notes.relevant
        forced = self._force(batch, generator, progress)
        target = forced.target(dynamics)
        prompt = self.agent.prompt(batch.notes.task, batch.latents.shape[1])
        prediction = dynamics(forced.noisy, forced.noising, replace(forced.conditioning, agent=prompt))
        assert prediction.states is not None
        video = shortcut_forcing(prediction.latents, target, forced.noising.tau(dynamics.config.k_max))
        terms = {"shortcut": masked_mean(video, ~relevant.unsqueeze(1))}
        return self.weigh(terms | self._heads(batch, prediction.states))

    def _force(self, batch: LatentClip, generator: torch.Generator, progress: float) -> Forced:
        dynamics = self.agent.dynamics
        forced = force(dynamics, batch, self.config, generator=generator, progress=progress)
        if self.config.relevant_signal == "sampled":
            return forced
        noising = context_noising(dynamics, *batch.latents.shape[:2])
        return with_signal(forced, batch.notes.relevant, noising, dynamics.config.k_max, generator)

    def _heads(self, batch: LatentClip, states: Tensor) -> dict[str, Tensor]:
        notes, distances = batch.notes, self.agent.policy.distances
        inside = in_clip(states.shape[1], distances, states.device)
        actions = {name: future(value, distances) for name, value in notes.actions.items()}
        known = future(notes.labelled, distances) & inside & notes.relevant[:, None, None]
        log_prob = self.agent.policy(states).log_prob(actions)
        reward = self.agent.reward(states).cross_entropy(future(notes.rewards, distances))
        going_on = F.binary_cross_entropy_with_logits(self.agent.continues(states).float(), notes.continues, reduction="none")
        return {
            "policy": -masked_mean(log_prob, known),
            "reward": masked_mean(reward, inside.expand_as(reward)),
            "continue": masked_mean(going_on),
        }
