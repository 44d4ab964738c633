"""Tiny sets whose pictures hold consecutive numbers, so that a test can tell which frames it was given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer_ray.data.rows import Episode, ShardSchema
from dreamer_ray.data.shards import ShardFile, ShardSet, commit_manifest, open_shards, write_shard
from dreamer_ray.types import ActionSpace, Binary, Categorical, Clip, Continuous

SPACE: ActionSpace = {"keys": Binary(size=3), "mouse": Categorical(size=5), "arm": Continuous(size=2)}
TASKS = ("chop", "dig", "swim")
SHAPE = (4, 6)
SCHEMA = ShardSchema(codec="png", frame_shape=SHAPE, action_space=SPACE, tasks=TASKS, fps=20.0)


def make_episode(
    name: str, length: int, *, first: int = 0, events: Sequence[tuple[int, int]] = (), died: bool = False, seed: int = 0
) -> Episode:
    """An episode whose frame t shows the number ``first + t``; ``events`` are (frame, task)."""
    rng = np.random.default_rng([seed, first])
    number = first + np.arange(length)
    frames = np.empty((length, *SHAPE, 3), np.uint8)
    frames[...] = np.stack([number & 255, number >> 8, 0 * number + 7], -1)[:, None, None]
    actions = {
        "keys": rng.integers(0, 2, (length, 3)),
        "mouse": rng.integers(1, 5, length),
        "arm": rng.normal(size=(length, 2)).astype(np.float32),
    }
    for values in actions.values():
        values[-1] = 0
    happened = np.zeros((length, len(TASKS)), np.uint8)
    for frame, task in events:
        happened[frame, task] += 1
    continues = np.ones(length, np.float32)
    continues[-1] = 0.0 if died else 1.0
    info: dict[str, float | int | str] = {"seed": first, "noise": 0.25, "skill": "novice"}
    return Episode(name, frames, actions, np.arange(length) < length - 1, happened, continues, info)


def write_files(
    folder: Path,
    lengths: Sequence[int],
    *,
    events: dict[int, list[tuple[int, int]]] | None = None,
    died: Sequence[int] = (),
    per_file: int = 2,
) -> list[ShardFile]:
    """Episodes of these lengths, numbered through; ``events`` by episode."""
    firsts = np.cumsum([0, *lengths])
    episodes = [
        make_episode(f"train-{i:06d}", length, first=int(firsts[i]), events=(events or {}).get(i, ()), died=i in died)
        for i, length in enumerate(lengths)
    ]
    parts = [episodes[start : start + per_file] for start in range(0, len(episodes), per_file)]
    return [write_shard(folder, f"part-{i:03d}.parquet", part, SCHEMA) for i, part in enumerate(parts)]


def make_set(folder: Path, lengths: Sequence[int], **options) -> ShardSet:
    commit_manifest(folder, SCHEMA, write_files(folder, lengths, **options), made_by={"stage": "test"}, parents={})
    return open_shards(folder)


def shown(clip: Clip) -> np.ndarray:
    """The numbers ``[b t]`` that the pictures of a batch show."""
    assert clip.frames.dtype == torch.uint8
    pixels = clip.frames.numpy().astype(int)
    assert (pixels == pixels[:, :, :1, :1]).all()
    return pixels[:, :, 0, 0, 0] + 256 * pixels[:, :, 0, 0, 1]


@dataclass(frozen=True)
class Sets:
    """What the tests build from."""

    schema: ShardSchema = SCHEMA
    space: ActionSpace = None  # pyright: ignore[reportAssignmentType]
    episode: Callable[..., Episode] = make_episode
    files: Callable[..., list[ShardFile]] = write_files
    make: Callable[..., ShardSet] = make_set
    shown: Callable[[Clip], np.ndarray] = shown


@pytest.fixture(scope="session")
def sets() -> Sets:
    return Sets(space=SPACE)
