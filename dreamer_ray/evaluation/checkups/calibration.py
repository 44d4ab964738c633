"""Are the reward and the continue head calibrated? What they foretell of held-out frames beside how often it came."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.passes import agent_states, in_passes
from dreamer_ray.models.agent import Agent
from dreamer_ray.types import LatentClip

BINS, DRAWS = 10, 200
LEAST_ERROR, SHARE_OF_BASE, FEWEST = 0.01, 0.5, 5

_THRESHOLD = (
    f"Bad where the expected calibration error is larger than {LEAST_ERROR:g} and than {SHARE_OF_BASE:.0%} of the base rate (smaller "
    f"errors are lost in the other errors of a dream: {LEAST_ERROR:g} a frame is 0.15 in 15 frames), and larger than 19 of 20 draws of "
    "the outcomes from the head's own probabilities are, so that it is no chance; or where the cross-entropy is not below that of the "
    "base rate: the head tells no frame from another."
)
REWARD = Check(
    name="reward",
    part="agent",
    question="Is the reward head calibrated?",
    disease="the reward head is not calibrated",
    threshold=f"{_THRESHOLD} Judged on windows that cover whole episodes, each under the prompt that a player would have there (the next "
    "task of the ladder), so that events are as rare as they are for an agent that acts; windows about events stand beside it.",
    remedy=(
        "Weigh the reward more (agent.finetuning.reward_weight), train longer (agent.fit.steps), or show it more clips without an event "
        "(agent.batches.relevant_fraction)."
    ),
    keys=("agent.finetuning.reward_weight", "agent.fit.steps", "agent.batches.relevant_fraction"),
    rests_on=("collapse",),
)
CONTINUE = Check(
    name="continue",
    part="agent",
    question="Is the continue head calibrated?",
    disease="the continue head is not calibrated",
    threshold=_THRESHOLD,
    remedy="Weigh it more (agent.finetuning.continue_weight) or train longer (agent.fit.steps); record more episodes that end.",
    keys=("agent.finetuning.continue_weight", "agent.fit.steps"),
    rests_on=("collapse",),
)


@dataclass(frozen=True)
class Calibration:
    """A head's probabilities of an event, in bins of equal width, beside what came of them."""

    frames: int
    events: int
    error: float
    """Expected calibration error: mean over frames of the distance of a bin's mean probability from its share of events."""
    chance: float
    """What 19 of 20 draws of outcomes from the probabilities themselves stay below."""
    cross_entropy: float
    base_cross_entropy: float
    """Of a head that always says the base rate."""
    foretold: tuple[float, ...]
    """Mean probability of each bin that has frames."""
    came: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def base(self) -> float:
        """Share of the frames with an event."""
        return self.events / self.frames


def foretold(agent: Agent, clip: LatentClip, generator: torch.Generator) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """What ``agent`` says of all frames of ``clip``: the reward that came with each, and the probability that the episode ends with it."""

    def said(clip: LatentClip, noise: Tensor) -> Tensor:
        states = agent_states(agent, clip, noise)
        return torch.stack([agent.reward.now(states).mean, 1 - agent.continues.probability(states)], 2)

    rewards, ends = in_passes(agent, said, clip, torch.randn(clip.latents.shape, generator=generator)).flatten(0, 1).unbind(1)
    return rewards, ends


def calibrate(probability: Float[Tensor, "n"], outcome: Float[Tensor, "n"], generator: torch.Generator) -> Calibration:
    """How ``probability`` of an event, beside its ``outcome`` 0 or 1, is borne out.

    A reward head may say more than 1, or less than 0; its errors count in full.
    """
    said_of_each, y = probability.double(), outcome.double()
    p = said_of_each.clamp(0, 1)
    place = (p.nan_to_num() * BINS).long().clamp(max=BINS - 1)  # what is not a number makes the error none either
    counts, said = torch.bincount(place, minlength=BINS), torch.bincount(place, said_of_each, BINS)
    came = torch.bincount(place, y, BINS)
    drawn = (torch.rand(DRAWS, len(p), generator=generator, dtype=torch.float64) < p).double()
    fair = torch.bincount(place, p, BINS)
    chance = torch.stack([(torch.bincount(place, draw, BINS) - fair).abs().sum() / len(p) for draw in drawn]).quantile(0.95)
    used = counts > 0
    base = y.mean().clamp(1e-4, 1 - 1e-4).expand_as(p)
    return Calibration(
        frames=len(p),
        events=int(y.sum()),
        error=float((came - said).abs().sum() / len(p)),
        chance=float(chance),
        cross_entropy=_cross_entropy(p.clamp(1e-4, 1 - 1e-4), y),
        base_cross_entropy=_cross_entropy(base, y),
        foretold=tuple((said[used] / counts[used]).tolist()),
        came=tuple((came[used] / counts[used]).tolist()),
        counts=tuple(counts[used].tolist()),
    )


def _cross_entropy(probability: Float[Tensor, "n"], outcome: Float[Tensor, "n"]) -> float:
    """Mean, in nats; not a number where a probability is none, which PyTorch refuses."""
    return math.nan if probability.isnan().any() else float(torch.nn.functional.binary_cross_entropy(probability, outcome))


def judge_reward(natural: Calibration, around: Calibration) -> Finding:
    """Whether rewards come as often as foretold where they are as frequent as recorded; ``around`` is of windows about events."""
    finding = judge_calibration(REWARD, natural, "rewards")
    beside = f" In windows drawn about events as training draws them the error is {around.error:.3f} at a base rate of {around.base:.3f}."
    figures = {"error_about_events": around.error, "base_about_events": around.base}
    whole = replace(finding, says=finding.says + beside, figures={**finding.figures, **figures})
    return REWARD.sick(whole.says, whole.figures) if math.isnan(around.error) else whole


def judge_calibration(check: Check, found: Calibration, event: str) -> Finding:
    """Whether what the head says of ``event`` comes about as often as it says."""
    figures = {"error": found.error, "chance": found.chance, "base": found.base} | {
        "cross_entropy": found.cross_entropy,
        "base_cross_entropy": found.base_cross_entropy,
    }
    says = (
        f"Expected calibration error {found.error:.3f} at a base rate of {found.base:.3f} ({found.events} {event} in {found.frames:,} "
        f"held-out frames; chance alone stays below {found.chance:.3f}); cross-entropy {found.cross_entropy:.3f} nats, of the base rate "
        f"{found.base_cross_entropy:.3f}."
    )
    wrong = math.isnan(found.error) or found.error > max(LEAST_ERROR, SHARE_OF_BASE * found.base, found.chance)
    if wrong or (found.events >= FEWEST and found.cross_entropy >= found.base_cross_entropy):
        return check.sick(says, figures)
    if found.events < FEWEST:
        return check.unknown(
            f"{says} False alarms are rare, but so few {event} ({FEWEST} are needed) do not show whether it sees them coming.", figures
        )
    return check.healthy(says, figures)
