"""Closed-loop evaluation: actors play all worlds of a variant in batches, every variant in the same worlds.

(variant, worlds) --> Evaluator actors (tokenizer + agent + worlds) --> episode results, a file for each batch
"""

from contextlib import closing
from pathlib import Path

import ray
import torch

from dreamer_ray.closed_loop import RANDOM, Match, matches, play_match, save_match, unplayed
from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.pool import spread
from dreamer_ray.distributed.telemetry import export_success, exporter
from dreamer_ray.domain import domain_of
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe


def variants(recipe: Recipe) -> dict[str, int]:
    """Who plays, and in how many worlds: nobody without an agent, or without worlds."""
    section = recipe.evaluation
    if recipe.agent is None or domain_of(recipe).worlds is None:
        return {}
    scratch = {"agent_scratch": section.baseline_worlds} if recipe.agent.scratch else {}
    improved = {"imagination": section.worlds} if recipe.imagination else {}
    return {RANDOM: section.baseline_worlds} | scratch | {"agent": section.worlds} | improved


def play_all(recipe: Recipe, run: Path, progress: Progress) -> dict[str, list[EpisodeResult]]:
    """Episode results by variant, in the order of the worlds' seeds; a batch that was played before a kill is not played again."""
    section, tasks, folder = recipe.evaluation, domain_of(recipe).tasks, run / "evaluate"
    require(recipe, "evaluate", "CPU")
    worlds = {variant: range(section.seed, section.seed + count) for variant, count in variants(recipe).items()}
    results, jobs = unplayed(matches(worlds, section.worlds_per_call), folder)
    progress.update(sum(map(len, results.values())), {})
    export = exporter(recipe.name, "evaluate")
    for variant, episodes in results.items():
        export_success(export, variant, episodes, tasks)
    gpus = recipe.cluster.gpus_per_replica
    actors: list[Actor] = [
        Evaluator.options(name=f"evaluator-{i}", num_gpus=gpus).remote(recipe.model_dump_json(), str(run))
        for i in range(recipe.cluster.replicas)
    ]
    played = spread(actors, jobs, lambda actor, job: actor.play.remote(job), job_seconds=recipe.cluster.job_seconds)
    with closing(played):
        for match, episodes in played:
            assert isinstance(episodes, list)
            save_match(match, episodes, folder)
            results[match.variant] += episodes
            export.add("episodes", len(episodes), variant=match.variant)
            export_success(export, match.variant, results[match.variant], tasks)
            progress.update(sum(map(len, results.values())), {})
    return {variant: sorted(episodes, key=lambda episode: episode.seed) for variant, episodes in results.items()}


@ray.remote(num_cpus=1, max_restarts=-1)
class Evaluator:
    """Plays batches of worlds as any variant of the agent."""

    def __init__(self, recipe: str, run: str):
        torch.set_num_threads(1)
        self.recipe, self.run = Recipe.model_validate_json(recipe), Path(run)

    def play(self, match: Match) -> list[EpisodeResult]:
        """One episode in each of the worlds of ``match``."""
        return play_match(self.recipe, self.run, match)

    def __repr__(self) -> str:
        return "Evaluator"
