"""The Ray layer: thin actors over the pure core. Only this package and ``serve`` import ray."""

from typing import Any

Actor = Any
"""A handle of an actor; Ray's own handle types do not know the methods behind ``.remote``."""
