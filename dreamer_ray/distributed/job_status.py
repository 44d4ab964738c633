"""What a job is doing, read from its log and the states of its actors: stages, newest progress, replicas. Pure: no Ray in here."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LIVE = {"ALIVE": "alive", "PENDING_CREATION": "pending", "DEPENDENCIES_UNREADY": "pending", "RESTARTING": "restarting"}
"""States of Ray's actors that have not ended for good."""
STAMP = r"^(?:\d\d:\d\d:\d\d|[\d-]+ [\d:,]+  [A-Z]+)  "
STAGE_LINE = re.compile(STAMP + r"(?P<stage>\w+) +(?P<word>run|resume|skip|done)(?: \(.*\)| in (?P<took>[\d:]+))$", re.MULTILINE)
PROGRESS_LINE = re.compile(
    STAMP + r"(?P<stage>\w+) +(?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+)(?:  (?P<rate>\S+) \w+/s)?(?:  ETA (?P<eta>[\d:]+))?"
    r"(?P<figures>(?:  \S+ \S+)*)$",
    re.MULTILINE,
)
ROUND_LINE = re.compile(STAMP + r"\w+ +version (?P<version>\d+) in (?P<worlds>\d+) worlds(?P<figures>(?:  \S+ \S+)*)$", re.MULTILINE)
LOSS_LINE = re.compile(STAMP + r"\w+: (?P<part>learner|evaluator|replica|worker|trainer) \d+ is lost \(.*\); .*started again", re.MULTILINE)
GROUP_OF = {
    "learner": "learner",
    "evaluator": "round-evaluator",
    "replica": "replica",
    "worker": "RayTrainWorker",
    "trainer": "TrainController",
}
"""Names of the actors that are replaced by new ones where Ray would start the same ones again."""
ERROR_LINE = re.compile(STAMP + r"error: (?P<message>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ActorState:
    """One actor as Ray's state API shows it."""

    name: str
    """Its own, or that of its class where it has none."""
    state: str
    """Ray's word, such as ALIVE."""
    restarts: int


@dataclass(frozen=True)
class ActorGroup:
    """Actors that differ only in the number at the end of their name; of those that have ended for good only the restarts count."""

    name: str
    alive: int = 0
    pending: int = 0
    restarting: int = 0
    restarts: int = 0
    """Of all of them together: by Ray, and of those that are replaced by new ones as the log tells."""


@dataclass(frozen=True)
class StageState:
    """How far a stage of the run is."""

    name: str
    state: Literal["waiting", "running", "done"]
    seconds: int | None = None
    """Time worked on it; None unless it was done by this job."""


@dataclass(frozen=True)
class ProgressState:
    """The newest progress line."""

    stage: str
    done: int
    total: int
    unit: str
    per_second: float | None
    eta_seconds: int | None
    figures: dict[str, float]


@dataclass(frozen=True)
class RoundState:
    """The newest round of play during training."""

    version: int
    """Updates done when it was played."""
    worlds: int
    figures: dict[str, float]
    """Events of the ladder an episode, and the share of the worlds in which a task was achieved, if any."""


@dataclass(frozen=True)
class JobState:
    """One job of dreamer_ray."""

    name: str
    status: str
    """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    began: float
    """Seconds since the epoch."""
    seconds: float
    """From its submission to its end, or to now."""
    exit_code: int | None
    """None while it has not ended."""
    recipe: str
    run: str
    message: str
    """What Ray says of the state."""


@dataclass(frozen=True)
class JobReport:
    """A job and what it is doing."""

    job: JobState
    stages: list[StageState]
    progress: ProgressState | None
    actors: list[ActorGroup]
    error: str | None
    """The newest error message of its log."""
    round: RoundState | None = None


def groups(actors: Iterable[ActorState]) -> list[ActorGroup]:
    """Actors counted by group, in the order of their names."""
    found: dict[str, dict[str, int]] = {}
    for actor in actors:
        if (state := LIVE.get(actor.state)) or actor.restarts:
            counts = found.setdefault(re.sub(r"(-\d+)+$", "", actor.name), {})
            counts["restarts"] = counts.get("restarts", 0) + actor.restarts
            if state:
                counts[state] = counts.get(state, 0) + 1
    return [ActorGroup(name, **counts) for name, counts in sorted(found.items())]


def with_replaced(actors: Iterable[ActorGroup], log: str) -> list[ActorGroup]:
    """The same with the restarts of actors that are replaced by new ones, which Ray does not count but the log tells of."""
    lost = Counter(GROUP_OF[part] for part in LOSS_LINE.findall(log))
    found = dict.fromkeys(lost, ActorGroup("")) | {group.name: group for group in actors}
    return [replace(group, name=name, restarts=group.restarts + lost[name]) for name, group in sorted(found.items())]


def stages(log: str, names: Sequence[str] = ()) -> list[StageState]:
    """The stages that a log tells of; ``names`` are those of the recipe, in order, where they are known."""
    found = {name: StageState(name, "waiting") for name in names}
    for line in STAGE_LINE.finditer(log):
        name, took = line["stage"], line["took"]
        state = "running" if line["word"] in ("run", "resume") else "done"
        found[name] = StageState(name, state, _seconds(took) if took else None)
    return list(found.values())


def progress(log: str) -> ProgressState | None:
    """The newest progress line of a log."""
    if not (lines := list(PROGRESS_LINE.finditer(log))):
        return None
    newest = lines[-1]
    return ProgressState(
        stage=newest["stage"],
        done=int(newest["done"]),
        total=int(newest["total"]),
        unit=newest["unit"],
        per_second=float(newest["rate"]) if newest["rate"] else None,
        eta_seconds=_seconds(newest["eta"]) if newest["eta"] else None,
        figures=_figures(newest["figures"]),
    )


def newest_round(log: str) -> RoundState | None:
    """The newest round of play that a log tells of."""
    if not (lines := list(ROUND_LINE.finditer(log))):
        return None
    newest = lines[-1]
    return RoundState(int(newest["version"]), int(newest["worlds"]), _figures(newest["figures"]))


def last_error(log: str) -> str | None:
    """The newest error message of a log."""
    found = ERROR_LINE.findall(log)
    return found[-1] if found else None


def _figures(text: str) -> dict[str, float]:
    words = text.split()
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def _seconds(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return (hours * 60 + minutes) * 60 + seconds
