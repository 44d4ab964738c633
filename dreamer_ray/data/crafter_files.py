"""The files of the data set that is played in Crafter: which there are to be, writing one, and making a set of them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamer_ray.data.crafter import EpisodePlan, RecordConfig, episode_plan, record_episode, shard_schema
from dreamer_ray.data.existing_shards import existing_shard
from dreamer_ray.data.shards import ShardFile, commit_manifest, write_shard

EPISODES_PER_FILE = 5

Files = dict[str, list[ShardFile]]
"""What is written, by split."""


@dataclass(frozen=True)
class RecordJob:
    """One file that is to be recorded."""

    split: str
    name: str
    episodes: tuple[EpisodePlan, ...]


def record_jobs(config: RecordConfig, folder: Path) -> tuple[Files, list[RecordJob]]:
    """What an interrupted stage has left in ``folder``, and what is still to be recorded."""
    files: Files = {"train": [], "heldout": []}
    jobs = []
    for split, done in files.items():
        episodes = [episode for episode in episode_plan(config) if episode.split == split]
        for start in range(0, len(episodes), EPISODES_PER_FILE):
            job = RecordJob(split, f"episodes-{start:06d}.parquet", tuple(episodes[start : start + EPISODES_PER_FILE]))
            there = existing_shard(folder / split, job.name, shard_schema(config), [episode.name for episode in job.episodes])
            if there is None:
                jobs.append(job)
            else:
                done.append(there)
    return files, jobs


def write_episodes(config: RecordConfig, folder: Path, job: RecordJob) -> ShardFile:
    """Plays the episodes of ``job`` into its file."""
    played = [record_episode(config, episode) for episode in job.episodes]
    return write_shard(folder / job.split, job.name, played, shard_schema(config))


def commit_recording(config: RecordConfig, folder: Path, files: Files) -> None:
    """Makes a set of each split."""
    for split, done in files.items():
        ordered = sorted(done, key=lambda file: file.name)
        commit_manifest(folder / split, shard_schema(config), ordered, made_by=config.model_dump(mode="json"), parents={})


def recorded_so_far(files: Mapping[str, Sequence[ShardFile]]) -> tuple[int, dict[str, float]]:
    """Episodes, and figures for the log."""
    done = [file for split in files.values() for file in split]
    return sum(len(file.episodes) for file in done), {"frames": sum(file.frames for file in done)}
