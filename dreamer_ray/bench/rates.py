"""What a measurement gives: rates of a machine, the machine itself, and how parts of a whole are timed."""

import platform
from collections.abc import Callable
from statistics import median
from typing import Literal

import torch
from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.estimate import matrix_product_speed, seconds_of

ROUNDS = 3
"""In which the parts of a whole are timed by turns."""
COPIED_BYTES = 2**27
Precision = Literal["fp32", "bf16"]


class Machine(Config):
    """Where it was measured, and what big matrix products and copies reach there."""

    name: str
    device: str
    threads: int
    torch: str
    precision: Precision = "fp32"
    """Of the product."""
    operations_per_second: float
    bytes_per_second: float
    """Read and written together."""


class Rate(Config):
    """One line of a table."""

    name: str
    per_second: float
    unit: str
    operations_per_second: float | None = None
    """Floating point operations of matrix products and attention."""
    bytes_per_second: float | None = None
    """The least that must move: weights and caches once a pass."""
    shares: dict[str, float] = Field(default_factory=dict)
    """Of the time, by part."""


def this_machine(seconds: float, device: str, precision: Precision) -> Machine:
    """The speed of a product of big matrices in ``precision`` and of a copy of more than a processor's cache."""
    width, dtype = 4096 if device.startswith("cuda") else 1024, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copying = seconds_of(lambda: target.copy_(source), seconds)
    return Machine(
        name=torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine(),
        device=device,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        precision=precision,
        operations_per_second=matrix_product_speed(width, seconds, device, dtype),
        bytes_per_second=2 * COPIED_BYTES / copying,
    )


def seconds_of_each(jobs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each job; rounds of all jobs follow each other, so that a change of the machine's speed meets all of them."""
    rounds = [{name: seconds_of(job, seconds / ROUNDS) for name, job in jobs.items()} for _ in range(ROUNDS)]
    return {name: median(found[name] for found in rounds) for name in jobs}
