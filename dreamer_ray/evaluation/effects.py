"""What a difference between two agents is worth when each was trained from several seeds and all played the same worlds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamer_ray.evaluation.intervals import Interval, Values, mean, paired_bootstrap, paired_difference, success_rate

BySeed = Mapping[int, Values]
"""A figure of every world, in one order of worlds, by the seed of the training that made the agent."""
LEAST_SEEDS = 8
"""Fewer seeds of training show a direction, no more: redrawing phase 2 moves the effect by more than imagination training does."""


@dataclass(frozen=True, eq=False)
class Effect:
    """How much more of a figure one agent has than another, in the same worlds."""

    name: str
    across: Interval
    """Mean over the seeds of training of the mean difference, with Student's t interval over these seeds: n is their number."""
    within: Mapping[int, Interval]
    """By seed, the mean difference of its two checkpoints, with Student's t interval over the worlds."""
    redrawn: Mapping[int, Interval]
    """The same with the percentile bootstrap interval over the worlds, which leans on no shape."""

    @property
    def shown(self) -> str:
        """What the interval over seeds says: "above zero", "below zero", "no difference shown"; below LEAST_SEEDS "direction only"."""
        if len(self.within) < LEAST_SEEDS:
            return "direction only"
        if self.across.low > 0:
            return "above zero"
        return "below zero" if self.across.high < 0 else "no difference shown"


def effect(name: str, after: BySeed, before: BySeed) -> Effect:
    """The effect of what lies between ``before`` and ``after``, which have the same seeds, at least one, and the same worlds."""
    if after.keys() != before.keys() or not after:
        raise ValueError(f"seeds {sorted(after)} and {sorted(before)}: expected the same ones, at least one")
    within = {seed: paired_difference(after[seed], before[seed]) for seed in sorted(after)}
    redrawn = {seed: paired_bootstrap(after[seed], before[seed], np.random.default_rng(seed)) for seed in within}
    return Effect(name, mean([found.value for found in within.values()]), within, redrawn)


def rate(achieved: BySeed) -> Interval:
    """Share of all worlds of all seeds, with the wider of two intervals: over seeds (Student's t) and over worlds (Wilson).

    One alone would be too narrow: seeds share their worlds, and worlds their seeds. ``n`` counts episodes.
    """
    shares = [float(np.mean(each)) for each in achieved.values()]
    worlds, count = len(next(iter(achieved.values()))), sum(len(each) for each in achieved.values())
    over_worlds = success_rate(round(float(np.mean(shares)) * worlds), worlds)
    over_seeds = mean(shares)
    low, high = np.nanmin([over_worlds.low, over_seeds.low]), np.nanmax([over_worlds.high, over_seeds.high])
    return Interval(over_seeds.value, max(0.0, float(low)), min(1.0, float(high)), count)


def figure(values: BySeed) -> Interval:
    """Mean over all worlds of all seeds, with the wider of two intervals (Student's t): over seeds and over worlds; see ``rate``."""
    over_seeds = mean([float(np.mean(each)) for each in values.values()])
    over_worlds = mean(np.mean([np.asarray(each, dtype=np.float64) for each in values.values()], axis=0))
    if math.isnan(over_worlds.low) and math.isnan(over_seeds.low):
        bounds = math.nan, math.nan
    else:
        bounds = float(np.nanmin([over_worlds.low, over_seeds.low])), float(np.nanmax([over_worlds.high, over_seeds.high]))
    return Interval(over_seeds.value, *bounds, sum(len(each) for each in values.values()))


def steps_to_success(first_steps: Mapping[int, Sequence[int]]) -> Interval | None:
    """Mean step of the first success over the episodes that had one (from 1; -1 is none), with Student's t interval; None without any.

    Over the seeds where at least two had a success, else over episodes. ``n`` counts successes.
    """
    successes = {seed: [step for step in steps if step > 0] for seed, steps in first_steps.items()}
    had = [float(np.mean(steps)) for steps in successes.values() if steps]
    steps = [float(step) for found in successes.values() for step in found]
    if not steps:
        return None
    spread = mean(had) if len(had) > 1 else mean(steps)
    return Interval(spread.value, spread.low, spread.high, len(steps))
