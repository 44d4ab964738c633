"""Does the reward head pay what fails? What it foretells of the agent's own play in the world beside the rewards that came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from dreamer_ray.evaluation.checkups.exploitation import FEWEST, Earned
from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.intervals import mean, ratio_bootstrap

MOST_RATIO, LEAST_GAP = 2.0, 0.05

ATTEMPTS = Check(
    name="attempts",
    part="agent",
    question="Does the reward head pay what fails?",
    disease="the reward head pays actions that fail",
    threshold=(
        f"Bad where it foretells at least {MOST_RATIO:g} times the rewards that came of what the agent itself played in fresh worlds, at "
        f"least {LEAST_GAP:g} more in the steps of a dream, and more than came even at the lower end of the 95% interval (bootstrap over "
        "worlds): at twice as much most of what training in dreams is paid for is trying, not succeeding. Recorded players seldom fail at "
        "what they try, so that a head can be right of recordings and wrong here."
    ),
    remedy=(
        "Record play in which things fail (data.crafter.attempts, data.crafter.noise; other sources: what the policy tries), and let the "
        "head learn from rows by how often they come (agent.finetuning.reward_rows, agent.finetuning.context_fraction), for longer "
        "(agent.fit.steps)."
    ),
    keys=(
        "data.crafter.attempts",
        "data.crafter.noise",
        "agent.finetuning.reward_rows",
        "agent.finetuning.context_fraction",
        "agent.fit.steps",
    ),
    rests_on=("collapse", "actions", "reward"),
)


@dataclass(frozen=True)
class Deed:
    """What came of one choice or key in the world."""

    name: str
    share: float
    """Of the steps."""
    foretold: float
    """Rewards that the head says of the frames behind it, mean of a step."""
    came: float

    @property
    def overpaid(self) -> float:
        """Its part in what is foretold of a step and does not come."""
        return self.share * (self.foretold - self.came)


def deeds(found: Earned, choices: Mapping[str, Sequence[str]]) -> list[Deed]:
    """What came of each of the named ``choices`` and keys that was taken, by component; the most overpaid first."""
    listed = [
        _deed(found, name, taken)
        for component, names in choices.items()
        for name, taken in zip(names, _taken(found.actions[component], len(names)), strict=True)
        if (taken & found.played[:, : taken.shape[1]]).any()
    ]
    return sorted(listed, key=lambda deed: deed.overpaid, reverse=True)


def judge_attempts(found: Earned | None, horizon: int, choices: Mapping[str, Sequence[str]]) -> Finding:
    """Whether what the reward head says of real play comes; ``choices`` are told apart where it does not."""
    worlds = 0 if found is None else len(found.real)
    if found is None or worlds < FEWEST:
        return ATTEMPTS.unknown(f"{worlds} worlds ran long enough to be judged, and {FEWEST} are needed.")
    foretold, came = (values.sum(1).double().numpy() for values in (found.foretold, found.real))
    ratio, said, real = ratio_bootstrap(foretold, came, np.random.default_rng(0)), mean(foretold).value, mean(came).value
    figures = {"foretold": said, "came": real, "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "worlds": float(worlds)}
    says = (
        f"Of the frames that the agent's own play led to the reward head says {said:.3f} in {horizon} steps, and {real:.3f} came ({worlds} "
        f"worlds; {ratio} times as much)."
    )
    if said - real < LEAST_GAP or ratio.value < MOST_RATIO:
        return ATTEMPTS.healthy(says, figures)
    if not ratio.low > 1:
        return ATTEMPTS.unknown(f"{says} The worlds differ too much from each other to be sure of it; more are needed.", figures)
    return ATTEMPTS.sick(f"{says}{_worst(deeds(found, choices))}", figures)


def _worst(listed: Sequence[Deed]) -> str:
    if not listed:
        return ""
    first = listed[0]
    return f" Most overpaid is {first.name}, {first.share:.0%} of the steps: {first.foretold:.2f} foretold of each, {first.came:.2f} came."


def _taken(actions: Tensor, count: int) -> Sequence[Bool[Tensor, "b t"]]:
    """Where each of ``count`` choices (``actions [b t]``) or keys (``[b t n]``) was taken."""
    return [actions == i for i in range(count)] if actions.ndim == 2 else list((actions > 0.5).unbind(2))


def _deed(found: Earned, name: str, taken: Bool[Tensor, "b t"]) -> Deed:
    steps = taken & found.played[:, : taken.shape[1]]
    foretold, came = (float(values[:, : steps.shape[1]][steps].mean()) for values in (found.foretold, found.real))
    return Deed(name, float(steps.sum() / found.played.sum()), foretold, came)
