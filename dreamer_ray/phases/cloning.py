"""What agent finetuning and imagination training of all weights share: the terms of Eq. 9 on recorded clips."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.imagination.sampler import context_noising
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.heads import PolicyHead
from dreamer_ray.numerics import masked_mean, reduce_sum
from dreamer_ray.objectives.behavior import does_nothing, future, in_clip
from dreamer_ray.objectives.shortcut_forcing import shortcut_forcing
from dreamer_ray.phases.forcing import Forced, ForcingConfig, force, teacher_weights, with_signal
from dreamer_ray.types import Annotations, LatentClip


class FinetuningConfig(ForcingConfig):
    """Noising of the batches and weights of the terms."""

    relevant_signal: Literal["sampled", "context"] = "sampled"
    """Signal of task-relevant rows: drawn as in pretraining (paper), or that at which the agent acts."""
    context_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the uniform rows that have the signal at which the agent acts; their video does not train the dynamics."""
    reward_rows: Literal["all", "natural"] = "all"
    """What the reward and continue heads learn from: every row alike (paper), or each row by how often it comes.

    Relevant rows all hold their event, so that a head that takes them as they are promises too much of whatever precedes one.
    """
    dynamics_weight: float = Field(default=1.0, ge=0)
    policy_weight: float = Field(default=1.0, ge=0)
    reward_weight: float = Field(default=1.0, ge=0)
    continue_weight: float = Field(default=1.0, ge=0)
    null_weight: float = Field(default=1.0, ge=0, le=1)
    """Weight in cloning of the actions that do nothing; 0 leaves them out, as VPT does. All else learns from them as from any other."""
    null_choices: dict[str, int] = Field(default_factory=dict)
    """The choice that does nothing by component, where that is not known of the recordings; no key held and an unmoved mouse are."""

    @model_validator(mode="after")
    def _natural_where_it_acts(self) -> "FinetuningConfig":
        if self.reward_rows == "natural" and self.relevant_signal == "context" and self.context_fraction == 0:
            raise ValueError(
                "reward_rows = natural: with relevant_signal = context and context_fraction = 0 no row without an event has the signal at "
                "which the agent acts, so that no weight can undo the choice; set context_fraction, such as 0.75"
            )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms, by their names."""
        return {
            "shortcut": self.dynamics_weight,
            "policy": self.policy_weight,
            "reward": self.reward_weight,
            "continue": self.continue_weight,
        }


def cloning_terms(
    agent: Agent,
    policy: PolicyHead,
    batch: LatentClip,
    config: FinetuningConfig,
    *,
    average: Mapping[str, Tensor],
    generator: torch.Generator,
    progress: float,
) -> dict[str, Tensor]:
    """The four terms of ``FinetuningConfig.weights`` for ``agent`` and a ``policy`` that clones on its states.

    The policy learns from task-relevant rows only, the dynamics from uniform rows only (else it would become optimistic),
    reward and continue from both. ``average`` has moving averages of weights by name, those of ``agent`` beginning with ``agent.``.
    """
    dynamics, notes = agent.dynamics, batch.notes
    acting = _acting_rows(notes, config, generator)
    forced = _force(agent, batch, acting, config, generator=generator, progress=progress)
    target = forced.target(dynamics, teacher_weights(config, average, "agent.dynamics."))
    prompt = agent.prompt(batch.notes.task, batch.latents.shape[1])
    prediction = dynamics(forced.noisy, forced.noising, replace(forced.conditioning, agent=prompt))
    assert prediction.states is not None
    video = shortcut_forcing(prediction.latents, target, forced.noising.tau(dynamics.config.k_max), config.weighting)
    weights = natural_weights(notes, acting, config) if config.reward_rows == "natural" else None
    return {"shortcut": masked_mean(video, ~(notes.relevant | acting).unsqueeze(1))} | head_terms(
        agent, policy, batch, prediction.states, config, weights=weights
    )


def head_terms(
    agent: Agent,
    policy: PolicyHead,
    batch: LatentClip,
    states: Float[Tensor, "b t d"],
    config: FinetuningConfig,
    *,
    weights: Float[Tensor, "b"] | None = None,
) -> dict[str, Tensor]:
    """The terms of the heads on the agent states of ``batch`` (Dreamer 4, Eq. 9).

    ``weights`` are those of rows in the terms of reward and continue, which count alike without.
    """
    notes, distances = batch.notes, policy.distances
    rows = torch.ones(len(states), device=states.device) if weights is None else weights
    inside = in_clip(states.shape[1], distances, states.device)
    actions = {name: future(value, distances) for name, value in notes.actions.items()}
    known = future(notes.labelled, distances) & inside & notes.relevant[:, None, None]
    cloned = known.float()
    if config.null_weight != 1:
        cloned = cloned.where(~does_nothing(actions, config.null_choices), config.null_weight * cloned)
    log_prob = policy(states).log_prob(actions)
    reward = agent.reward(states).cross_entropy(future(notes.rewards, distances))
    going_on = F.binary_cross_entropy_with_logits(agent.continues(states).float(), notes.continues, reduction="none")
    return {
        "policy": -masked_mean(log_prob, cloned),
        "reward": masked_mean(reward, inside * rows[:, None, None]),
        "continue": masked_mean(going_on, rows[:, None]),
    }


def natural_weights(notes: Annotations, acting: Bool[Tensor, "b"], config: FinetuningConfig) -> Float[Tensor, "b"]:
    """Weights that undo the choice of relevant rows (importance sampling), among the rows at the signal of acting and among the others.

    A row that uniform draws give with density 1 and relevant ones with its ``enrichment`` e stands for ``(u + r) / (u + r e)`` rows where
    u and r are the shares of both in the batches of all ranks: on average 1, as in batches without a choice.
    """
    assert notes.enrichment is not None
    chosen, rows = reduce_sum(notes.relevant.sum(), torch.ones_like(notes.relevant).sum())
    relevant = chosen / rows
    uniform = torch.where(acting, config.context_fraction, 1 - config.context_fraction) * (1 - relevant)
    chosen = relevant * (acting == (config.relevant_signal == "context"))
    return (uniform + chosen) / (uniform + chosen * notes.enrichment)


def _acting_rows(notes: Annotations, config: FinetuningConfig, generator: torch.Generator) -> Bool[Tensor, "b"]:
    """Which rows have the signal at which the agent acts."""
    relevant = notes.relevant
    acting = relevant & (config.relevant_signal == "context")
    if config.context_fraction == 0:
        return acting
    return acting | ~relevant & (torch.rand(relevant.shape, generator=generator).to(relevant.device) < config.context_fraction)


def _force(
    agent: Agent, batch: LatentClip, acting: Bool[Tensor, "b"], config: FinetuningConfig, *, generator: torch.Generator, progress: float
) -> Forced:
    dynamics = agent.dynamics
    forced = force(dynamics, batch, config, generator=generator, progress=progress)
    if config.relevant_signal == "sampled" and config.context_fraction == 0:
        return forced
    noising = context_noising(dynamics, *batch.latents.shape[:2])
    return with_signal(forced, acting, noising, dynamics.config.k_max, generator)
