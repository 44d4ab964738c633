"""Closed-loop evaluation: actors play all worlds of a variant in batches, every variant in the same worlds.

(variant, worlds) --> Evaluator actors (tokenizer + agent + worlds) --> episode results, a file for each batch
"""

import json
from dataclasses import asdict
from pathlib import Path

import ray
import torch

from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.pool import spread
from dreamer_ray.distributed.telemetry import export_success, exporter
from dreamer_ray.domain import domain_of
from dreamer_ray.evaluation.episodes import EpisodeResult, RandomPlayer, play
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.run_folder import write_json
from dreamer_ray.stages import acting_agent, trained
from dreamer_ray.training.restore import restore_tokenizer

RANDOM = "random"


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
    section, tasks = recipe.evaluation, domain_of(recipe).tasks
    require(recipe, "evaluate", "CPU")
    jobs = []
    results: dict[str, list[EpisodeResult]] = {variant: [] for variant in variants(recipe)}
    for variant, worlds in variants(recipe).items():
        seeds = range(section.seed, section.seed + worlds)
        for i in range(0, worlds, section.worlds_per_call):
            job = (variant, list(seeds[i : i + section.worlds_per_call]))
            if (played := _file(run, *job)).exists():
                results[variant] += [EpisodeResult(**episode) for episode in json.loads(played.read_text())["episodes"]]
            else:
                jobs.append(job)
    progress.update(sum(map(len, results.values())), {})
    export = exporter(recipe.name, "evaluate")
    for variant, episodes in results.items():
        export_success(export, variant, episodes, tasks)
    gpus = recipe.cluster.gpus_per_replica
    actors: list[Actor] = [
        Evaluator.options(name=f"evaluator-{i}", num_gpus=gpus).remote(recipe.model_dump_json(), str(run))
        for i in range(recipe.cluster.replicas)
    ]
    for (variant, seeds), episodes in spread(
        actors, jobs, lambda actor, job: actor.play.remote(*job), job_seconds=recipe.cluster.job_seconds
    ):
        assert isinstance(episodes, list)
        write_json(_file(run, variant, seeds), {"episodes": [asdict(episode) for episode in episodes]})
        results[variant] += episodes
        export.add("episodes", len(episodes), variant=variant)
        export_success(export, variant, results[variant], tasks)
        progress.update(sum(map(len, results.values())), {})
    return {variant: sorted(episodes, key=lambda episode: episode.seed) for variant, episodes in results.items()}


def _file(run: Path, variant: str, seeds: list[int]) -> Path:
    return run / "evaluate" / "played" / f"{variant}-{seeds[0]}-{seeds[-1]}.json"


@ray.remote(num_cpus=1, max_restarts=-1)
class Evaluator:
    """Plays batches of worlds as any variant of the agent."""

    def __init__(self, recipe: str, run: str):
        torch.set_num_threads(1)
        self.recipe, self.run = Recipe.model_validate_json(recipe), Path(run)

    def play(self, variant: str, seeds: list[int]) -> list[EpisodeResult]:
        """One episode in each of the worlds ``seeds``."""
        domain = domain_of(self.recipe)
        assert domain.worlds is not None, "without a world there is no job"
        if variant == RANDOM:
            return play(RandomPlayer(domain.action_space, torch.Generator().manual_seed(seeds[0])), seeds, domain.worlds)
        device = self.recipe.cluster.replica_device
        tokenizer, agent = restore_tokenizer(trained(self.run, "tokenizer")).to(device), acting_agent(self.run, variant).to(device)
        return play(ActingSession(tokenizer, agent, seeds=seeds), seeds, domain.worlds)

    def __repr__(self) -> str:
        return "Evaluator"
