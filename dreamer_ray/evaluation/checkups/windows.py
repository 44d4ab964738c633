"""Held-out windows as the check-ups need them: drawn, cut from whole episodes, dreamed on; errors between latents."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamer_ray.data.batches import BatchConfig, BatchPlan, pools
from dreamer_ray.data.clips import ClipRef, read_clip
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.passes import in_passes
from dreamer_ray.imagination.engine import DreamEngine
from dreamer_ray.imagination.rollout import following
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.types import Annotations, Clip, LatentClip

log = logging.getLogger("dreamer_ray")


@dataclass(frozen=True)
class Recordings:
    """Held-out episodes and the tasks that prompt."""

    shards: ShardSet
    ladder: Sequence[str]
    seed: int
    encoded: ShardSet | None = None
    """The latents of ``shards``, each episode encoded in one pass as those of training are."""

    @property
    def longest(self) -> int:
        """Frames of the longest episode; of sources with shares, each of which is drawn from, of the one whose longest is shortest."""
        return min(int(self.shards.lengths[pool].max()) for pool in pools(self.shards)[0])

    @property
    def following(self) -> Int[Tensor, "tasks"]:
        """Of each task the one that comes after it on the ladder."""
        tasks = self.shards.schema.tasks
        return following([tasks.index(task) for task in self.ladder], len(tasks))

    def drawn(self, rows: int, length: int, *, lookahead: int = 0, relevant: float = 0.0, due: bool = False) -> list[ClipRef]:
        """Windows drawn as training draws them; the share ``relevant`` of them about an event, where any was recorded."""
        config = BatchConfig(batch_size=rows, length=length, seed=self.seed)
        if relevant and length > 1:
            about = config.model_copy(update={"relevant_fraction": relevant, "lookahead": lookahead})
            try:
                return BatchPlan(self.shards, about, steps=1, tasks=self.ladder, due=due).refs(0)
            except UserError:
                log.debug("no window of %d frames holds an event", length)
        return BatchPlan(self.shards, config, steps=1, tasks=self.ladder, due=due).refs(0)

    def whole(self, rows: int, length: int) -> list[ClipRef]:
        """At most about ``rows`` windows that cover episodes up to their ends, so that all is as frequent in them as in the recordings.

        Each under the prompt that a player would have as it begins: the next task of the ladder that was not achieved before.
        """
        draw = np.random.default_rng(self.seed)
        found: list[ClipRef] = []
        for episode in draw.permutation(len(self.shards.lengths)).tolist():
            events = self.shards.rows(episode).events
            starts = range(int(self.shards.lengths[episode]) - length, -1, -length)
            found += [ClipRef(episode, start, length, self._prompt(events[:start]), relevant=False, label=True) for start in starts]
            if len(found) >= rows:
                break
        return found

    def pictures(self, refs: Sequence[ClipRef]) -> Clip:
        """What ``refs`` point to."""
        clip = read_clip(self.shards, refs)
        assert isinstance(clip, Clip)
        return clip

    def latents(self, refs: Sequence[ClipRef]) -> LatentClip:
        """The same as the dynamics knows it."""
        assert self.encoded is not None
        clip = read_clip(self.encoded, refs)
        assert isinstance(clip, LatentClip)
        return clip

    def _prompt(self, before: np.ndarray) -> int:
        """The next task of the ladder after the events ``before``, uint8 ``[t m]``; the last one where all were achieved."""
        places = [self.shards.schema.tasks.index(task) for task in self.ladder] or [0]
        return next((place for place in places if not before[:, place : place + 1].any()), places[-1])


def part(clip: LatentClip, frames: slice) -> LatentClip:
    """Those frames of each row."""
    notes = clip.notes
    return LatentClip(
        clip.latents[:, frames],
        Annotations(
            actions={name: value[:, frames] for name, value in notes.actions.items()},
            labelled=notes.labelled[:, frames],
            rewards=notes.rewards[:, frames],
            continues=notes.continues[:, frames],
            task=notes.task,
            relevant=notes.relevant,
        ),
    )


def dreamed_on(dynamics: Dynamics, clip: LatentClip, *, context: int, steps: int, seeds: list[int]) -> Float[Tensor, "b t l c"]:
    """What ``dynamics`` sees follow on the first ``context`` frames under the actions of ``clip``; K is ``steps``."""

    def dreamed(clip: LatentClip, seeds: Int[Tensor, "b"]) -> Tensor:
        begun, span, sampling = seeds.tolist(), slice(context - 1, -1), Sampling(steps=steps)
        taken = {name: value[:, span] for name, value in clip.notes.actions.items()}
        known = clip.notes.labelled[:, span] if taken else torch.zeros_like(clip.notes.labelled[:, span])
        engine = DreamEngine(dynamics, slots=len(begun))
        for slot, seed in zip(engine.join(part(clip, slice(0, context)), begun, sampling=sampling), begun, strict=True):
            engine.streams.restart(slot, seed + 1)  # the noise of a dream is the same behind contexts of any length
        told = [({name: value[:, t] for name, value in taken.items()}, known[:, t]) for t in range(known.shape[1])]
        return torch.stack([engine.dream(actions, known=known, sampling=sampling).latents for actions, known in told], dim=1)

    return in_passes(dynamics, dreamed, clip, torch.tensor(seeds))


def latent_errors(dynamics: Dynamics, dreamed: Float[Tensor, "b t l c"], truth: Float[Tensor, "b t l c"]) -> Float[Tensor, "b t"]:
    """Mean squared error of each frame, of numbers scaled as the dynamics knows them, so that all count alike."""
    scaled, scaled_truth = (in_passes(dynamics, dynamics.standardize, each) for each in (dreamed, truth))
    return (scaled - scaled_truth).square().mean((2, 3))
