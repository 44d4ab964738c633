"""Phase 3: policy and value on dreamed trajectories, lambda-returns and PMPO (Dreamer 4, section 3.4, Eqs. 10 and 11)."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dreamer_ray.config import Config
from dreamer_ray.imagination.sampler import prefill
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.heads import PolicyHead, ValueHead
from dreamer_ray.numerics import masked_mean
from dreamer_ray.objectives.pmpo import pmpo
from dreamer_ray.objectives.returns import lambda_returns
from dreamer_ray.phases.cloning import FinetuningConfig, cloning_terms
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import Batch, LatentClip, Loss, Trajectory

WEIGHTS = {"value": 1.0, "positive": 1.0, "negative": 1.0, "prior": 1.0}


class ImaginationLossConfig(Config):
    """Constants of the returns and of PMPO."""

    gamma: float = Field(default=0.997, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    alpha: float = Field(default=0.5, ge=0, le=1)
    beta: float = Field(default=0.3, ge=0)
    value_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the updates in which only the value head learns from dreams."""
    slow_value: float | None = Field(default=None, ge=0, lt=1)
    """Decay of a moving average of the value head, from which returns and advantages then take their values (DreamerV3: 0.98)."""


@dataclass(frozen=True)
class Heads:
    """The heads of imagination training; ``slow`` is the average of ``value`` that gives the values of the returns, if there is one."""

    policy: PolicyHead
    value: ValueHead
    prior: PolicyHead
    slow: ValueHead | None = None


@dataclass(frozen=True)
class Rehearsal(Batch):
    """Dreams, and recorded clips that keep the world model true while it is trained on them."""

    dreamed: Trajectory
    recorded: LatentClip


class ImaginationTraining(Phase):
    """Trains the policy and value heads of ``agent``; the prior is its policy as it is now, frozen."""

    def __init__(self, agent: Agent, config: ImaginationLossConfig):
        super().__init__(WEIGHTS, normalized=())
        self.policy, self.value, self.config = agent.policy, agent.value, config
        self.prior = copy.deepcopy(agent.policy).requires_grad_(False)
        self.policy.requires_grad_(True)
        self.value.requires_grad_(True)
        self.slow = slow_value(self.value, config)

    def forward(self, batch: Trajectory, *, generator: torch.Generator, progress: float) -> Loss:
        heads = Heads(self.policy, self.value, self.prior, self.slow)
        terms, figures = imagination_terms(heads, batch.states, batch, self.config, progress=progress)
        return self.weigh(terms, **figures)

    def updated(self) -> None:
        """The slow value follows."""
        follow(self.slow, self.value, self.config)

    def published(self) -> dict[str, Tensor]:
        """What replicas need of the newest weights, by the names that it has in an ``Agent``."""
        return _named(policy=self.policy, value=self.value)


class WholeImaginationTraining(Phase):
    """Trains all of ``agent`` on dreams, with the terms of agent finetuning kept on (footnote of section 3.4).

    Agent states are computed anew from the dreamed frames, so that the policy and the value reach the transformer. Since it changes, the
    prior, a copy of the policy as it is now, goes on cloning the recorded actions on its states; no gradient of dreams reaches it.
    """

    def __init__(self, agent: Agent, config: ImaginationLossConfig, finetuning: FinetuningConfig):
        super().__init__(WEIGHTS | finetuning.weights, normalized=finetuning.weights)
        self.agent, self.config, self.finetuning = agent.requires_grad_(True), config, finetuning
        self.prior, self.slow = copy.deepcopy(agent.policy), slow_value(agent.value, config)

    def forward(self, batch: Rehearsal, *, generator: torch.Generator, progress: float) -> Loss:
        agent, dreamed = self.agent, batch.dreamed
        cloned = cloning_terms(agent, self.prior, batch.recorded, self.finetuning, average=self.average, generator=generator, progress=1.0)
        assert dreamed.frames is not None
        noise = torch.randn(dreamed.frames.latents.shape, generator=generator).to(dreamed.states.device)
        states = self.states(dreamed, noise)
        heads = Heads(agent.policy, agent.value, self.prior, self.slow)
        terms, figures = imagination_terms(heads, states, dreamed, self.config, progress=progress)
        return self.weigh(cloned | terms, **figures)

    def updated(self) -> None:
        """The slow value follows."""
        follow(self.slow, self.agent.value, self.config)

    def states(self, dreamed: Trajectory, noise: Float[Tensor, "b f l c"]) -> Float[Tensor, "b t d"]:
        """``h_0 .. h_T`` by the weights as they are now, in one pass over the context and the dream at the context signal."""
        assert dreamed.frames is not None
        prompt = self.agent.prompt(dreamed.task, noise.shape[1])
        states = prefill(self.agent.dynamics, dreamed.frames, noise=noise, agent=prompt)
        assert states is not None
        return states[:, -dreamed.states.shape[1] :]

    def published(self) -> dict[str, Tensor]:
        """What replicas need of the newest weights, by the names that it has in an ``Agent``."""
        return self.agent.state_dict()


def slow_value(value: ValueHead, config: ImaginationLossConfig) -> ValueHead | None:
    """What is to follow ``value``, now equal to it; None where the recipe has none."""
    return None if config.slow_value is None else copy.deepcopy(value).requires_grad_(False)


@torch.no_grad()
def follow(slow: ValueHead | None, value: ValueHead, config: ImaginationLossConfig) -> None:
    """``slow <- decay slow + (1 - decay) value``, where there is a ``slow`` (DreamerV3, its slow value with ``slowtar``)."""
    if slow is None or config.slow_value is None:
        return
    for average, newest in zip(slow.parameters(), value.parameters(), strict=True):
        average.lerp_(newest, 1 - config.slow_value)


def imagination_terms(
    heads: Heads,
    states: Float[Tensor, "b t d"],
    batch: Trajectory,
    config: ImaginationLossConfig,
    *,
    progress: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms of ``WEIGHTS`` for the dreams of ``batch`` on agent ``states`` ``h_0 .. h_T``, and figures for the log.

    Each step counts by the probability that the dream still went on then, the product of the continues before it (Dreamer 3 has
    the discount in it too).
    """
    policy, value, prior = heads.policy, heads.value, heads.prior
    with torch.no_grad():
        values = (heads.slow or value)(states).mean
        returns = lambda_returns(batch.rewards, batch.continues, values, gamma=config.gamma, lam=config.lam)
        advantage = returns - values[:, :-1]
        alive = torch.cat([torch.ones_like(batch.continues[:, :1]), batch.continues[:, :-1].cumprod(1)], 1)
    active, left = progress >= config.value_warmup, states[:, :-1]
    with torch.no_grad():
        before = prior.now(left)
    with torch.set_grad_enabled(active and torch.is_grad_enabled()):
        now = policy.now(left)
        kl = now.kl(before)
        terms = pmpo(now.log_prob(batch.actions), advantage, kl, alpha=config.alpha, beta=config.beta, weights=alive)
    terms = terms if active else {name: torch.zeros_like(term) for name, term in terms.items()}
    terms["value"] = masked_mean(value(left).cross_entropy(returns), alive)
    figures = {
        "kl": kl.mean(),
        "entropy": now.entropy().mean(),
        "dreamed_return": batch.rewards.sum(1).mean(),
        "positive_share": (advantage >= 0).float().mean(),
    }
    return terms, figures


def _named(**parts: torch.nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
