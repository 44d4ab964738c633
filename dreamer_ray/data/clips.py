"""From a set of episodes to batches of clips."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamer_ray.data.rows import Rows
from dreamer_ray.data.shards import ShardSet
from dreamer_ray.types import Annotations, Clip, LatentClip


@dataclass(frozen=True)
class ClipRef:
    """Which frames a row of a batch takes, and under which prompt (0 where the set has no tasks)."""

    episode: int
    start: int
    length: int
    task: int
    relevant: bool
    label: bool
    """Whether the actions may be used."""
    enrichment: float = 0.0
    """See ``Annotations.enrichment``."""


def read_clip(source: ShardSet, refs: Sequence[ClipRef]) -> Clip | LatentClip:
    """The frames and annotations that ``refs``, all of one length, point to; latents where the set holds latents."""
    parts = [(source.rows(ref.episode), ref) for ref in refs]
    frames = torch.from_numpy(np.stack([source.frames(ref.episode, _span(ref)) for ref in refs]))
    notes = Annotations(
        actions={name: _stack(_actions(rows, ref, name) for rows, ref in parts) for name in source.schema.action_space},
        labelled=_stack(_labelled(rows, ref) for rows, ref in parts),
        rewards=_stack(_rewards(rows, ref) for rows, ref in parts),
        continues=_stack(rows.continues[_span(ref)] for rows, ref in parts),
        task=torch.tensor([ref.task for ref in refs]),
        relevant=torch.tensor([ref.relevant for ref in refs]),
        enrichment=torch.tensor([ref.enrichment for ref in refs]),
    )
    return LatentClip(frames.float(), notes) if source.schema.codec == "float16" else Clip(frames, notes)


def _span(ref: ClipRef) -> slice:
    return slice(ref.start, ref.start + ref.length)


def _labelled(rows: Rows, ref: ClipRef) -> np.ndarray:
    return rows.labelled[_span(ref)] & ref.label


def _rewards(rows: Rows, ref: ClipRef) -> np.ndarray:
    if not rows.events.shape[1]:
        return np.zeros(ref.length, np.float32)
    return (rows.events[_span(ref), ref.task] > 0).astype(np.float32)


def _actions(rows: Rows, ref: ClipRef, name: str) -> np.ndarray:
    values = rows.actions[name][_span(ref)].copy()
    values[~_labelled(rows, ref)] = 0
    return values


def _stack(arrays: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))
