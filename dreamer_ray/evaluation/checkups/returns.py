"""Does the value explain the return? What the value head expects beside the rewards that followed, in dreams and in recordings."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.passes import agent_states, in_passes
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import imagine
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.agent import Agent
from dreamer_ray.objectives.returns import lambda_returns
from dreamer_ray.types import LatentClip

LEAST_EXPLAINED, LEAST_DEVIATION, MOST_BIAS = 0.05, 1e-3, 0.5

VALUE = Check(
    name="value",
    part="imagination",
    question="Does the value explain the return?",
    disease="the value is wrong about the return",
    threshold=(
        f"Bad where the value explains less than {LEAST_EXPLAINED:.0%} of the variance of the dreamed return (squared correlation with "
        "the discounted rewards of the next horizon, 0 where it is negative): the advantage of an action is then its return and the "
        f"noise of a baseline that knows nothing. Bad also where it leaves more than {1 - LEAST_EXPLAINED:.0%} of the variance of the "
        "lambda-returns that it is trained on as it stands: it hardly varies between states, or varies otherwise than they; or where it "
        f"lies above or below these by more than {MOST_BIAS:g} of their deviation, which is beyond chance from some 30 dreams on: PMPO "
        "goes by the sign of the advantage, and under a value that lies to one side nearly all actions count as bad, or as good. Judged in "
        "dreams, since it is the improved policy's value; recordings are of other players."
    ),
    remedy=(
        "Let the value learn first (imagination.loss.value_warmup) and faster (imagination.fit.optimizer.rates, such as "
        "{value: 5}), make more updates (imagination.fit.steps), or have it learn of rewards more than of itself: dream longer "
        "(imagination.horizon), look farther along the dream (imagination.loss.lam), count less of what is behind its end "
        "(imagination.loss.gamma)."
    ),
    keys=(
        "imagination.loss.value_warmup",
        "imagination.fit.optimizer.rates",
        "imagination.fit.steps",
        "imagination.horizon",
        "imagination.loss.lam",
        "imagination.loss.gamma",
    ),
    rests_on=("collapse", "actions", "freeze", "drift", "reward", "continue", "attempts", "policy", "exploit"),
)


@dataclass(frozen=True)
class Discount:
    """How returns are made of rewards."""

    gamma: float
    lam: float


@dataclass(frozen=True)
class Expectations:
    """Values beside the discounted rewards that followed on them within the horizon."""

    values: Float[Tensor, "n"]
    returns: Float[Tensor, "n"]
    targets: Float[Tensor, "n"]
    """Lambda-returns, as the value head is trained on them."""


@dataclass(frozen=True)
class Dreams:
    """How imagination training dreams."""

    horizon: int
    sampling: Sampling
    following: Int[Tensor, "tasks"] | None
    """See ``imagine``."""


def in_dreams(agent: Agent, context: LatentClip, discount: Discount, how: Dreams, *, seeds: list[int]) -> Expectations:
    """Of the first states, as many as the horizon of ``how``, of dreams twice as long, in which ``agent`` acts."""
    steps = 2 * how.horizon

    def dreamed(context: LatentClip, seeds: Int[Tensor, "b"]) -> Tensor:
        engine = DreamEngine(agent.dynamics, slots=len(seeds), agent=agent)
        after = None if how.following is None else how.following.to(engine.device)
        found = imagine(engine, context, horizon=steps, sampling=how.sampling, seeds=seeds.tolist(), following=after)
        return torch.cat([agent.value(found.states).mean, found.rewards, found.continues], 1)

    found = in_passes(agent, dreamed, context, torch.tensor(seeds))
    values, rewards, continues = found.split([steps + 1, steps, steps], dim=1)
    return expectations(values, rewards, continues, discount, how.horizon)


def in_recordings(agent: Agent, clip: LatentClip, discount: Discount, generator: torch.Generator) -> Expectations:
    """Of the first half of the frames of ``clip``, under the rewards that were recorded."""
    noise = torch.randn(clip.latents.shape, generator=generator)
    values = in_passes(agent, lambda clip, noise: agent.value(agent_states(agent, clip, noise)).mean, clip, noise)
    return expectations(values, clip.notes.rewards[:, 1:], clip.notes.continues[:, 1:], discount, clip.latents.shape[1] // 2)


def expectations(
    values: Float[Tensor, "b t+1"], rewards: Float[Tensor, "b t"], continues: Float[Tensor, "b t"], discount: Discount, horizon: int
) -> Expectations:
    """Each of the first states with exactly ``horizon`` rewards behind it, so that returns differ by what happens and not by their "
    "length."""
    count = rewards.shape[1] - horizon + 1
    alive = continues.cumprod(1)
    sums = []
    for t in range(count):
        going = torch.cat([torch.ones_like(alive[:, :1]), continues[:, t : t + horizon - 1].cumprod(1)], 1)
        sums.append((rewards[:, t : t + horizon] * going * discount.gamma ** torch.arange(horizon)).sum(1))
    targets = lambda_returns(rewards, continues, values, gamma=discount.gamma, lam=discount.lam)
    before = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)[:, :count] > 0.5  # behind an end nothing is expected
    return Expectations(values[:, :count][before], torch.stack(sums, 1)[before], targets[:, :count][before])


def explained(values: Float[Tensor, "n"], returns: Float[Tensor, "n"]) -> float:
    """Share of the variance of ``returns`` that a straight line through ``values`` explains; 0 where it would have to fall."""
    if min(float(values.std()), float(returns.std())) < 1e-6:
        return 0.0
    return max(0.0, float(torch.corrcoef(torch.stack([values, returns]))[0, 1])) ** 2


def judge_value(dreamed: Expectations, recorded: Expectations | None) -> Finding:
    """Whether the value knows better than a constant what comes, varies as much as it knows, and lies where returns lie."""
    share, spread = explained(dreamed.values, dreamed.returns), float(dreamed.returns.std())
    values, targets = dreamed.values, dreamed.targets
    left, varies = targets - values, targets.std().clamp(min=1e-6)
    target, bias = 1 - float(left.var() / varies**2), -float(left.mean() / varies)
    figures = {"explained": share, "explained_variance_of_targets": target, "bias": bias, "return": float(dreamed.returns.mean())}
    figures |= {"value": float(values.mean()), "target": float(targets.mean()), "return_deviation": spread}
    figures |= {"value_deviation": float(values.std()), "target_deviation": float(varies)}
    says = (
        f"The value explains {share:.0%} of the variance of the dreamed return ({len(values):,} states; return "
        f"{figures['return']:.3f}), and {target:.0%} of that of the lambda-returns that it is trained on: it is {values.mean():.3f}, "
        f"deviation {values.std():.3f}, these are {targets.mean():.3f}, deviation {varies:.3f}."
    )
    if recorded is not None and float(recorded.returns.std()) >= LEAST_DEVIATION:
        figures["explained_in_recordings"] = explained(recorded.values, recorded.returns)
        says += f" Of what recorded players went on to get it explains {figures['explained_in_recordings']:.0%}."
    if spread < LEAST_DEVIATION:
        return VALUE.unknown(f"All dreams bring the same return ({figures['return']:.4f}); there is nothing to explain.", figures)
    wrong = [
        text
        for text, true in (
            ("It knows nothing of the return.", share < LEAST_EXPLAINED),
            ("As it stands a constant would do as well.", target < LEAST_EXPLAINED),
            (f"It lies {'above' if bias > 0 else 'below'} them by {abs(bias):.1f} of their deviation.", abs(bias) > MOST_BIAS),
        )
        if true
    ]
    return VALUE.sick(" ".join([says, *wrong]), figures) if wrong else VALUE.healthy(says, figures)
