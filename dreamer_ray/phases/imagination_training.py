"""Phase 3: policy and value on dreamed trajectories, lambda-returns and PMPO (Dreamer 4, section 3.4, Eqs. 10 and 11)."""

import copy

import torch
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.models.agent import Agent
from dreamer_ray.numerics import masked_mean
from dreamer_ray.objectives.pmpo import pmpo
from dreamer_ray.objectives.returns import lambda_returns
from dreamer_ray.phases.phase import Phase
from dreamer_ray.types import Loss, Trajectory


class ImaginationLossConfig(Config):
    """Constants of the returns and of PMPO."""

    gamma: float = Field(default=0.997, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    alpha: float = Field(default=0.5, ge=0, le=1)
    beta: float = Field(default=0.3, ge=0)
    value_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the updates in which only the value head learns."""


class ImaginationTraining(Phase):
    """Trains the policy and value heads of ``agent``; the prior is its policy as it is now, frozen."""

    def __init__(self, agent: Agent, config: ImaginationLossConfig):
        super().__init__({"value": 1.0, "positive": 1.0, "negative": 1.0, "prior": 1.0}, normalize=False)
        self.policy, self.value, self.config = agent.policy, agent.value, config
        self.prior = copy.deepcopy(agent.policy).requires_grad_(False)
        self.policy.requires_grad_(True)
        self.value.requires_grad_(True)

    def forward(self, batch: Trajectory, *, generator: torch.Generator, progress: float) -> Loss:
        config, states = self.config, batch.states[:, :-1]
        with torch.no_grad():
            values = self.value(batch.states).mean
            returns = lambda_returns(batch.rewards, batch.continues, values, gamma=config.gamma, lam=config.lam)
            advantage = returns - values[:, :-1]
        active = progress >= config.value_warmup
        with torch.set_grad_enabled(active and torch.is_grad_enabled()):
            policy = self.policy.now(states)
            kl = policy.kl(self.prior.now(states))
            terms = pmpo(policy.log_prob(batch.actions), advantage, kl, alpha=config.alpha, beta=config.beta)
        terms = terms if active else {name: torch.zeros_like(term) for name, term in terms.items()}
        terms["value"] = masked_mean(self.value(states).cross_entropy(returns))
        return self.weigh(
            terms,
            kl=kl.mean(),
            entropy=policy.entropy().mean(),
            dreamed_return=batch.rewards.sum(1).mean(),
            positive_share=(advantage >= 0).float().mean(),
        )
