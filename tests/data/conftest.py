"""Tiny sets whose pictures hold consecutive numbers, so that a test can tell which frames it was given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
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


def numbered(number: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture with eight upright bars, white where the bit of ``number`` is set."""
    bars = np.repeat((number >> np.arange(8)) & 1, shape[1] // 8) * 235 + 10
    return np.broadcast_to(bars[None, :, None], (*shape, 3)).astype(np.uint8)


def number_of(picture: np.ndarray) -> int:
    """The number that ``numbered`` drew, after any compression."""
    bars = picture.astype(float).mean((0, 2)).reshape(8, -1).mean(1)
    assert (np.abs(bars - 127) > 40).all(), "bars are black or white"
    return int(((bars > 127) << np.arange(8)).sum())


def write_video(
    path: Path, count: int, *, codec: str = "libx264", rate: int = 20, shape=(48, 64), front: bool = False, turns: int = 0, **options: str
) -> Path:
    """Pictures 0, 1, ... as a video; x264 with two frames coded from later ones, and a keyframe every 12.

    ``front`` puts the index before the data, so that a file that is cut short can still be read. With ``turns`` pictures are stored lying,
    as phones do, with a note by how many quarters of a turn, counterclockwise, they are to be turned.
    """
    with av.open(str(path), "w", options={"movflags": "faststart"} if front else {}) as container:
        own = {"g": "12", "bf": "2", "x264-params": "scenecut=0"} | options if codec == "libx264" else options
        stream = container.add_stream(codec, rate=rate, options=own)
        stream.height, stream.width, stream.pix_fmt = *(shape[::-1] if turns % 2 else shape), "yuv420p"
        if turns:
            stream.set_display_rotation(90 * turns)
        for number in range(count):
            stored = np.ascontiguousarray(np.rot90(numbered(number, shape), -turns))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True)
class Videos:
    """What the tests of videos build from."""

    write: Callable[..., Path] = write_video
    picture: Callable[..., np.ndarray] = numbered
    number: Callable[[np.ndarray], int] = number_of


@pytest.fixture(scope="session")
def videos() -> Videos:
    return Videos()
