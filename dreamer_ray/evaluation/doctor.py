"""The doctor: every check-up that a model's parts allow, in the order in which the parts rest on each other.

tokenizer (blur, collapse) --> dynamics (actions, freeze, drift, memory) --> heads (reward, continue, attempts)
    --> policy, exploitation, value
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dreamer_ray.evaluation.checkups import (
    calibration,
    earnings,
    exhibits,
    exploitation,
    long_dreams,
    pictures,
    policy,
    returns,
    revisits,
    steering,
)
from dreamer_ray.evaluation.checkups.windows import Recordings
from dreamer_ray.evaluation.diagnosis import Check, Finding, settled
from dreamer_ray.evaluation.episodes import Worlds
from dreamer_ray.imagination.sampler import Sampling
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.dynamics import Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import LatentClip

TOKENIZER = (pictures.BLUR, pictures.COLLAPSE)
DYNAMICS = (steering.ACTIONS, long_dreams.FREEZE, long_dreams.DRIFT, revisits.MEMORY)
HEADS = (calibration.REWARD, calibration.CONTINUE)
PLAY = (earnings.ATTEMPTS, exploitation.EXPLOIT)
BEHAVIOUR = (policy.POLICY, exploitation.EXPLOIT, returns.VALUE)
CHECKS: tuple[Check, ...] = (*TOKENIZER, *DYNAMICS, *HEADS, earnings.ATTEMPTS, *BEHAVIOUR)
LONG_EPISODES = 4


@dataclass(frozen=True)
class Sizes:
    """What the recipe trains with."""

    context: int
    """C of the dynamics."""
    trained: int
    """Frames of the longest clips of the dynamics."""
    steps: int
    """K, sampling steps of a frame where the dynamics is measured."""
    dream_frames: int
    clip: int
    """Frames of the agent's clips."""
    start: int
    """Frames of the context of a dream in imagination training."""
    lookahead: int
    relevant: float
    """Share of such contexts about events."""
    ladder: bool
    """Whether such dreams begin under the prompt that is due, and go on to the next one."""
    dream_steps: int
    """K in them."""
    horizon: int
    """Their steps."""
    episode: int
    """Step limit of an episode in the world."""
    discount: returns.Discount


@dataclass(frozen=True)
class Extent:
    """How much is looked at."""

    pictures: int = 256
    windows: int = 64
    long_windows: int = 16
    clips: int = 256
    dreams: int = 96
    worlds: int = 48
    warm_up: int = 40
    """Steps played in a world before the dream leaves it."""


QUICK = Extent(pictures=96, windows=24, long_windows=6, clips=96, dreams=32, worlds=16)


@dataclass(frozen=True)
class Patient:
    """The parts of a model that there are, and what they are tried on."""

    recordings: Recordings
    sizes: Sizes
    tile: int
    """Side in pixels of the squares whose errors are told apart."""
    tokenizer: Tokenizer
    dynamics: Dynamics | None = None
    """That in which the agent dreams, where there is an agent."""
    agent: Agent | None = None
    """As it acts after the last stage."""
    cloned: Agent | None = None
    """Before imagination; None where there was no imagination."""
    worlds: Worlds | None = None
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the choices and keys of components that have few of them."""
    seed: int = 0
    """Of the first world that is played; those that follow have the next ones."""
    missing: Mapping[str, str] | None = None
    """Why a part ("dynamics", "agent", "imagination", "worlds") is not there."""

    def lacks(self, part: str) -> str:
        """Why there is no ``part``."""
        return (self.missing or {}).get(part, f"There is no {part}.")


Visit = Callable[[Patient, Extent, torch.Generator], list[Finding]]


def examine(patient: Patient, extent: Extent, *, seed: int, on_findings: Callable[[list[Finding]], None] = lambda _: None) -> list[Finding]:
    """The findings of ``CHECKS``, in their order; ``on_findings`` hears of them as they come.

    All draws are those of ``seed``, but for the worlds that are played.
    """
    found: list[Finding] = []
    for number, visit in enumerate(VISITS):
        news = visit(patient, extent, torch.Generator().manual_seed(seed * len(VISITS) + number))
        on_findings(news)
        found += news
    by_name = {finding.check.name: finding for finding in found}
    return settled([by_name[check.name] for check in CHECKS])


def _tokenizer(patient: Patient, extent: Extent, _: torch.Generator) -> list[Finding]:
    refs = patient.recordings.drawn(extent.pictures, 1)
    clip = patient.recordings.pictures(refs)
    found = pictures.measure_pictures(patient.tokenizer, clip, tile=patient.tile)
    return [
        pictures.judge_blur(found).showing(*exhibits.of_blur(found, patient.tokenizer, clip)),
        pictures.judge_collapse(found).showing(*exhibits.of_collapse(found)),
    ]


def _steering(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    check, sizes = steering.ACTIONS, patient.sizes
    if patient.dynamics is None:
        return [check.unknown(patient.lacks("dynamics"))]
    if not patient.dynamics.actions.space:
        return [check.unknown("No action was recorded: what is dreamed is the video, which nobody can steer.")]
    length = sizes.context - 1 + sizes.dream_frames
    if length > patient.recordings.longest:
        return [_too_short(check, patient, length)]
    clip = _latents(patient, extent.windows, length)
    found = steering.measure_steering(patient.dynamics, clip, context=sizes.context - 1, steps=sizes.steps, generator=generator)
    return [steering.judge_actions(found).showing(*([] if found is None else exhibits.of_actions(found)))]


def _long(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    checks, sizes = (long_dreams.FREEZE, long_dreams.DRIFT), patient.sizes
    if patient.dynamics is None:
        return [check.unknown(patient.lacks("dynamics")) for check in checks]
    lengths = sorted(patient.recordings.shards.lengths.tolist(), reverse=True)
    several = min(lengths[min(LONG_EPISODES, len(lengths)) - 1], patient.recordings.longest)
    length = min(sizes.context - 1 + long_dreams.TIMES * sizes.trained, several)
    if length < sizes.context + 1:
        return [_too_short(check, patient, sizes.context + 1) for check in checks]
    refs = patient.recordings.drawn(extent.long_windows, length)
    clip = patient.recordings.latents(refs)
    dreams = long_dreams.dream_long(
        patient.dynamics,
        clip,
        [ref.episode for ref in refs],
        context=sizes.context - 1,
        trained=sizes.trained,
        steps=sizes.steps,
        generator=generator,
    )
    found = long_dreams.measure_long(dreams, long_dreams.quality_over_time(patient.tokenizer, patient.dynamics, dreams))
    return [
        long_dreams.judge_freeze(found).showing(*exhibits.of_freeze(found)),
        long_dreams.judge_drift(found).showing(*exhibits.of_drift(found, dreams, patient.tokenizer, patient.dynamics)),
    ]


def _memory(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    check, memory = revisits.MEMORY, revisits.Memory(patient.sizes.context)
    if patient.dynamics is None:
        return [check.unknown(patient.lacks("dynamics"))]
    if memory.context < 2 * (memory.dreamed + memory.kept):
        return [check.unknown(f"A context of {memory.context} frames is too short to leave a place and come back to it.")]
    draw = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    refs = revisits.find_returns(patient.recordings.shards, memory, most=extent.windows, generator=draw)
    if len(refs.again) < revisits.FEWEST:
        return [revisits.judge_memory(None, len(refs.again))]
    again, new = (patient.recordings.latents(each) if each else None for each in (refs.again, refs.new))
    assert again is not None
    found = revisits.measure_memory(patient.dynamics, again, new, memory, steps=patient.sizes.steps, generator=generator)
    return [revisits.judge_memory(found, len(refs.again)).showing(*exhibits.of_memory(found, again, patient.tokenizer, memory))]


def _heads(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    agent, length = patient.agent, patient.sizes.clip
    if agent is None:
        return [check.unknown(patient.lacks("agent")) for check in HEADS]
    if length > patient.recordings.longest:
        return [_too_short(check, patient, length) for check in HEADS]
    relevant = _latents(patient, extent.clips, length, relevant=0.5)
    whole = patient.recordings.latents(patient.recordings.whole(2 * extent.clips, length))
    (about_events, _), (rewarded, ended) = (calibration.foretold(agent, clip, generator) for clip in (relevant, whole))
    around = calibration.calibrate(about_events, relevant.notes.rewards.flatten(), generator)
    natural = calibration.calibrate(rewarded, whole.notes.rewards.flatten(), generator)
    ends = calibration.calibrate(ended, 1 - whole.notes.continues.flatten(), generator)
    reward = exhibits.of_calibration(natural, " in whole episodes"), exhibits.of_calibration(around, " about events")
    return [
        calibration.judge_reward(natural, around).showing(*reward),
        calibration.judge_calibration(calibration.CONTINUE, ends, "ends").showing(exhibits.of_calibration(ends)),
    ]


def _policy(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    if patient.agent is None or patient.cloned is None:
        return [policy.POLICY.unknown(patient.lacks("agent" if patient.agent is None else "imagination"))]
    if patient.sizes.clip > patient.recordings.longest:
        return [_too_short(policy.POLICY, patient, patient.sizes.clip)]
    clip = _latents(patient, extent.clips, patient.sizes.clip, relevant=0.5)
    found = policy.measure_policy(patient.agent, patient.cloned, clip, generator)
    return [policy.judge_policy(found).showing(*exhibits.of_policy(found))]


def _play(patient: Patient, extent: Extent, _: torch.Generator) -> list[Finding]:
    sizes = patient.sizes
    if patient.agent is None or patient.worlds is None:
        return [check.unknown(patient.lacks("agent" if patient.agent is None else "worlds")) for check in PLAY]
    fork = exploitation.Fork(min(extent.warm_up, sizes.episode - sizes.horizon - 1), sizes.start, sizes.horizon)
    if fork.warm_up + 1 < fork.context:
        short = f"Episodes of {sizes.episode} steps are too short for {sizes.start} frames of context and {sizes.horizon} steps."
        return [check.unknown(short) for check in PLAY]
    seeds = range(patient.seed, patient.seed + extent.worlds)
    found = exploitation.measure_earned(patient.tokenizer, patient.agent, patient.worlds, fork, seeds=seeds, steps=sizes.dream_steps)
    attempts = earnings.judge_attempts(found, fork.horizon, patient.choices)
    exploited = exploitation.judge_exploitation(found, fork.horizon)
    if found is not None:
        attempts = attempts.showing(*exhibits.of_attempts(found, patient.choices))
        exploited = exploited.showing(*exhibits.of_exploitation(found))
    return [attempts, exploited if patient.cloned else exploitation.EXPLOIT.unknown(patient.lacks("imagination"))]


def _value(patient: Patient, extent: Extent, generator: torch.Generator) -> list[Finding]:
    check, sizes = returns.VALUE, patient.sizes
    if patient.agent is None or patient.cloned is None:
        return [check.unknown(patient.lacks("agent" if patient.agent is None else "imagination"))]
    if sizes.start > patient.recordings.longest:
        return [_too_short(check, patient, sizes.start)]
    recordings = patient.recordings
    refs = recordings.drawn(extent.dreams, sizes.start, relevant=sizes.relevant, lookahead=sizes.lookahead, due=sizes.ladder)
    seeds = torch.randint(2**62, (len(refs),), generator=generator).tolist()
    how = returns.Dreams(sizes.horizon, Sampling(steps=sizes.dream_steps), recordings.following if sizes.ladder else None)
    dreamed = returns.in_dreams(patient.agent, recordings.latents(refs), sizes.discount, how, seeds=seeds)
    recorded = None
    if 2 * sizes.horizon <= patient.recordings.longest:
        clip = _latents(patient, extent.clips // 2, 2 * sizes.horizon, relevant=0.5)
        recorded = returns.in_recordings(patient.agent, clip, sizes.discount, generator)
    return [returns.judge_value(dreamed, recorded).showing(*exhibits.of_value(dreamed))]


VISITS: tuple[Visit, ...] = (_tokenizer, _steering, _long, _memory, _heads, _policy, _play, _value)


def _latents(patient: Patient, rows: int, length: int, *, relevant: float = 0.0) -> LatentClip:
    return patient.recordings.latents(patient.recordings.drawn(rows, length, relevant=relevant))


def _too_short(check: Check, patient: Patient, length: int) -> Finding:
    return check.unknown(f"The longest held-out episode has {patient.recordings.longest} frames, and {length} are needed.")


def named(findings: list[Finding]) -> set[str]:
    """The names of what is sick."""
    return {finding.check.name for finding in findings if finding.status == "sick"}
