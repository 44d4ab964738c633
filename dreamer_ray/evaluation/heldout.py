"""Quality on held-out episodes, each figure beside a trivial baseline that it has to beat."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dreamer_ray.evaluation.metrics import block_averages, changed_tiles, psnr
from dreamer_ray.imagination.rollout import dream
from dreamer_ray.imagination.sampler import Sampling, prefill
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Actions, Annotations, Clip, LatentClip


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


@torch.no_grad()
def reconstruct(tokenizer: Tokenizer, clip: Clip) -> Float[Tensor, "b t y x 3"]:
    """Pictures after encoder and decoder, in 0 .. 1."""
    return tokenizer.decode(tokenizer.encode(clip.frames)).clamp(0, 1)


def tokenizer_figures(tokenizer: Tokenizer, clip: Clip, mean: Float[Tensor, "y x 3"]) -> dict[str, float]:
    """PSNR (dB) of reconstructions, of the training set's mean frame, and of block averages of as many numbers as the latents have."""
    truth = clip.frames / 255
    numbers = tokenizer.config.latents * tokenizer.config.channels
    with torch.no_grad():
        saturated = (tokenizer.encode(clip.frames).abs() > 0.97).float().mean()
    return {
        "reconstruction_psnr": psnr(reconstruct(tokenizer, clip), truth),
        "mean_frame_psnr": psnr(mean.expand_as(truth), truth),
        "block_average_psnr": psnr(block_averages(truth, numbers), truth),
        "saturated": float(saturated),
    }


@torch.no_grad()
def dream_windows(tokenizer: Tokenizer, dynamics: Dynamics, clip: Clip, *, context: int, steps: int, generator: torch.Generator) -> Dreams:
    """Dreams on from the first ``context`` frames of each clip under its own actions, and under those of the next clip of the batch.

    The decoder, which may look back in time, is given the context before every dream, as before the reconstruction.
    """
    latents = tokenizer.encode(clip.frames)
    start = LatentClip(latents[:, :context], _frames(clip.notes, slice(0, context)))
    actions: Actions = {name: value[:, context - 1 : -1] for name, value in clip.notes.actions.items()}
    others: Actions = {name: value.roll(1, 0) for name, value in actions.items()}
    seeds = torch.randint(2**62, (len(latents),), generator=generator).tolist()

    def pictures(taken: Actions) -> Tensor:
        dreamed = dream(dynamics, start, taken, sampling=Sampling(steps=steps), seeds=seeds)
        return tokenizer.decode(torch.cat([latents[:, :context], dreamed], dim=1))[:, context:].clamp(0, 1)

    dreamed, shuffled = pictures(actions), pictures(others)
    truth, reconstruction = clip.frames / 255, tokenizer.decode(latents).clamp(0, 1)
    before = slice(context - 1, context)
    return Dreams(truth[:, context:], reconstruction[:, context:], dreamed, shuffled, truth[:, before], reconstruction[:, before])


def dream_figures(dreams: Dreams, *, tile: int) -> dict[str, float]:
    """Errors of the first and of the last dreamed frame beside copying the last real frame, and how much the actions matter.

    ``tile`` is the side of the squares, in pixels, of which those that changed are also looked at alone.
    """
    figures: dict[str, float] = {}
    for t in (0, dreams.truth.shape[1] - 1):
        at = f"at_{t + 1}"
        truth, dreamed, last = dreams.truth[:, t], dreams.dream[:, t], dreams.last[:, 0]
        error, copied = F.mse_loss(dreamed, truth), F.mse_loss(last, truth)
        figures[f"dream_psnr_{at}"], figures[f"copy_psnr_{at}"] = psnr(dreamed, truth), psnr(last, truth)
        figures[f"error_over_copy_{at}"] = float(error / copied)
        seen, seen_last = dreams.reconstruction[:, t], dreams.last_reconstruction[:, 0]
        figures[f"error_over_copy_in_reconstruction_{at}"] = float(F.mse_loss(dreamed, seen) / F.mse_loss(seen_last, seen))
        changed = changed_tiles(last, truth, tile)
        for name, of, copy in (("", truth, last), ("_in_reconstruction", seen, seen_last)):
            figures[f"error_over_copy{name}_on_changed_tiles_{at}"] = float(_mse(dreamed, of, changed) / _mse(copy, of, changed))
        figures[f"action_following_{at}"] = float(F.mse_loss(dreams.shuffled[:, t], truth) / error)
    return figures


@torch.no_grad()
def agent_figures(agent: Agent, clip: LatentClip, marginal: Float[Tensor, "k"], generator: torch.Generator) -> dict[str, float]:
    """Log-probability (nats) of held-out actions of task-relevant clips beside the training marginal, and the reward's cross-entropy.

    ``marginal`` holds the log-probabilities of the categorical component "action". The reward is read as the probability that the
    prompted task's event happened; its baseline is the constant with the lowest cross-entropy on these very frames.
    """
    notes = clip.notes
    states = _states(agent, clip, generator)
    policy, known = agent.policy.now(states), notes.labelled & notes.relevant.unsqueeze(1)
    chosen = notes.actions["action"].long()
    best = policy.components["action"].probs.argmax(-1)  # pyright: ignore[reportAttributeAccessIssue]
    chance = agent.reward.now(states).mean.clamp(1e-4, 1 - 1e-4)
    base = notes.rewards.mean().clamp(1e-4, 1 - 1e-4).expand_as(chance)
    return {
        "action_log_prob": float(policy.log_prob(notes.actions)[known].mean()),
        "marginal_log_prob": float(marginal[chosen][known].mean()),
        "action_accuracy": float((best == chosen)[known].float().mean()),
        "reward_cross_entropy": float(F.binary_cross_entropy(chance, notes.rewards)),
        "base_rate_cross_entropy": float(F.binary_cross_entropy(base, notes.rewards)),
    }


@torch.no_grad()
def mean_policy(agent: Agent, clip: LatentClip, generator: torch.Generator) -> Float[Tensor, "k"]:
    """Average probability of each action over the frames of ``clip``."""
    return agent.policy.now(_states(agent, clip, generator)).components["action"].probs.mean((0, 1))  # pyright: ignore[reportAttributeAccessIssue]


def _states(agent: Agent, clip: LatentClip, generator: torch.Generator) -> Float[Tensor, "b t d"]:
    """Agent states of real frames under the clips' own prompts."""
    noise = torch.randn(clip.latents.shape, generator=generator)
    states = prefill(agent.dynamics, clip, noise=noise, agent=agent.prompt(clip.notes.task, clip.latents.shape[1]))
    assert states is not None
    return states


def action_counts(clip: LatentClip, size: int) -> Float[Tensor, "k"]:
    """How often each action of the component "action" was taken, where known."""
    return torch.bincount(clip.notes.actions["action"][clip.notes.labelled].long(), minlength=size).float()


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
