"""What is applied to a phase from outside: recomputation and compilation of its blocks, lower precision, data parallelism."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dreamer_ray.config import Config
from dreamer_ray.nn.transformer import Block


class Tuning(Config):
    """Switches for speed and memory of training; the formulas stay, results change by rounding."""

    compile: bool = False
    """Every block is compiled (``torch.compile``; on a CPU that needs a C++ compiler) when it first runs."""
    recompute: bool = False
    """Keeps only what enters each block and computes the rest again in the backward pass: less memory, about a third more operations."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products. Weights, the stream between blocks, norms, the flow head and losses stay fp32."""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Inside, matrix products have ``precision``."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


def tune(phase: nn.Module, tuning: Tuning) -> None:
    """Sets the switches of all blocks of ``phase``; before data parallelism, which goes around all that is inside."""
    for block in phase.modules():
        if isinstance(block, Block):
            block.recompute = tuning.recompute
            if tuning.compile:
                block.compile()


def data_parallel(phase: nn.Module, device: torch.device) -> nn.Module:
    """The phase itself on one rank; on more, wrapped so that its *call* averages gradients over all ranks.

    Buffers are kept equal by the phases themselves (their statistics are all-reduced), so none is broadcast.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return phase
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(phase, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def averaging(call: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Inside, a backward pass of what ``data_parallel`` gave averages gradients over all ranks, if ``wanted``, or keeps its own."""
    return nullcontext() if wanted or not isinstance(call, DistributedDataParallel) else call.no_sync()


def is_first_rank() -> bool:
    """Whether this process writes checkpoints and metrics."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
