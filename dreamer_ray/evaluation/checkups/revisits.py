"""Does the dynamics forget? Dreams of recorded returns to a place that was out of sight, with and without the frames that showed it.

A return: frame u nearly equals frame s, both within one context, and for some frames just before the dream nothing alike was seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from dreamer_ray.data.clips import ClipRef
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.evaluation.checkups.windows import dreamed_on, latent_errors, part
from dreamer_ray.evaluation.diagnosis import Check, Finding, judge_ratio
from dreamer_ray.evaluation.intervals import ratio_bootstrap
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.types import LatentClip

ALIKE, AWAY = 0.1, 0.5
"""Differences, in shares of what two frames of one context usually differ by, of a place seen again and of other places."""
LEAST_RATIO, FEWEST = 1.05, 12
SIDE, FRAMES_AN_EPISODE, FRAMES = 24, 600, 6000

MEMORY = Check(
    name="memory",
    part="dynamics",
    question="Does the dynamics forget?",
    disease="the dynamics forgets",
    threshold=(
        "Where a recording leaves a place and comes back within the context, bad if dreams of the return err less than "
        f"{LEAST_RATIO - 1:.0%} more once the frames that showed the place are taken away, with the 95% interval (bootstrap over returns): "
        "what may be left out without harm is not remembered. The same windows, actions and noise go into both."
    ),
    remedy=(
        "Train on clips as long as the context or longer (dynamics.batches.length, dynamics.batches.long_length), put more layers over "
        "time (dynamics.model.transformer.time_every), widen the context (dynamics.model.transformer.context), or train longer "
        "(dynamics.fit.steps)."
    ),
    keys=(
        "dynamics.batches.length",
        "dynamics.batches.long_length",
        "dynamics.model.transformer.time_every",
        "dynamics.model.transformer.context",
        "dynamics.fit.steps",
    ),
    rests_on=("collapse", "actions", "freeze"),
)


@dataclass(frozen=True)
class Memory:
    """What a context of so many frames allows to test."""

    context: int

    @property
    def dreamed(self) -> int:
        """Frames of a dream, the last of which is the return."""
        return max(1, self.context // 8)

    @property
    def kept(self) -> int:
        """Frames just before the dream; without memory the dream knows these alone."""
        return max(1, self.context // 8)


@dataclass(frozen=True)
class Returns:
    """Windows of ``context`` frames whose last frame shows again what was out of sight, and others in which it is new."""

    again: list[ClipRef]
    new: list[ClipRef]


@dataclass(frozen=True)
class MemoryFigures:
    """Squared errors of latents of the last frame of each window."""

    remembering: Float[Tensor, "b"]
    without: Float[Tensor, "b"]
    """Without the frames before the last few."""
    copied: Float[Tensor, "b"]
    """Of the last real frame."""
    elsewhere: Float[Tensor, "n"]
    """Of dreams as long, of frames that are new."""
    shown: Float[Tensor, "b 2 l c"]
    """The last dreamed frames, with and without memory."""


def find_returns(shards: ShardSet, memory: Memory, *, most: int, generator: np.random.Generator) -> Returns:
    """Up to ``most`` windows of each kind among the first frames of the held-out episodes."""
    again: list[ClipRef] = []
    new: list[ClipRef] = []
    seen = 0
    for episode in range(len(shards.lengths)):
        frames = min(int(shards.lengths[episode]), FRAMES_AN_EPISODE)
        if frames < memory.context or seen >= FRAMES:
            continue
        seen += frames
        known = shards.rows(episode).labelled[:frames]
        for start, returns in _windows(_small(shards, episode, frames), known, memory):
            (again if returns else new).append(ClipRef(episode, start, memory.context, 0, relevant=False, label=True))
    return Returns(_some(again, most, generator), _some(new, most, generator))


def measure_memory(
    dynamics: Dynamics, again: LatentClip, new: LatentClip | None, memory: Memory, *, steps: int, generator: torch.Generator
) -> MemoryFigures:
    """Dreams of the windows ``again`` with all and with the last frames of their context, and of those that are ``new``."""
    whole = memory.context - memory.dreamed
    forgotten = whole - memory.kept

    def dreamed(clip: LatentClip, context: int) -> Tensor:
        seeds = torch.randint(2**62, (len(clip.latents),), generator=torch.Generator().manual_seed(seed)).tolist()
        return dreamed_on(dynamics, clip, context=context, steps=steps, seeds=seeds)[:, -1:]

    def errors(found: Tensor, clip: LatentClip) -> Tensor:
        return latent_errors(dynamics, found, clip.latents[:, -1:])[:, 0]

    seed = int(torch.randint(2**62, (), generator=generator))
    remembering, without = dreamed(again, whole), dreamed(part(again, slice(forgotten, None)), memory.kept)
    return MemoryFigures(
        remembering=errors(remembering, again),
        without=errors(without, again),
        copied=errors(again.latents[:, whole - 1 : whole], again),
        elsewhere=torch.zeros(0) if new is None else errors(dreamed(new, whole), new),
        shown=torch.cat([remembering, without], 1),
    )


def judge_memory(found: MemoryFigures | None, returns: int) -> Finding:
    """Whether what was seen before helps where it is seen again."""
    if found is None or returns < FEWEST:
        return MEMORY.unknown(
            f"In the held-out recordings {returns} windows of one context leave what they show and come back to it, and {FEWEST} are "
            "needed."
        )
    ratio = ratio_bootstrap(found.without.tolist(), found.remembering.tolist(), np.random.default_rng(0))
    copied = float(found.copied.mean() / found.remembering.mean())
    figures = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "copy_over_dream": copied, "returns": float(returns)}
    says = (
        f"At {returns} returns to what was out of sight dreams err {ratio} times as much where the frames that showed it are taken "
        f"away; copying the last frame errs {copied:.2f} times as much as the dream."
    )
    if len(found.elsewhere):
        figures["again_over_new"] = float(found.remembering.mean() / found.elsewhere.mean())
        says += f" Their error is {figures['again_over_new']:.2f} times that at frames which are new."
    return judge_ratio(MEMORY, ratio, LEAST_RATIO, says, figures)


def _small(shards: ShardSet, episode: int, frames: int) -> Float[Tensor, "t f"]:
    """The pictures, at most ``SIDE`` pixels a side, in which places are compared."""
    small = []
    for picture in shards.each_frame(episode, slice(0, frames)):
        planes = torch.tensor(picture).movedim(-1, 0)[None] / 255
        rows, columns = (min(SIDE, side) for side in planes.shape[2:])
        small.append(interpolate(planes, (rows, columns), mode="area").flatten())
    return torch.stack(small)


def _windows(small: Float[Tensor, "t f"], known: np.ndarray, memory: Memory) -> Iterator[tuple[int, bool]]:
    """First frames of windows with known actions, and whether their last frame was seen before and lost from sight, or is new."""
    frames, context = len(small), memory.context
    differ = torch.stack([_differences(small, lag) for lag in range(context)], dim=1)
    usual = float(differ[context - 1 :, 1:].median())
    if usual == 0:
        return
    alike, away = differ < ALIKE * usual, differ > AWAY * usual
    before, first = slice(memory.dreamed, memory.dreamed + memory.kept), memory.dreamed + memory.kept
    free = {True: 0, False: 0}  # windows of a kind do not overlap: a player who stands still where he came back returned once
    for last in range(context - 1, frames):
        start = last - context + 1
        gone: Bool[Tensor, ""] = away[last, before].all()
        returns = bool(alike[last, first:].any())
        if gone and known[start:last].all() and (returns or away[last, first:].all()) and start >= free[returns]:
            free[returns] = last + 1
            yield start, returns


def _differences(small: Float[Tensor, "t f"], lag: int) -> Float[Tensor, "t"]:
    """Mean squared difference of each frame to the one ``lag`` before; 0 where there is none."""
    found = torch.zeros(len(small))
    found[lag:] = (small[lag:] - small[: len(small) - lag]).square().mean(1)
    return found


def _some(refs: Sequence[ClipRef], most: int, generator: np.random.Generator) -> list[ClipRef]:
    chosen = generator.permutation(len(refs))[:most]
    return [refs[i] for i in sorted(chosen.tolist())]
