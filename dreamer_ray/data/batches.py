"""The plan of batches: which clips step s takes is a pure function of the seed and s.

So the position in the data is one number, the step; a resumed run goes on at it, and any number of ranks share the same global batch.
Uniform rows go through all clips once an epoch; relevant rows are drawn so that every task is trained equally often. Where sources of the
set have shares (see ``pools``), each goes through epochs of its own, and uniform rows are divided among them by their shares.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from dreamer_ray.config import Config
from dreamer_ray.data.clips import ClipRef, read_clip
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.errors import UserError
from dreamer_ray.types import Clip, LatentClip

NEVER = np.iinfo(np.int64).max


class BatchConfig(Config):
    """Sizes and mixture of the batches of one phase."""

    batch_size: int = Field(gt=0)
    length: int = Field(gt=0)
    """T1, frames of a short batch's clips."""
    long_length: int | None = Field(default=None, gt=0)
    """T2, frames of a long batch's clips; None for short batches only. Should exceed the context C."""
    long_batch_size: int | None = Field(default=None, gt=0)
    long_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps whose batch is long."""
    final_long: float = Field(default=0.0, ge=0, le=1)
    """Last share of the steps, in which every batch is long."""
    relevant_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the rows that are clips in which their task's event occurs; the others are drawn uniformly."""
    lookahead: int = Field(default=0, ge=0)
    """How many frames behind a relevant clip the event may lie too, so that the task is still to be done where the clip ends."""
    label_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of the episodes, in data-set order, whose actions are used; the others count as unlabelled video."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "BatchConfig":
        if (self.long_length is None) != (self.long_batch_size is None):
            raise ValueError("long_length and long_batch_size go together")
        if self.relevant_fraction > 0 and min(self.length, self.long_length or self.length) < 2:
            raise ValueError("relevant_fraction > 0 needs length >= 2 and long_length >= 2: the frame before an event must be in the clip")
        return self


class BatchPlan:
    """The clips of every step of a phase of ``steps`` steps over ``source``; prompts are among ``tasks``.

    With ``due`` a clip's prompt is the task that an agent in play would have where the clip ends: the first of ``tasks`` that was not
    achieved yet (the last where all were). Relevant clips end before events that were due, ``lookahead`` frames at most.

    Raises ``UserError`` where the set, or a source with a share, has no episode as long as a clip, or no event of the tasks though relevant
    rows are asked for.
    """

    def __init__(self, source: ShardSet, config: BatchConfig, *, steps: int, tasks: Sequence[str], due: bool = False):
        self.config, self.lengths, self.due = config, source.lengths, due
        self.labelled_episodes = round(config.label_fraction * len(self.lengths))
        if missing := [task for task in tasks if task not in source.schema.tasks]:
            raise UserError(f"data set {source.folder}: knows no task {', '.join(missing)}; its tasks are {', '.join(source.schema.tasks)}")
        self.tasks = [source.schema.tasks.index(task) for task in tasks]
        step = np.arange(steps)
        share = config.long_fraction if config.long_length else 0.0
        every = np.floor((step + 1) * share + 1e-9) > np.floor(step * share + 1e-9)
        self.long = (every | (step >= steps * (1 - config.final_long))) & (config.long_length is not None)
        self.ordinal = np.where(self.long, np.cumsum(self.long), np.cumsum(~self.long)) - 1
        self.counts = {length: clips_an_epoch(self.lengths, length) for length in {config.length, config.long_length or config.length}}
        self.pools, self.shares = pools(source)
        for length, counts in self.counts.items():
            for pool in self.pools:
                if counts[pool].sum() == 0:
                    place = f"data set {source.folder}" + (
                        f", source {source.episodes[pool[0]].info['source']}" if len(self.pools) > 1 else ""
                    )
                    raise UserError(
                        f"{place}: no episode has {length} frames (the longest has {self.lengths[pool].max()}); "
                        "lower the length of the stage's clips or record longer episodes"
                    )
        events = source.event_frames() if config.relevant_fraction or due else np.zeros((3, 0), np.int64)
        self.achieved = self._achieved(*events)
        self.events = self._relevant_events(source, *events) if config.relevant_fraction else {}
        self.pool_of = np.zeros(len(self.lengths), np.int64)
        for number, pool in enumerate(self.pools):
            self.pool_of[pool] = number
        self.totals = {length: [int(counts[pool].sum()) for pool in self.pools] for length, counts in self.counts.items()}
        self._order = lru_cache(maxsize=4)(self._epoch)

    def refs(self, step: int) -> list[ClipRef]:
        """The global batch of ``step``."""
        config, long = self.config, bool(self.long[step])
        size = (config.long_batch_size if long else config.batch_size) or 0
        length = (config.long_length if long else config.length) or 0
        edges = np.floor(np.arange(size + 1) * config.relevant_fraction + 1e-9)
        relevant = edges[1:] > edges[:-1]
        position = int(self.ordinal[step]) * int((~relevant).sum())
        rng = np.random.default_rng([config.seed, 1, step])
        rows = []
        for is_relevant in relevant:
            if is_relevant:
                rows.append(self._relevant(length, rng))
            else:
                rows.append(self._uniform(length, position, rng))
                position += 1
        return rows

    def _uniform(self, length: int, position: int, rng: np.random.Generator) -> ClipRef:
        pool, position = turn(position, self.shares)
        epoch, place = divmod(position, self.totals[length][pool])
        episodes, starts = self._order(pool, length, epoch)
        episode, start = int(episodes[place]), int(starts[place])
        task = int(rng.choice(self.tasks)) if self.tasks else 0
        if self.due and self.tasks:
            task = int(self._task_due(episode, start + length - 1))
        return self._ref(episode, start, length, task=task, relevant=False)

    def _task_due(self, episode: np.ndarray | int, frame: np.ndarray | int) -> np.ndarray:
        """The first task that was not achieved up to ``frame``, or the last one."""
        rungs = (self.achieved[:, episode] <= frame).cumprod(0).sum(0)
        return np.array(self.tasks)[np.minimum(rungs, len(self.tasks) - 1)]

    def _epoch(self, pool: int, length: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All clips of an epoch of a pool, shuffled: each episode is cut into whole clips from a random offset, so none overlap."""
        rng = np.random.default_rng([self.config.seed, 0, length, epoch, *([pool] if pool else [])])
        members = self.pools[pool]
        counts = self.counts[length][members]
        offsets = rng.integers(0, self.lengths[members] - counts * length + 1)
        episodes = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(episodes)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = rng.permutation(len(episodes))
        return members[episodes[order]], (offsets[episodes] + within * length)[order]

    def _relevant(self, length: int, rng: np.random.Generator) -> ClipRef:
        task = int(rng.choice(list(self.events)))
        episode, frame = self.events[task][int(rng.integers(len(self.events[task])))]
        earliest, latest = self._starts(task, int(episode), np.array(frame), length)
        return self._ref(int(episode), int(rng.integers(earliest, latest + 1)), length, task=task, relevant=True)

    def _starts(self, task: int, episode: int, frames: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last frames at which relevant clips of events of ``task`` in ``frames`` may begin."""
        earliest = np.maximum(0, frames - length - self.config.lookahead + 1)
        if self.due:  # where the clip ends, all that comes before the task has been achieved
            earliest = np.maximum(earliest, self.achieved[: self.tasks.index(task), episode].max(initial=0) - length + 1)
        return earliest, np.minimum(frames - (length if self.due else 1), int(self.lengths[episode]) - length)

    def _enrichment(self, episode: int, start: int, length: int, task: int) -> float:
        """See ``Annotations.enrichment``."""
        events = self.events.get(task)
        if events is None:
            return 0.0
        first, last = np.searchsorted(events[:, 0], [episode, episode + 1])
        earliest, latest = self._starts(task, episode, events[first:last, 1], length)
        near = (earliest <= start) & (start <= latest)
        relevant = float(np.sum(near / (latest - earliest + 1))) / len(events) / len(self.events)
        pool, count = int(self.pool_of[episode]), int(self.counts[length][episode])
        offsets = int(self.lengths[episode]) - count * length + 1
        cuts = sum(0 <= start - k * length < offsets for k in range(count))  # of the ways to cut the episode, those with this clip
        return relevant / (self.shares[pool] / self.totals[length][pool] * cuts / offsets / len(self.tasks))

    def _ref(self, episode: int, start: int, length: int, *, task: int, relevant: bool) -> ClipRef:
        enrichment = self._enrichment(episode, start, length, task)
        return ClipRef(episode, start, length, task, relevant, episode < self.labelled_episodes, enrichment)

    def _achieved(self, episode: np.ndarray, frame: np.ndarray, task: np.ndarray) -> Int[np.ndarray, "tasks episodes"]:
        """The frame at which an episode achieved each of ``tasks``, ``NEVER`` where it did not."""
        found = np.full((len(self.tasks), len(self.lengths)), NEVER)
        for row, number in enumerate(self.tasks):
            np.minimum.at(found[row], episode[task == number], frame[task == number])
        return found

    def _relevant_events(self, source: ShardSet, episode: np.ndarray, frame: np.ndarray, task: np.ndarray) -> dict[int, np.ndarray]:
        length = max(self.counts)
        usable = (frame >= (length if self.due else 1)) & (self.lengths[episode] >= length)
        if self.due:
            usable &= self._task_due(episode, frame - 1) == task
        events = {t: np.stack([episode, frame], 1)[usable & (task == t)] for t in self.tasks}
        events = {t: found for t, found in events.items() if len(found)}
        if not events:
            raise UserError(
                f"data set {source.folder}: no clip of {length} frames holds an event of any task; record more or longer episodes"
            )
        return events


def pools(source: ShardSet) -> tuple[list[Int[np.ndarray, "episodes"]], list[float]]:
    """The episodes that share epochs, and the share of the rows that each of these pools has.

    Each source with a share is a pool; those without one are another, with what is left, which their hours divide.
    """
    shares = {number: note.share for number, note in enumerate(source.manifest.origin.sources) if note.share is not None}
    number = np.array([int(episode.info.get("source", 0)) if shares else 0 for episode in source.episodes])
    found = [(np.flatnonzero(~np.isin(number, list(shares))), 1 - sum(shares.values()))]
    found += [(np.flatnonzero(number == each), share) for each, share in shares.items()]
    found = [(episodes, share) for episodes, share in found if len(episodes)]
    total = sum(share for _, share in found)
    return [episodes for episodes, _ in found], [share / total for _, share in found]


def turn(row: int, shares: Sequence[float]) -> tuple[int, int]:
    """Whose turn ``row`` is, out of all rows counted through, and how many turns that one had before.

    Of any rows in a row each has its share, but for a row or two.
    """
    left = 1.0
    for number, share in enumerate(shares[:-1]):
        before, after = (math.floor(rows * min(share / left, 1.0) + 1e-9) for rows in (row, row + 1))
        if after > before:
            return number, before
        row, left = row - before, left - share
    return len(shares) - 1, row


def clips_an_epoch(lengths: Int[np.ndarray, "episodes"], length: int) -> Int[np.ndarray, "episodes"]:
    """How many clips of ``length`` frames an epoch takes from each episode: as many as fit whole wherever the first of them begins.

    One clip less than would fit from frame 0, so that clips begin at every frame in the course of the epochs: an episode of exactly n
    clips would otherwise be cut at the same places for ever. Clips of one frame are all frames; an episode that is too short gives none.
    """
    return np.where(lengths >= length, np.maximum((lengths + 1) // length - 1, 1), 0)


def load(source: ShardSet, plan: BatchPlan, step: int, *, rank: int, world: int) -> Clip | LatentClip:
    """The rows of ``rank`` out of ``world`` of the batch of ``step``, or one more than others have.

    Raises ``UserError`` where a rank would have none.
    """
    refs = plan.refs(step)
    if len(refs) < world:
        raise UserError(f"a batch of {len(refs)} rows cannot be shared by {world} workers; choose a larger batch or fewer workers")
    return read_clip(source, refs[rank * len(refs) // world : (rank + 1) * len(refs) // world])
