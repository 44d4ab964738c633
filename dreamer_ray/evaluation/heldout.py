"""Quality on held-out episodes, each figure beside a trivial baseline that it has to beat."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.evaluation.marginal import Marginal
from dreamer_ray.evaluation.metrics import SSIM_WINDOW, block_averages, changed_tiles, lite0_distance, psnr, ssim
from dreamer_ray.evaluation.passes import agent_states, in_passes
from dreamer_ray.imagination.rollout import dream
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.distributions import ActionDistribution
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Actions, Annotations, Binary, Categorical, Clip, LatentClip

MOST_COMPARED = 64
"""Pictures of which SSIM and the perceptual distance are taken, evenly out of what there is."""


@dataclass(frozen=True)
class Dreams:
    """Dreamed windows beside the truth, as pictures in 0 .. 1."""

    truth: Float[Tensor, "b t y x 3"]
    reconstruction: Float[Tensor, "b t y x 3"]
    dream: Float[Tensor, "b t y x 3"]
    shuffled: Float[Tensor, "b t y x 3"]
    last: Float[Tensor, "b 1 y x 3"]
    """The last real frame before the dream."""
    last_reconstruction: Float[Tensor, "b 1 y x 3"]
    told: Bool[Tensor, "b"]
    """Whether the actions of a window are known, and those of the window from which ``shuffled`` has its own."""


@torch.no_grad()
def reconstruct(tokenizer: Tokenizer, clip: Clip) -> Float[Tensor, "b t y x 3"]:
    """Pictures after encoder and decoder, in 0 .. 1."""
    return tokenizer.decode(tokenizer.encode(clip.frames)).clamp(0, 1)


def tokenizer_figures(tokenizer: Tokenizer, clip: Clip, mean: Float[Tensor, "y x 3"]) -> dict[str, float]:
    """PSNR (dB) of reconstructions, of the training set's mean frame, and of block averages of as many numbers as the latents have.

    Of ``reconstruction_n`` of the pictures, beside those block averages, ``reconstruction_ssim`` (left out below 11 pixels) and
    ``reconstruction_lite0_distance`` (perceptual, on EfficientNet-Lite0).
    """
    truth = clip.frames / 255
    numbers = tokenizer.config.latents * tokenizer.config.channels
    with torch.no_grad():
        saturated = (tokenizer.encode(clip.frames).abs() > 0.97).float().mean()
    rebuilt, blocks = reconstruct(tokenizer, clip), block_averages(truth, numbers)
    figures = {
        "reconstruction_psnr": psnr(rebuilt, truth),
        "mean_frame_psnr": psnr(mean.expand_as(truth), truth),
        "block_average_psnr": psnr(blocks, truth),
        "saturated": float(saturated),
    }
    return figures | _likeness(truth.flatten(0, 1), reconstruction=rebuilt.flatten(0, 1), block_average=blocks.flatten(0, 1))


def _likeness(truth: Float[Tensor, "b y x 3"], **shown: Float[Tensor, "b y x 3"]) -> dict[str, float]:
    """SSIM and perceptual distance of each of ``shown``, and of how many pictures, by the name of the first."""
    chosen = torch.linspace(0, len(truth) - 1, min(MOST_COMPARED, len(truth))).round().long()
    figures: dict[str, float] = {f"{next(iter(shown))}_n": len(chosen)}
    for name, pictures in shown.items():
        if min(truth.shape[1:3]) >= SSIM_WINDOW:
            figures[f"{name}_ssim"] = ssim(pictures[chosen], truth[chosen])
        figures[f"{name}_lite0_distance"] = lite0_distance(pictures[chosen], truth[chosen])
    return figures


@torch.no_grad()
def dream_windows(tokenizer: Tokenizer, dynamics: Dynamics, clip: Clip, *, context: int, steps: int, generator: torch.Generator) -> Dreams:
    """Dreams on from the first ``context`` frames of each clip under its own actions, and under those of the clip before it.

    The decoder, which may look back in time, is given the context before every dream, as before the reconstruction.
    """
    latents = tokenizer.encode(clip.frames)
    start = LatentClip(latents[:, :context], _frames(clip.notes, slice(0, context)))
    actions: Actions = {name: value[:, context - 1 : -1] for name, value in clip.notes.actions.items()}
    others: Actions = {name: value.roll(1, 0) for name, value in actions.items()}
    known = clip.notes.labelled[:, context - 1 : -1] if actions else torch.zeros_like(clip.notes.labelled[:, context - 1 : -1])
    told = known.all(1) & known.roll(1, 0).all(1)
    seeds = torch.randint(2**62, (len(latents),), generator=generator).tolist()

    def pictures(taken: Actions, known: Tensor) -> Tensor:
        dreamed = dream(dynamics, start, taken, known, sampling=Sampling(steps=steps), seeds=seeds)
        return tokenizer.decode(torch.cat([latents[:, :context], dreamed], dim=1))[:, context:].clamp(0, 1)

    dreamed = pictures(actions, known)
    shuffled = pictures(others, known.roll(1, 0)) if told.any() else dreamed
    truth, reconstruction = clip.frames / 255, tokenizer.decode(latents).clamp(0, 1)
    before = slice(context - 1, context)
    return Dreams(truth[:, context:], reconstruction[:, context:], dreamed, shuffled, truth[:, before], reconstruction[:, before], told)


def dream_figures(dreams: Dreams, *, tile: int) -> dict[str, float]:
    """Errors of the first and of the last dreamed frame beside copying the last real frame, and how much the actions matter.

    ``dream_ssim_at_T``, ``dream_lite0_distance_at_T`` (perceptual, on EfficientNet-Lite0) and the same of ``copy`` are of ``dream_n_at_T``
    windows; SSIM is left out of pictures below 11 pixels. ``tile`` is the side of the squares, in pixels, of which those that changed are
    also looked at alone.
    """
    figures: dict[str, float] = {}
    for t in (0, dreams.truth.shape[1] - 1):
        at = f"at_{t + 1}"
        truth, dreamed, last = dreams.truth[:, t], dreams.dream[:, t], dreams.last[:, 0]
        error, copied = F.mse_loss(dreamed, truth), F.mse_loss(last, truth)
        figures[f"dream_psnr_{at}"], figures[f"copy_psnr_{at}"] = psnr(dreamed, truth), psnr(last, truth)
        figures[f"error_over_copy_{at}"] = float(error / copied)
        figures |= {f"{name}_{at}": value for name, value in _likeness(truth, dream=dreamed, copy=last).items()}
        seen, seen_last = dreams.reconstruction[:, t], dreams.last_reconstruction[:, 0]
        figures[f"error_over_copy_in_reconstruction_{at}"] = float(F.mse_loss(dreamed, seen) / F.mse_loss(seen_last, seen))
        changed = changed_tiles(last, truth, tile)
        for name, of, copy in (("", truth, last), ("_in_reconstruction", seen, seen_last)):
            figures[f"error_over_copy{name}_on_changed_tiles_{at}"] = float(_mse(dreamed, of, changed) / _mse(copy, of, changed))
        if dreams.told.any():
            rows = slice(None) if dreams.told.all() else dreams.told
            error = F.mse_loss(dreamed[rows], truth[rows])
            figures[f"action_following_{at}"] = float(F.mse_loss(dreams.shuffled[rows, t], truth[rows]) / error)
    return figures


@torch.no_grad()
def agent_figures(agent: Agent, clip: LatentClip, marginal: Marginal, generator: torch.Generator) -> dict[str, float]:
    """Log-probability (nats) of held-out actions beside the training ``marginal``, and the reward's cross-entropy.

    Of actions of task-relevant clips, where there are any, and of several components each by itself too. The reward is read as the
    probability that the prompted task's event happened; its baseline is the constant with the lowest cross-entropy on these very frames.
    """
    notes = clip.notes
    states = _states(agent, clip, generator)
    policy, known = agent.policy.now(states), notes.labelled & (notes.relevant | ~notes.relevant.any()).unsqueeze(1)
    chance = agent.reward.now(states).mean.clamp(1e-4, 1 - 1e-4)
    base = notes.rewards.mean().clamp(1e-4, 1 - 1e-4).expand_as(chance)
    figures = _action_figures(policy, notes.actions, marginal, known) if known.any() else {}
    return figures | {
        "reward_cross_entropy": float(F.binary_cross_entropy(chance, notes.rewards)),
        "base_rate_cross_entropy": float(F.binary_cross_entropy(base, notes.rewards)),
    }


def _action_figures(policy: ActionDistribution, actions: Actions, marginal: Marginal, known: Tensor) -> dict[str, float]:
    expected = marginal.log_prob(actions)
    figures = {
        "action_log_prob": float(policy.log_prob(actions)[known].mean()),
        "marginal_log_prob": float(torch.stack(list(expected.values())).sum(0)[known].mean()),
    }
    for name, distribution in policy.components.items():
        of = f"_of_{name}" if len(policy.components) > 1 else ""
        figures[f"action_log_prob{of}"] = float(distribution.log_prob(actions[name].float())[known].mean())
        figures[f"marginal_log_prob{of}"] = float(expected[name][known].mean())
        if isinstance(policy.space[name], Categorical):
            best = distribution.probs.argmax(-1)  # pyright: ignore[reportAttributeAccessIssue]
            figures[f"action_accuracy{of}"] = float((best == actions[name].long())[known].float().mean())
    return figures


@torch.no_grad()
def policy_shares(agent: Agent, clip: LatentClip, generator: torch.Generator, names: Iterable[str]) -> Float[Tensor, "k"]:
    """Average probability of each choice or key of the components ``names``, none of which is continuous, over the frames of ``clip``."""
    policy = agent.policy.now(_states(agent, clip, generator))
    return torch.cat([_probabilities(policy, name).mean((0, 1)) for name in names])


def _probabilities(policy: ActionDistribution, name: str) -> Tensor:
    distribution = policy.components[name]
    return distribution.mean if isinstance(policy.space[name], Binary) else distribution.probs  # pyright: ignore[reportAttributeAccessIssue]


def _states(agent: Agent, clip: LatentClip, generator: torch.Generator) -> Float[Tensor, "b t d"]:
    """Agent states of real frames under the clips' own prompts."""
    noise = torch.randn(clip.latents.shape, generator=generator)
    return in_passes(agent, partial(agent_states, agent), clip, noise)


def _frames(notes: Annotations, part: slice) -> Annotations:
    return Annotations(
        actions={name: value[:, part] for name, value in notes.actions.items()},
        labelled=notes.labelled[:, part],
        rewards=notes.rewards[:, part],
        continues=notes.continues[:, part],
        task=notes.task,
        relevant=notes.relevant,
    )


def _mse(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return (a - b).square()[mask.expand_as(a)].mean()
