"""Recorded episodes and the folders of Parquet files that hold them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episode:
    """One recording on the host, frames and what is known of them, all of ``T`` frames."""

    name: str
    """Unique in its data set, such as ``train-000017``."""
    frames: np.ndarray
    """uint8 ``[T, y, x, 3]``, RGB."""
    actions: dict[str, np.ndarray]
    """``[T, ...]`` by component: ``a_t``, taken after ``o_t``; the last one is zeros, since it was never taken."""
    labelled: np.ndarray
    """bool ``[T]``: whether ``a_t`` is known; False at the last frame."""
    events: np.ndarray
    """uint8 ``[T, m]``: the tasks' events arriving with ``o_t``."""
    continues: np.ndarray
    """float32 ``[T]``: 0 only where ``o_t`` is terminal, such as death; 1 also on truncation."""
    info: dict[str, float | int | str]
    """Provenance: seed, skill and the like."""
