"""Process groups whose ports listen on the address of their node alone, the loopback interface where Ray is bound to it."""

import socket
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

Address = tuple[str, int]


def listen() -> socket.socket:
    """A socket on which others can meet this process; ``getsockname`` says where."""
    listening = socket.socket()
    listening.bind((ray.util.get_node_ip_address(), 0))
    listening.listen()
    return listening


def host(listening: socket.socket, **options: Any) -> TCPStore:
    """A store that others reach where ``listening`` listens, and which has that socket from now on."""
    address, port = listening.getsockname()
    return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), **options)


def join_group(address: Address, listening: socket.socket | None, *, rank: int, ranks: int, device: torch.device, wait: timedelta) -> None:
    """Makes the default process group together with all ranks, by NCCL between GPUs and Gloo between CPUs; rank 0 brings its socket.

    A rank that is silent for ``wait`` is an error for the others.
    """
    if listening is not None:
        store = host(listening, timeout=wait)
    else:
        store = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=wait)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=wait)
