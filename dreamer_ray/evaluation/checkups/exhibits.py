"""The charts and pictures that stand beside the doctor's findings."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from dreamer_ray.evaluation import figures
from dreamer_ray.evaluation.checkups import calibration, earnings, exploitation, long_dreams, policy, returns, revisits, steering
from dreamer_ray.evaluation.checkups.pictures import PictureFigures
from dreamer_ray.evaluation.diagnosis import Exhibit
from dreamer_ray.evaluation.findings_page import picture
from dreamer_ray.evaluation.passes import decoded, in_passes
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Clip, LatentClip

SHOWN, FRAMES_OF_A_STRIP, DECILES, ACTIONS_SHOWN = 8, 11, 10, 17


def of_blur(found: PictureFigures, tokenizer: Tokenizer, clip: Clip) -> list[Exhibit]:
    """Pictures above their reconstructions, and where on the picture the errors are."""
    shown = clip.rows(slice(0, SHOWN))
    rows = [shown.frames[:, -1].numpy(), _bytes(decoded(tokenizer, in_passes(tokenizer, tokenizer.encode, shown.frames))[:, -1])]
    tiles = {"pairs that differ": found.tile_changes.numpy(), "change kept": found.tile_kept.clamp(0, 1).numpy()}
    maps = {"tokenizer": found.tile_errors.numpy(), "mosaic of as many numbers": found.tile_block_errors.numpy()}
    return [
        Exhibit(
            "Above: held-out pictures. Below: what the tokenizer keeps of them.",
            picture(figures.mosaic(rows), "pictures and reconstructions"),
        ),
        Exhibit("Mean squared error tile by tile, on one scale.", Markup(figures.heat_maps(maps))),
        Exhibit(
            "How often a tile is another in the next picture, and how much of its change is there again.", Markup(figures.heat_maps(tiles))
        ),
    ]


def of_collapse(found: PictureFigures) -> list[Exhibit]:
    """How much each number varies."""
    chart = figures.heat_maps({"deviation": found.deviations.numpy()}, across="number of the latent", up="latent")
    return [Exhibit("Deviation of each number of the latents over the held-out pictures; dark ones carry nothing.", Markup(chart))]


def of_actions(found: steering.SteeringFigures) -> list[Exhibit]:
    """The ratio frame by frame."""
    ratio = (found.other.mean(0) / found.own.mean(0)).tolist()
    chart = figures.line_chart({"ratio": _numbered(ratio)}, across="dreamed frame", up="error over error", level=steering.LEAST_RATIO)
    return [Exhibit("Error under another window's actions over the error under the recorded ones; dashed: the threshold.", Markup(chart))]


def of_drift(found: long_dreams.LongFigures, dreams: long_dreams.LongDreams, tokenizer: Tokenizer, dynamics: Dynamics) -> list[Exhibit]:
    """Distance from real frames and PSNR over time, and a dream in pictures."""
    exhibits = [
        Exhibit(
            "PSNR against the reconstructed truth, in dB.",
            Markup(figures.line_chart({k: _numbered(list(v)) for k, v in found.psnr.items()}, across="dreamed frame", up="dB")),
        ),
        _strip(dreams, tokenizer, dynamics),
    ]
    if not found.dream_distance:
        return exhibits
    pairs = {"dreamed frames": found.dream_distance, "real frames": found.real_distance}
    chart = figures.line_chart(
        {name: list(zip(found.ends, values, strict=True)) for name, values in pairs.items()}, across="dreamed frame", up="distance"
    )
    return [Exhibit("Distance to the nearest recorded frame of another episode.", Markup(chart)), *exhibits]


def of_freeze(found: long_dreams.LongFigures) -> list[Exhibit]:
    """Change from frame to frame over time."""
    pairs = {"dreams": found.dream_change, "recordings": found.real_change}
    chart = figures.line_chart(
        {name: list(zip(found.ends, values, strict=True)) for name, values in pairs.items()}, across="dreamed frame", up="squared change"
    )
    return [Exhibit("Change of the latents from frame to frame.", Markup(chart))]


def of_memory(found: revisits.MemoryFigures, again: LatentClip, tokenizer: Tokenizer, memory: revisits.Memory) -> list[Exhibit]:
    """Some returns in pictures."""
    rows = again.latents[:SHOWN]
    last = memory.context - memory.dreamed - 1
    columns = [
        _bytes(decoded(tokenizer, each[:, None])[:, 0])
        for each in (rows[:, last], rows[:, -1], found.shown[:SHOWN, 0], found.shown[:SHOWN, 1])
    ]
    caption = (
        "Returns, one a column. From above: the last real frame before the dream, the truth at the return, the dream of it, and the "
        "dream without the frames that showed the place."
    )
    return [Exhibit(caption, picture(figures.mosaic(columns), "returns and their dreams"))]


def of_calibration(found: calibration.Calibration, where: str = "") -> Exhibit:
    """The reliability picture; ``where`` says of which frames."""
    chart = figures.reliability_chart(found.foretold, found.came, found.counts)
    caption = f"What was foretold{where} and how much of it came; on the dashed line the head is right. Large dots stand for many frames."
    return Exhibit(caption, Markup(chart))


def of_policy(found: policy.PolicyFigures) -> list[Exhibit]:
    """How the distances are spread."""
    chart = figures.histogram(found.kl.numpy(), across="KL to the cloned policy, nats", level=policy.MOST)
    return [
        Exhibit("Held-out frames by how far the policy is from the cloned one there; dashed: the threshold of the mean.", Markup(chart))
    ]


def of_value(found: returns.Expectations) -> list[Exhibit]:
    """Returns by what was expected."""
    order = found.values.argsort()
    parts = order.chunk(DECILES)
    points = [(float(found.values[part].mean()), float(found.returns[part].mean())) for part in parts]
    chart = figures.line_chart({"mean of a tenth of the states": points}, across="value", up="dreamed return")
    return [Exhibit("Dreamed returns of states sorted by their value: where the line rises, the value knows something.", Markup(chart))]


def of_exploitation(found: exploitation.Earned) -> list[Exhibit]:
    """Rewards as they add up."""
    sums = {"in dreams": found.imagined, "in the world": found.real, "foretold of the world's frames": found.foretold}
    chart = figures.line_chart(
        {name: _numbered(values.mean(0).cumsum(0).tolist()) for name, values in sums.items()}, across="step", up="rewards so far"
    )
    return [Exhibit("Rewards of the same policy from the same frames on, mean over worlds.", Markup(chart))]


def of_attempts(found: exploitation.Earned, choices: Mapping[str, Sequence[str]]) -> list[Exhibit]:
    """What was foretold and what came, by action."""
    shown = earnings.deeds(found, choices)[:ACTIONS_SHOWN]
    if not shown:
        return []
    names = [f"{deed.name} ({deed.share:.0%})" for deed in shown]
    chart = figures.bar_chart(names, {"foretold": [deed.foretold for deed in shown], "came": [deed.came for deed in shown]})
    return [
        Exhibit(
            "Reward of a step in the world by the action that led to it (its share of the steps), the most overpaid first.", Markup(chart)
        )
    ]


def _strip(dreams: long_dreams.LongDreams, tokenizer: Tokenizer, dynamics: Dynamics) -> Exhibit:
    chosen = np.unique(np.linspace(0, dreams.truth.shape[1] - 1, FRAMES_OF_A_STRIP).round().astype(int))
    row = int((dreams.truth - dreams.last).square().mean((1, 2, 3)).argmax())
    latents = (in_passes(dynamics, dynamics.restore, each[row : row + 1])[0] for each in (dreams.truth, dreams.dream))
    rows = [_frames(tokenizer, each)[chosen] for each in latents]
    caption = f"The liveliest window: reconstructed truth above, dream below, at frames {', '.join(str(i + 1) for i in chosen)}."
    return Exhibit(caption, picture(figures.mosaic(rows), "truth and dream over time"))


def _frames(tokenizer: Tokenizer, latents: Float[Tensor, "t l c"]) -> np.ndarray:
    return _bytes(decoded(tokenizer, latents[None])[0])


def _bytes(pictures: Float[Tensor, "t y x 3"]) -> np.ndarray:
    return (pictures * 255).round().to(torch.uint8).numpy()


def _numbered(values: list[float]) -> list[tuple[float, float]]:
    return [(float(i + 1), value) for i, value in enumerate(values)]
