"""Rounds of play during training: the same worlds again and again, so that two rounds differ by the agent alone."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.intervals import Interval, mean, success_rate
from dreamer_ray.training.metrics import append_record, read_records

PLAYED = "played.jsonl"
"""The file of rounds in the folder of a stage."""


@dataclass(frozen=True)
class Round:
    """What one version of the agent reached in the worlds of a round, with intervals of 95%."""

    version: int
    """Updates done when it played."""
    seconds: float
    success: dict[str, Interval]
    """Share of the worlds in which a task of the ladder was achieved."""
    ladder_events: Interval
    """Events of the ladder an episode, each as often as it came."""
    worlds: dict[int, int]
    """Of each world, by its seed, its events of the ladder."""

    def figures(self) -> dict[str, float]:
        """By name, for sinks of metrics."""
        return {"ladder_events": self.ladder_events.value} | {task: found.value for task, found in self.success.items()}

    def line(self) -> str:
        """One line for people: what never happened is left out."""
        shown = [f"{name} {value:.3g}" for name, value in self.figures().items() if value or name == "ladder_events"]
        return "  ".join([f"version {self.version} in {len(self.worlds)} worlds", *shown])


def summarized(version: int, episodes: Sequence[EpisodeResult], ladder: Mapping[str, int], *, seconds: float) -> Round:
    """A round out of its episodes, at least one; ``ladder`` says where in their counts each of its tasks stands."""
    achieved = {task: sum(episode.counts[place] > 0 for episode in episodes) for task, place in ladder.items()}
    events = {episode.seed: sum(episode.counts[place] for place in ladder.values()) for episode in episodes}
    success = {task: success_rate(count, len(episodes)) for task, count in achieved.items()}
    return Round(version, round(seconds, 3), success, mean([float(count) for count in events.values()]), events)


def append_round(folder: Path, played: Round) -> None:
    """Adds the round as one line to the file in a stage's ``folder``."""
    append_record(folder / PLAYED, asdict(played))


def read_rounds(folder: Path) -> list[Round]:
    """The rounds in a stage's ``folder`` by version, none without a file; where a version was played again the later round counts."""
    found = {}
    for record in read_records(folder / PLAYED):
        success = {task: Interval(**share) for task, share in record.pop("success").items()}
        worlds = {int(seed): events for seed, events in record.pop("worlds").items()}
        events = Interval(**record.pop("ladder_events"))
        found[record["version"]] = Round(success=success, ladder_events=events, worlds=worlds, **record)
    return [found[version] for version in sorted(found)]


class Claims:
    """Which versions are played and by whom: each at most once, and none that is not newer than all before. For several threads."""

    def __init__(self, played: int):
        self.played = played
        """The newest version whose round is done."""
        self._claims: dict[int, int] = {}
        self._lock = threading.Lock()

    def claim(self, player: int, version: int) -> bool:
        """Whether ``player`` is to play a round with ``version``; then no other will."""
        with self._lock:
            if version <= max([self.played, *self._claims.values()]):
                return False
            self._claims[player] = version
            return True

    def release(self, player: int, *, played: bool) -> None:
        """The round of ``player``, if it has one, is done, or lost: then its version may be claimed again."""
        with self._lock:
            version = self._claims.pop(player, self.played)
            if played:
                self.played = max(self.played, version)
