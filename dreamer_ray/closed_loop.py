"""Play in real worlds, without Ray: who plays, a batch of worlds at a time, and the file of each batch, which is never played again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dreamer_ray.domain import domain_of
from dreamer_ray.evaluation.episodes import EpisodeResult, RandomPlayer, play
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.recipe import Recipe
from dreamer_ray.run_folder import write_json
from dreamer_ray.stages import acting_agent, trained
from dreamer_ray.training.restore import restore_tokenizer

RANDOM = "random"


@dataclass(frozen=True)
class Match:
    """One batch of worlds for one variant: ``random``, or the stage that made the agent."""

    variant: str
    seeds: tuple[int, ...]

    def file(self, folder: Path) -> Path:
        """Where its results lie in the ``folder`` of a stage."""
        return folder / "played" / f"{self.variant}-{self.seeds[0]}-{self.seeds[-1]}.json"


def matches(worlds: Mapping[str, Sequence[int]], batch: int) -> list[Match]:
    """The worlds of each variant in batches."""
    return [Match(variant, tuple(seeds[i : i + batch])) for variant, seeds in worlds.items() for i in range(0, len(seeds), batch)]


def unplayed(all_matches: Iterable[Match], folder: Path) -> tuple[dict[str, list[EpisodeResult]], list[Match]]:
    """Results by variant that are in ``folder`` already, and the matches that are still to be played."""
    results: dict[str, list[EpisodeResult]] = {}
    missing = []
    for match in all_matches:
        found = results.setdefault(match.variant, [])
        if (file := match.file(folder)).exists():
            found += [EpisodeResult(**episode) for episode in json.loads(file.read_text())["episodes"]]
        else:
            missing.append(match)
    return results, missing


def save_match(match: Match, episodes: Sequence[EpisodeResult], folder: Path) -> None:
    """Writes the results of ``match``, whole or not at all."""
    write_json(match.file(folder), {"episodes": [asdict(episode) for episode in episodes]})


def play_match(recipe: Recipe, run: Path, match: Match) -> list[EpisodeResult]:
    """One episode in each world of ``match``, actions sampled, with the checkpoints of the run in folder ``run``."""
    domain, seeds = domain_of(recipe), match.seeds
    assert domain.worlds is not None, "without a world there is no match"
    if match.variant == RANDOM:
        return play(RandomPlayer(domain.action_space, torch.Generator().manual_seed(seeds[0])), seeds, domain.worlds)
    device = recipe.cluster.replica_device
    tokenizer, agent = restore_tokenizer(trained(run, "tokenizer")).to(device), acting_agent(run, match.variant).to(device)
    return play(ActingSession(tokenizer, agent, seeds=seeds), seeds, domain.worlds)
