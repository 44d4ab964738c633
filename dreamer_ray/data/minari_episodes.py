"""One episode of a Minari data set. Of HDF5, minari's usual format, no more pictures are held than a part of the file has in one piece; of
others minari reads the episode whole, with all that was observed."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_ray.data.sources import BadRecordingError

DAMAGE = (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError, RuntimeError, MemoryError)
"""What minari and h5py raise where a file is not what its metadata says."""
MAIN_FILE = "main_data.hdf5"
MOST_BYTES = 2**26
"""Of pictures that are read at once."""
LEAST_JPEG = 32
"""Minari keeps pictures of as many rows and columns or more as JPEG, where it is told to."""


@dataclass(frozen=True)
class MinariEpisode:
    """What is read of an episode."""

    rewards: np.ndarray
    terminations: np.ndarray
    actions: dict[str, np.ndarray]
    """By path."""
    count: int
    """Of the pictures."""
    pictures: Iterator[np.ndarray]
    """One by one; reading them may raise ``BadRecordingError``."""


def read_episode(data: Any, folder: Path, number: int, picture: str, actions: Sequence[str]) -> MinariEpisode:
    """Episode ``number`` of the Minari data set ``data`` in ``folder``: of the observations and actions what lies at these paths.

    Raises ``BadRecordingError``.
    """
    name = f"episode-{number:06d}"
    try:
        if data.storage.FORMAT == "hdf5":
            return _of_hdf5(data, folder / MAIN_FILE, number, picture, actions)
        (episode,) = data.iterate_episodes([number])
        shown = _part(episode.observations, picture)
        taken = {path: np.asarray(_part(episode.actions, path)) for path in actions}
        return MinariEpisode(_numbers(episode.rewards), _numbers(episode.terminations), taken, len(shown), iter(shown))
    except DAMAGE as error:
        raise BadRecordingError(f"{folder}: {name} cannot be read ({type(error).__name__}: {error})") from error


def _of_hdf5(data: Any, file: Path, number: int, picture: str, actions: Sequence[str]) -> MinariEpisode:
    import h5py

    with h5py.File(file) as content:
        episode: Any = content[f"episode_{number}"]
        taken = {path: np.asarray(_leaf(episode["actions"], data.action_space, path)[0][()]) for path in actions}
        shown, space = _leaf(episode["observations"], data.observation_space, picture)
        rewards, terminations = (_numbers(episode[key][()]) for key in ("rewards", "terminations"))
        pictures = _pictures(file, shown.name, jpeg=data.storage._jpeg_encoding and _as_jpeg(space))  # noqa: SLF001 - minari tells it nowhere else
        return MinariEpisode(rewards, terminations, taken, len(shown), pictures)


def _pictures(file: Path, place: str, *, jpeg: bool) -> Iterator[np.ndarray]:
    """Those of the data set ``place``, as many at once as lie together."""
    import h5py
    from PIL import Image

    number = 0
    try:
        with h5py.File(file) as content:
            rows: Any = content[place]
            size = max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:])))
            step = max(1, min(rows.chunks[0] if rows.chunks else 1, MOST_BYTES // size))
            for first in range(0, len(rows), step):
                for row in rows[first : first + step]:
                    yield np.array(Image.open(io.BytesIO(row)), np.uint8) if jpeg else row
                    number += 1
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise BadRecordingError(f"{file}: picture {number} of {place} cannot be read ({type(error).__name__}: {error})") from error


def _leaf(group: Any, space: spaces.Space, path: str) -> tuple[Any, spaces.Space]:
    """What lies at ``path`` of a group that is laid out as minari lays out ``space``, and its own space."""
    for key in path.split(".") if path else ():
        if isinstance(space, spaces.Tuple):
            group, space = group[f"_index_{key}"], space.spaces[int(key)]
        else:
            assert isinstance(space, spaces.Dict)
            group, space = group[key], space.spaces[key]
    return group, space


def _as_jpeg(space: spaces.Space) -> bool:
    """Whether minari keeps values of ``space`` as JPEG; see ``is_image_space`` there."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) >= LEAST_JPEG and bool((space.low == 0).all() and (space.high == 255).all())


def _part(values: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        values = values[key] if isinstance(values, dict) else values[int(key)]
    return values


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)
