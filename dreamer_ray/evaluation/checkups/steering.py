"""Does the dynamics follow actions? Dreams under the recorded actions beside dreams under those of another window."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_ray.evaluation.checkups.windows import dreamed_on, latent_errors
from dreamer_ray.evaluation.diagnosis import Check, Finding, judge_ratio
from dreamer_ray.evaluation.intervals import ratio_bootstrap
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.types import LatentClip

LEAST_RATIO, FEWEST = 1.05, 8

ACTIONS = Check(
    name="actions",
    part="dynamics",
    question="Does the dynamics follow actions?",
    disease="the dynamics ignores actions",
    threshold=(
        f"Bad where dreams under another window's actions are less than {LEAST_RATIO - 1:.0%} worse, with the 95% interval (bootstrap over "
        "windows): the same noise goes into both, so a "
        "dynamics that does not look at actions has a ratio of exactly 1, and one that does has more, by as much as actions decide what "
        "is seen."
    ),
    remedy=(
        "Train longer (dynamics.fit.steps), with the actions of more episodes (dynamics.batches.label_fraction) and fewer rows of "
        "separate pictures, which are told none (dynamics.forcing.image_fraction)."
    ),
    keys=("dynamics.fit.steps", "dynamics.batches.label_fraction", "dynamics.forcing.image_fraction"),
    rests_on=("collapse", "freeze"),
)


@dataclass(frozen=True)
class SteeringFigures:
    """Squared errors of latents, window by window and frame by frame."""

    own: Float[Tensor, "b t"]
    other: Float[Tensor, "b t"]
    """Under the actions of another window."""


def measure_steering(
    dynamics: Dynamics, clip: LatentClip, *, context: int, steps: int, generator: torch.Generator
) -> SteeringFigures | None:
    """Dreams on from ``context`` frames of the windows of which all actions are known; None where there are fewer than two."""
    clip = clip.rows(clip.notes.labelled[:, context - 1 : -1].all(1))
    if len(clip.latents) < 2 or not clip.notes.actions:
        return None
    seeds = torch.randint(2**62, (len(clip.latents),), generator=generator).tolist()
    own, other = (
        latent_errors(dynamics, dreamed_on(dynamics, told, context=context, steps=steps, seeds=seeds), clip.latents[:, context:])
        for told in (clip, _misled(clip, context))
    )
    return SteeringFigures(own, other)


def _misled(clip: LatentClip, context: int) -> LatentClip:
    """The windows with the actions of another one, from the last of the ``context`` frames on."""
    before, on = slice(0, context - 1), slice(context - 1, None)
    actions = {name: torch.cat([value[:, before], value[:, on].roll(1, 0)], 1) for name, value in clip.notes.actions.items()}
    return replace(clip, notes=replace(clip.notes, actions=actions))


def judge_actions(found: SteeringFigures | None) -> Finding:
    """Whether other actions make another dream, and a worse one."""
    windows = 0 if found is None else len(found.own)
    if found is None or windows < FEWEST:
        return ACTIONS.unknown(f"Only {windows} held-out windows have all of their actions on record, and {FEWEST} are needed.")
    ratio = ratio_bootstrap(found.other.mean(1).tolist(), found.own.mean(1).tolist(), np.random.default_rng(0))
    first = float(found.other[:, 0].mean() / found.own[:, 0].mean())
    figures = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "ratio_at_1": first, "windows": float(windows)}
    says = (
        f"Under another window's actions dreams of {found.own.shape[1]} frames err {ratio} times as much as under their own "
        f"({first:.2f} times in the first frame; {windows} windows)."
    )
    return judge_ratio(ACTIONS, ratio, LEAST_RATIO, says, figures)
