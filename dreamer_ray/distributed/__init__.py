"""The Ray layer: thin actors over the pure core. Only this package and ``serve`` import ray."""

from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError

Actor = Any
"""A handle of an actor; Ray's own handle types do not know the methods behind ``.remote``."""

LOST = (RayActorError, OutOfMemoryError)
"""What a call raises whose actor is gone: killed, with its node, or by Ray since memory ran out."""

ZERO_COPY_TENSORS = {"env_vars": {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}}
"""Runtime environment of actors that send tensors. Not of all: it makes a process import torch, which Ray's own helpers do without."""
