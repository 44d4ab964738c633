"""Recording: actors play episodes and write shard files; a file that is there is never made again.

episode plan, a file's worth at a time --> Recorder actors (world + scripted player) --> Parquet files --> manifest, last
"""

from pathlib import Path
from typing import Any

import ray

from dreamer_ray.data.crafter import EpisodePlan, RecordConfig, episode_plan, record_episode, shard_schema
from dreamer_ray.data.shards import ShardFile, commit_manifest, existing_shard, write_shard
from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.pool import spread
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe

EPISODES_PER_FILE = 5


def record(recipe: Recipe, run: Path, progress: Progress) -> dict[str, Any]:
    """Records the train and held-out episodes of the recipe into ``run/record``."""
    config, folder = recipe.data.crafter, run / "record"
    require(recipe, "record", "CPU")
    files: dict[str, list[ShardFile]] = {"train": [], "heldout": []}
    jobs = []
    for split, done in files.items():
        episodes = [episode for episode in episode_plan(config) if episode.split == split]
        for start in range(0, len(episodes), EPISODES_PER_FILE):
            name = f"episodes-{start:06d}.parquet"
            wanted = episodes[start : start + EPISODES_PER_FILE]
            there = existing_shard(folder / split, name, shard_schema(config), [episode.name for episode in wanted])
            if there is None:
                jobs.append((split, name, wanted))
            else:
                done.append(there)
    progress.update(*_so_far(files))
    text = config.model_dump_json()
    recorders: list[Actor] = [Recorder.options(name=f"recorder-{i}").remote(text, str(folder)) for i in range(recipe.cluster.replicas)]
    for (split, _, _), file in spread(recorders, jobs, lambda actor, job: actor.write.remote(*job), job_seconds=recipe.cluster.job_seconds):
        assert isinstance(file, ShardFile)
        files[split].append(file)
        progress.update(*_so_far(files))
    for split, done in files.items():
        ordered = sorted(done, key=lambda file: file.name)
        commit_manifest(folder / split, shard_schema(config), ordered, made_by=config.model_dump(mode="json"), parents={})
    return _so_far(files)[1]


def _so_far(files: dict[str, list[ShardFile]]) -> tuple[int, dict[str, float]]:
    done = [file for split in files.values() for file in split]
    return sum(len(file.episodes) for file in done), {"frames": sum(file.frames for file in done)}


@ray.remote(num_cpus=1, max_restarts=-1)
class Recorder:
    """Plays episodes with the scripted player and writes them."""

    def __init__(self, config: str, folder: str):
        self.config, self.folder = RecordConfig.model_validate_json(config), Path(folder)

    def write(self, split: str, name: str, episodes: list[EpisodePlan]) -> ShardFile:
        """Records ``episodes`` into one file of ``split``."""
        played = [record_episode(self.config, episode) for episode in episodes]
        return write_shard(self.folder / split, name, played, shard_schema(self.config))

    def __repr__(self) -> str:
        return "Recorder"
