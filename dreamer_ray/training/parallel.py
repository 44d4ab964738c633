"""Data parallelism, applied to a phase from outside."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def data_parallel(phase: nn.Module, device: torch.device) -> nn.Module:
    """The phase itself on one rank; on more, wrapped so that its *call* averages gradients over all ranks.

    Buffers are kept equal by the phases themselves (their statistics are all-reduced), so none is broadcast.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return phase
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(phase, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def is_first_rank() -> bool:
    """Whether this process writes checkpoints and metrics."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
