"""What is applied to a phase from outside: recomputation and compilation of its blocks, lower precision, data parallelism."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dreamer_ray.config import Config
from dreamer_ray.nn.transformer import Block
from dreamer_ray.numerics import world_size


class Tuning(Config):
    """Switches for speed and memory of training; the formulas stay, results change by rounding."""

    compile: bool = False
    """Every block is compiled (``torch.compile``; on a CPU that needs a C++ compiler) when it first runs."""
    recompute: bool = False
    """Keeps only what enters each block and computes the rest again in the backward pass: less memory, about a third more operations."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products. Weights, the stream between blocks, norms, the flow head and losses stay fp32."""
    sharded: bool = False
    """Each of several workers holds its share of weights, moments and averages (FSDP2) instead of all of them (DDP)."""

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


def data_parallel(phase: nn.Module, device: torch.device, *, sharded: bool = False) -> nn.Module:
    """The phase itself on one rank; on more, changed or wrapped so that its *call* averages gradients over all ranks.

    ``sharded``, parameters become ``DTensor``s of which each rank holds some rows; blocks gather theirs while they compute. Buffers are
    kept equal by the phases themselves (their statistics are all-reduced), so none is broadcast.
    """
    if world_size() == 1:
        return phase
    if sharded:
        mesh = init_device_mesh(device.type, (world_size(),))
        for module in [*phase.modules()][::-1]:
            if isinstance(module, Block) or module is phase:
                fully_shard(module, mesh=mesh)
        return phase
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(phase, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def averaging(call: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Inside, a backward pass of what ``data_parallel`` gave averages gradients over all ranks, if ``wanted``, or keeps its own."""
    if isinstance(call, FSDPModule):
        call.set_requires_gradient_sync(wanted)
    return nullcontext() if wanted or not isinstance(call, DistributedDataParallel) else call.no_sync()


def own(tensor: Tensor) -> Tensor:
    """What this rank holds of ``tensor``, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` of all ranks together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def take(tensor: Tensor, value: Tensor) -> None:
    """Copies to ``tensor`` what this rank holds of a whole ``value``."""
    if isinstance(tensor, DTensor):
        rows = -(-len(value) // world_size())
        value = value[dist.get_rank() * rows :][:rows]
    own(tensor).copy_(value)


def is_first_rank() -> bool:
    """Whether this process writes checkpoints and metrics."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
