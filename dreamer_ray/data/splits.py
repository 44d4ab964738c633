"""Which recordings are held out, where a single one is divided, and whose labels are kept."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from dreamer_ray.data.shards import ShardFile
from dreamer_ray.data.sources import Split
from dreamer_ray.errors import UserError

Part = Literal["whole", "begin", "end"]
"""Of a recording: all of it, or one of the two sides of a recording that is divided in time."""


def sides(groups: Sequence[str], *, heldout: float, seed: int) -> dict[str, Split]:
    """The side of each group: a function of its name and ``seed``, so that a group that comes later moves no other.

    The share of those held out is ``heldout`` on the average; of two groups or more there is one on each side at least.
    """
    places = {group: _place(group, seed) for group in groups}
    order = sorted(places, key=lambda group: (places[group], group))
    count = sum(place < heldout for place in places.values())
    if len(order) > 1:
        count = min(max(count, 1), len(order) - 1)
    return {group: "heldout" if i < count else "train" for i, group in enumerate(order)}


def _place(group: str, seed: int) -> float:
    """Somewhere in 0 .. 1."""
    return int.from_bytes(blake2b(f"{seed} {group}".encode(), digest_size=8).digest()) / 2**64


def in_time(frames: int, part: Part, *, heldout: float, gap: int, name: str) -> slice:
    """Which of a recording's ``frames`` belong to ``part``: the last share ``heldout`` is the end, ``gap`` frames before it are nobody's.

    Raises ``UserError`` naming the recording where a side would have fewer than two frames.
    """
    if part == "whole":
        return slice(0, frames)
    boundary = frames - round(heldout * frames)
    if min(boundary - gap, frames - boundary) < 2:
        raise UserError(
            f"recording {name}: the only one of its source, so its end is held out; but of its {frames} frames "
            f"heldout = {heldout:g} and heldout_gap = {gap} leave {max(0, boundary - gap)} to train on and {frames - boundary} held out; "
            "change these, or add a recording"
        )
    return slice(0, boundary - gap) if part == "begin" else slice(boundary, frames)


def keep_labels(files: Sequence[ShardFile], *, fraction: float, hours: float | None, fps: float) -> list[ShardFile]:
    """The files of one source, in the order of the data set, with the labels of their first episodes only.

    Those are as many as fit into the share ``fraction`` of all frames and into ``hours``.
    """
    budget = min(fraction * sum(file.frames for file in files), float("inf") if hours is None else hours * 3600 * fps)
    kept, used = [], 0
    for file in files:
        episodes = []
        for episode in file.episodes:
            used += episode.length
            episodes.append(episode.model_copy(update={"labelled": used <= budget + 1e-6}))
        kept.append(file.model_copy(update={"episodes": tuple(episodes)}))
    return kept
