"""Does the tokenizer blur, and has it collapsed? Fine detail and error tile by tile, and how much each number of a latent varies."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dreamer_ray.evaluation.diagnosis import Check, Finding
from dreamer_ray.evaluation.metrics import block_averages, psnr
from dreamer_ray.evaluation.passes import decoded, in_passes
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Clip

LEAST_DETAIL, LEAST_GAIN = 0.33, 2.0
VISIBLE, OFTEN = 0.05, 0.1
DEAD, MOST_DEAD, LEAST_SPREAD = 0.02, 0.1, 0.1

BLUR = Check(
    name="blur",
    part="tokenizer",
    question="Does the tokenizer blur?",
    disease="the tokenizer blurs",
    threshold=(
        f"Bad below {LEAST_DETAIL:.0%} of the fine detail (each pixel against the mean of the nine around it), or less than "
        f"{LEAST_GAIN:g} dB better than a mosaic of as many numbers as the latents have: then the transformers add nothing that averaging "
        "would not keep, and no later stage can see small things. Bad also where one tile that often changes (in at least "
        f"{OFTEN:.0%} of the pairs of pictures, by at least {VISIBLE:.0%} of the range) keeps less than {LEAST_DETAIL:.0%} of its change: "
        "it mostly shows its mean, and whoever has to read it, such as a level of health, reads next to nothing. A small tile hardly "
        "counts in the error of a whole picture."
    ),
    remedy=(
        "Train longer (tokenizer.fit.steps), give it more numbers (tokenizer.model.latents, tokenizer.model.channels), smaller patches "
        "(tokenizer.model.patch) or mask less (tokenizer.model.mask_max)."
    ),
    keys=(
        "tokenizer.fit.steps",
        "tokenizer.model.latents",
        "tokenizer.model.channels",
        "tokenizer.model.patch",
        "tokenizer.model.mask_max",
    ),
    rests_on=("collapse",),
)
COLLAPSE = Check(
    name="collapse",
    part="tokenizer",
    question="Has the tokenizer collapsed?",
    disease="the tokenizer collapsed",
    threshold=(
        f"A number of a latent is dead where it varies by less than {DEAD:g} (deviation over the held-out pictures, of a range from -1 to "
        f"1): the noise that dreams put on their context is larger. Bad where more than {MOST_DEAD:.0%} of the numbers are dead, room "
        f"that was paid for and is not used, or where the reconstructions vary less than {LEAST_SPREAD:.0%} as much as the pictures: "
        "nearly one picture for all."
    ),
    remedy=(
        "Lower the rate (tokenizer.fit.optimizer.learning_rate), start from the mean picture and the grid (tokenizer.model.mean_frame, "
        "tokenizer.model.grid_start); where all pictures are well rebuilt, take fewer latents (tokenizer.model.latents)."
    ),
    keys=(
        "tokenizer.fit.optimizer.learning_rate",
        "tokenizer.model.mean_frame",
        "tokenizer.model.grid_start",
        "tokenizer.model.latents",
    ),
)


@dataclass(frozen=True)
class PictureFigures:
    """Reconstructions of held-out pictures."""

    psnr: float
    mean_psnr: float
    """Of the mean of these pictures."""
    block_psnr: float
    """Of a mosaic with as many numbers as the latents."""
    detail: float
    """Share of the fine detail that is there again: of the truth's, by projection; 1 is all."""
    spread: float
    """Variance over the pictures, of reconstructions over that of the truth."""
    deviations: Float[Tensor, "l c"]
    """Of each number of the latents over the pictures."""
    tile_errors: Float[Tensor, "y x"]
    """Mean squared error of each tile."""
    tile_block_errors: Float[Tensor, "y x"]
    tile_changes: Float[Tensor, "y x"]
    """Share of the pairs of pictures in which the tile is visibly another."""
    tile_kept: Float[Tensor, "y x"]
    """Share of its change that is there again: of its distance from its mean, by projection; 1 is all."""

    @property
    def dead(self) -> float:
        """Share of the numbers that hardly vary."""
        return float((self.deviations < DEAD).float().mean())


def measure_pictures(tokenizer: Tokenizer, clip: Clip, *, tile: int) -> PictureFigures:
    """The figures on the pictures of ``clip``; ``tile`` is the side of the squares whose errors are told apart."""
    latents = in_passes(tokenizer, tokenizer.encode, clip.frames)
    truth, rebuilt = (rearrange(each, "b t y x c -> (b t) y x c") for each in (clip.frames / 255, decoded(tokenizer, latents)))
    blocks = block_averages(truth, tokenizer.config.latents * tokenizer.config.channels)
    mean = truth.mean(0)
    fine, fine_rebuilt = _detail(truth), _detail(rebuilt)
    change, change_rebuilt = truth - mean, rebuilt - rebuilt.mean(0)
    steps = _tiles((truth[1:] - truth[:-1]).square(), tile)
    return PictureFigures(
        psnr=psnr(rebuilt, truth),
        mean_psnr=psnr(mean.expand_as(truth), truth),
        block_psnr=psnr(blocks, truth),
        detail=float((fine * fine_rebuilt).sum() / fine.square().sum().clamp(min=1e-12)),
        spread=float(rebuilt.var(0).mean() / truth.var(0).mean().clamp(min=1e-12)),
        deviations=latents.flatten(0, 1).std(0),
        tile_errors=_by_tile((rebuilt - truth).square(), tile),
        tile_block_errors=_by_tile((blocks - truth).square(), tile),
        tile_changes=(steps >= VISIBLE**2).float().mean(0),
        tile_kept=_by_tile(change * change_rebuilt, tile) / _by_tile(change.square(), tile).clamp(min=1e-12),
    )


def judge_blur(found: PictureFigures) -> Finding:
    """Whether fine detail is gone, or the change of a tile."""
    gain = found.psnr - found.block_psnr
    often = found.tile_changes >= OFTEN
    lost = int((often & (found.tile_kept < LEAST_DETAIL)).sum())
    figures = {"detail": found.detail, "psnr": found.psnr, "block_average_psnr": found.block_psnr, "mean_frame_psnr": found.mean_psnr}
    says = (
        f"Reconstructions keep {found.detail:.0%} of the fine detail and reach {found.psnr:.1f} dB, {gain:+.1f} dB against a mosaic of as "
        f"many numbers and {found.psnr - found.mean_psnr:+.1f} dB against the mean picture."
    )
    if often.any():
        kept = found.tile_kept.where(often, torch.inf)
        row, column = divmod(int(kept.argmin()), kept.shape[1])
        figures |= {"least_kept_of_a_tile": float(kept.min()), "lost_tiles": float(lost), "tiles_that_change": float(often.sum())}
        says += (
            f" Of {int(often.sum())} tiles that often change {lost} keep less than {LEAST_DETAIL:.0%} of their change; the worst, in row "
            f"{row + 1} and column {column + 1}, keeps {max(0.0, float(kept.min())):.0%}."
        )
    return (BLUR.sick if found.detail < LEAST_DETAIL or gain < LEAST_GAIN or lost else BLUR.healthy)(says, figures)


def judge_collapse(found: PictureFigures) -> Finding:
    """Whether numbers of the latents, or the pictures, stand still."""
    latents = int((found.deviations < DEAD).all(1).sum())
    says = (
        f"{found.dead:.0%} of the numbers in the latents are dead"
        + (f", {latents} of {len(found.deviations)} latents wholly" if latents else "")
        + f"; reconstructions vary {found.spread:.0%} as much as the pictures."
    )
    sick = found.dead > MOST_DEAD or found.spread < LEAST_SPREAD
    return (COLLAPSE.sick if sick else COLLAPSE.healthy)(says, {"dead": found.dead, "spread": found.spread})


def _detail(pictures: Float[Tensor, "n y x 3"]) -> Tensor:
    planes = pictures.movedim(-1, 1)
    return planes - avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)


def _by_tile(errors: Float[Tensor, "n y x 3"], tile: int) -> Tensor:
    return _tiles(errors.mean(0, keepdim=True), tile)[0]


def _tiles(errors: Float[Tensor, "n y x 3"], tile: int) -> Tensor:
    return avg_pool2d(errors.mean(3)[:, None], tile, ceil_mode=True)[:, 0]
