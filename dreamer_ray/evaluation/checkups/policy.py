"""Has the policy left the prior? Its distance from the policy that was cloned, on recorded frames."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.passes import agent_states, in_passes
from dreamer_ray.models.agent import Agent
from dreamer_ray.types import LatentClip

MOST = 0.5

POLICY = Check(
    name="policy",
    part="imagination",
    question="Has the policy left the prior?",
    disease="the policy left the prior",
    threshold=(
        f"Bad above {MOST:g} nats a frame (mean of KL[policy || cloned policy] over held-out frames): such a policy keeps taking actions "
        "which recorded players took seldom, so that the world model has seen little of what follows on them. Runs that improve stay "
        "near 0.1."
    ),
    remedy=(
        "Hold it more strongly (imagination.loss.beta), make fewer or smaller updates (imagination.fit.steps, "
        "imagination.fit.optimizer.learning_rate)."
    ),
    keys=("imagination.loss.beta", "imagination.fit.steps", "imagination.fit.optimizer.learning_rate"),
    rests_on=("collapse",),
)


@dataclass(frozen=True)
class PolicyFigures:
    """Nats, frame by frame."""

    kl: Float[Tensor, "n"]
    entropy: Float[Tensor, "n"]
    cloned_entropy: Float[Tensor, "n"]


def measure_policy(agent: Agent, cloned: Agent, clip: LatentClip, generator: torch.Generator) -> PolicyFigures:
    """Both policies on all frames of ``clip``, each on the states of its own agent."""

    def compared(clip: LatentClip, noise: Tensor) -> Tensor:
        now, before = (each.policy.now(agent_states(each, clip, noise)) for each in (agent, cloned))
        return torch.stack([now.kl(before), now.entropy(), before.entropy()], 2)

    found = in_passes(agent, compared, clip, torch.randn(clip.latents.shape, generator=generator))
    return PolicyFigures(*found.flatten(0, 1).unbind(1))


def judge_policy(found: PolicyFigures) -> Finding:
    """Whether the mean distance is too large."""
    kl, entropy, before = (float(values.mean()) for values in (found.kl, found.entropy, found.cloned_entropy))
    says = (
        f"The policy is {kl:.3f} nats a frame away from the cloned one on {len(found.kl):,} held-out frames (a tenth of them above "
        f"{float(found.kl.quantile(0.9)):.2f}); its entropy is {entropy:.2f}, the cloned one's {before:.2f}."
    )
    return (POLICY.sick if kl > MOST or math.isnan(kl) else POLICY.healthy)(says, {"kl": kl, "entropy": entropy, "cloned_entropy": before})
