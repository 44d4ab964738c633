"""Does the dynamics drift or freeze? Dreams many times as long as the clips of training, beside what was recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamer_ray.evaluation.checkups.windows import dreamed_on
from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.passes import decoded, in_passes
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import LatentClip

TIMES, LEAST_TIMES = 10, 2
"""How many times as long as training's clips the dreams are, and from how many on something can be said."""
SPANS = 10
MOST_DISTANCE, LEAST_DISTANCE, LEAST_CHANGE = 1.25, 0.1, 0.25
BANK = 2048

DRIFT = Check(
    name="drift",
    part="dynamics",
    question="Does the dynamics drift?",
    disease="the dynamics drifts",
    threshold=(
        f"Bad where frames late in a dream lie more than {MOST_DISTANCE:g} times as far from the nearest recorded frame of other episodes "
        f"as real frames do, and by more than {LEAST_DISTANCE:g} (root mean square of standardised latents: a tenth of their own variation "
        "is hardly seen): they have left what any recording shows. Distance to the nearest one is asked, since a dream may rightly go "
        "another way than the recording; PSNR, shown beside it, falls for that reason too."
    ),
    remedy=(
        "Train on longer clips than the context (dynamics.batches.long_length, dynamics.batches.final_long), trust finished frames less "
        "(dynamics.model.context_signal), or train longer (dynamics.fit.steps)."
    ),
    keys=("dynamics.batches.long_length", "dynamics.batches.final_long", "dynamics.model.context_signal", "dynamics.fit.steps"),
    rests_on=("collapse", "freeze"),
)
FREEZE = Check(
    name="freeze",
    part="dynamics",
    question="Does the dynamics freeze?",
    disease="the dynamics freezes",
    threshold=(
        f"Bad where from frame to frame dreams change less than {LEAST_CHANGE:.0%} as much as recordings of the same stretch do (squared "
        "change of standardised latents): a dream that copies its last frame makes small errors at first, and nothing ever happens in it."
    ),
    remedy=(
        "Train longer (dynamics.fit.steps) on clips, not on separate pictures (dynamics.forcing.image_fraction), with more bootstrap "
        "rows for few steps (dynamics.forcing.bootstrap_fraction)."
    ),
    keys=("dynamics.fit.steps", "dynamics.forcing.image_fraction", "dynamics.forcing.bootstrap_fraction"),
    rests_on=("collapse",),
)


@dataclass(frozen=True)
class LongDreams:
    """Dreams of windows and what happened in them, ``t`` frames after the context; latents are standardised."""

    truth: Float[Tensor, "b t l c"]
    dream: Float[Tensor, "b t l c"]
    last: Float[Tensor, "b 1 l c"]
    """The last frame of the context."""
    episodes: Int[Tensor, "b"]
    trained: int
    """Frames of the longest clips of training."""


@dataclass(frozen=True)
class LongFigures:
    """Means over windows, in spans of equal length in the order of time."""

    frames: int
    """Length of the dreams."""
    trained: int
    ends: tuple[int, ...]
    """Behind the last frame of each span."""
    dream_distance: tuple[float, ...]
    """To the nearest recorded frame of another episode; empty where there is only one episode."""
    real_distance: tuple[float, ...]
    dream_change: tuple[float, ...]
    real_change: tuple[float, ...]
    windows: int
    psnr: Mapping[str, Sequence[float]]
    """dB of each frame, see ``quality_over_time``."""


def dream_long(
    dynamics: Dynamics, clip: LatentClip, episodes: Sequence[int], *, context: int, trained: int, steps: int, generator: torch.Generator
) -> LongDreams:
    """Dreams on from the first ``context`` frames to the end of ``clip``."""
    seeds = torch.randint(2**62, (len(clip.latents),), generator=generator).tolist()
    dreamed = dreamed_on(dynamics, clip, context=context, steps=steps, seeds=seeds)
    real, dreamed = (in_passes(dynamics, dynamics.standardize, each) for each in (clip.latents, dreamed))
    return LongDreams(real[:, context:], dreamed, real[:, context - 1 : context], torch.tensor(episodes), trained)


def measure_long(found: LongDreams, psnr: Mapping[str, Sequence[float]]) -> LongFigures:
    """Distances and changes span by span; ``psnr`` frame by frame is that of ``quality_over_time``."""
    frames = found.truth.shape[1]
    edges = [frames * i // SPANS for i in range(SPANS + 1)]
    spans = [slice(a, b) for a, b in pairwise(edges) if b > a]

    def means(values: Float[Tensor, "b t"]) -> tuple[float, ...]:
        return tuple(float(values[:, span].mean()) for span in spans)

    several = len(found.episodes.unique()) > 1
    bank, of = _bank(found)
    return LongFigures(
        frames=frames,
        trained=found.trained,
        ends=tuple(span.stop for span in spans),
        dream_distance=means(_nearest(found.dream, found.episodes, bank, of)) if several else (),
        real_distance=means(_nearest(found.truth, found.episodes, bank, of)) if several else (),
        dream_change=means(_change(found.dream, found.last)),
        real_change=means(_change(found.truth, found.last)),
        windows=len(found.truth),
        psnr=psnr,
    )


def quality_over_time(tokenizer: Tokenizer, dynamics: Dynamics, found: LongDreams) -> dict[str, list[float]]:
    """PSNR (dB) of each frame against the reconstruction of the truth: of the dream, and of the copied last frame.

    Windows are decoded one by one, for memory.
    """
    errors = {"dream": torch.zeros(found.truth.shape[1]), "copy of the last frame": torch.zeros(found.truth.shape[1])}
    for row in range(len(found.truth)):
        last, truth, dream = (in_passes(dynamics, dynamics.restore, part[row : row + 1]) for part in (found.last, found.truth, found.dream))
        seen, dreamed = (decoded(tokenizer, torch.cat([last, part], 1))[0] for part in (truth, dream))
        errors["dream"] += (dreamed - seen)[1:].square().mean((1, 2, 3)) / len(found.truth)
        errors["copy of the last frame"] += (seen[:1] - seen)[1:].square().mean((1, 2, 3)) / len(found.truth)
    return {name: (-10 * values.clamp(min=1e-10).log10()).tolist() for name, values in errors.items()}


def judge_drift(found: LongFigures) -> Finding:
    """Whether the last spans lie away from all recordings."""
    if found.frames < LEAST_TIMES * found.trained:
        return DRIFT.unknown(_too_short(found))
    if not found.dream_distance:
        return DRIFT.unknown("There is a single held-out episode, and nothing to compare its frames with.")
    last, first = slice(-3, None), slice(1)
    (late, early), (real, real_early) = (
        [sum(values[span]) / len(values[span]) for span in (last, first)] for values in (found.dream_distance, found.real_distance)
    )
    figures = {"distance": late, "real_distance": real, "distance_at_first": early, "real_distance_at_first": real_early}
    says = (
        f"The last frames of {found.windows} dreams of {found.frames} frames ({found.frames / found.trained:.0f} times training's clips) "
        f"lie {late:.2f} from the nearest recorded frame, real ones {real:.2f} ({early:.2f} and {real_early:.2f} in the first tenth)."
    )
    if found.psnr:
        tenth = max(1, found.frames // SPANS)
        ends = {name: sum(values[-tenth:]) / tenth for name, values in found.psnr.items()}
        figures |= {f"late psnr of the {name}": value for name, value in ends.items()}
        says += " PSNR of the last tenth: " + ", ".join(f"{name} {value:.1f} dB" for name, value in ends.items()) + "."
    left = late > MOST_DISTANCE * real and late - real > LEAST_DISTANCE
    return (DRIFT.sick if left else DRIFT.healthy)(says, figures)


def judge_freeze(found: LongFigures) -> Finding:
    """Whether the second half of the dreams stands still while recordings go on."""
    half = slice(len(found.ends) // 2, None)
    if found.frames < 2:
        return FREEZE.unknown(_too_short(found))
    if sum(found.real_change[half]) < 1e-6:
        return FREEZE.unknown("Nothing changes in the recordings either.")
    change = _ratio(found.dream_change, found.real_change, half)
    says = f"Late in dreams of {found.frames} frames pictures change {change:.0%} as much from frame to frame as in the recordings."
    return (FREEZE.sick if change < LEAST_CHANGE else FREEZE.healthy)(says, {"change": change})


def _too_short(found: LongFigures) -> str:
    return (
        f"The longest held-out windows leave {found.frames} frames to dream, and training's own clips have {found.trained}; record longer "
        "episodes."
    )


def _ratio(above: Sequence[float], below: Sequence[float], part: slice) -> float:
    return sum(above[part]) / sum(below[part])


def _bank(found: LongDreams) -> tuple[Float[Tensor, "n f"], Int[Tensor, "n"]]:
    """Recorded frames, evenly spread, and the episodes that they are from."""
    rows, frames = found.truth.shape[:2]
    stride = max(1, rows * frames // BANK)
    numbers = torch.arange(0, rows * frames, stride)
    return found.truth.flatten(0, 1)[numbers].flatten(1), found.episodes[numbers // frames]


def _nearest(frames: Float[Tensor, "b t l c"], episodes: Int[Tensor, "b"], bank: Tensor, of: Int[Tensor, "n"]) -> Float[Tensor, "b t"]:
    """Root mean squared difference of the numbers to the nearest frame of the bank out of another episode."""
    found = []
    for row, episode in zip(frames, episodes, strict=True):
        others: Bool[Tensor, "n"] = of != episode
        found.append(torch.cdist(row.flatten(1), bank[others]).min(1).values / bank.shape[1] ** 0.5)
    return torch.stack(found)


def _change(frames: Float[Tensor, "b t l c"], last: Float[Tensor, "b 1 l c"]) -> Float[Tensor, "b t"]:
    return torch.cat([last, frames], 1).diff(dim=1).square().mean((2, 3))
