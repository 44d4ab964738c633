"""Weights straight from the learner to each replica, over a process group of these two (Gloo or NCCL).

    Learner --newest weights, kept--> WeightSource          Learner --announce(session, version)--> WeightStore
    Replica --newer?--> WeightStore;  Replica --meet (once), offer, send--> WeightSource ==tensors==> Replica
    any failure: the store asks the learner for the weights, once a version, and the object store brings them; later the two meet again

Each pair is a group of its own: who is lost takes its own link along and nobody waits for others. (Ray Direct Transport has one group
for all, and where a transfer fails it kills sender and receiver for good, and a living process cannot join a second group.)
"""

# Groups apart from a process's default one, which the learners have among themselves, are options of private names:
# ruff: noqa: SLF001

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.group import host, listen
from dreamer_ray.distributed.weights import ObjectStoreTransport, Source, Weights, WeightTransport
from dreamer_ray.errors import RunError

log = logging.getLogger("dreamer_ray")

TRANSFER_SECONDS = timedelta(seconds=60)
"""How long one side of a link waits for the other, to meet it or to pass on a tensor."""
SECONDS_BETWEEN_MEETINGS = 30.0
"""How long a replica whose link failed leaves its learner alone."""
UNUSED_SECONDS = 1800.0
"""After so long the learner forgets a link: a replica that is gone does not come back to close it."""
WEIGHT_THREADS: dict[str, Any] = {"concurrency_groups": {"weights": 4, "snapshot": 1}}
"""Options of an actor that is a source of weights: so many transfers at once, beside what the actor does and what they fall back to."""

Layout = list[tuple[str, tuple[int, ...], torch.dtype]]


@dataclass
class Link:
    """A process group of the learner (rank 0) and one replica (rank 1)."""

    group: Any
    device: torch.device
    used: float = 0.0

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Passes them on, bit by bit as they are, whatever their types. Raises ``RuntimeError`` where the other is lost."""
        for tensor in tensors:
            if tensor.numel():
                self.group.send([tensor.to(self.device).contiguous().reshape(-1).view(torch.uint8)], 1, 0).wait()

    def receive(self, layout: Layout) -> Weights:
        """What the other sends. Raises ``RuntimeError`` where it is lost or does not send in time."""
        received = {}
        for name, shape, dtype in layout:
            data = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8, device=self.device)
            if len(data):
                self.group.recv([data], 0, 0).wait()
            received[name] = data.view(dtype).reshape(shape)
        return received


def connect(backend: str, store: Any, name: str, rank: int) -> Link:
    """Meets the other one of the two that ``name`` in ``store``. Raises ``RuntimeError`` where it does not come in time."""
    both, device = PrefixStore(name, store), torch.device("cuda" if backend == "nccl" else "cpu")
    if backend == "nccl":
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # a lost peer is then an error here, and not the end of the whole process
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = TRANSFER_SECONDS
        group = dist.ProcessGroupNCCL(both, rank, 2, options)
        group.eager_connect_single_device(torch.device("cuda", torch.cuda.current_device()))
    else:
        options = dist.ProcessGroupGloo._Options()  # pyright: ignore[reportAttributeAccessIssue]
        options._timeout, options._threads = TRANSFER_SECONDS, 1
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=ray.util.get_node_ip_address())]
        group = dist.ProcessGroupGloo(both, rank, 2, options)
    return Link(group, device)


class WeightSource:
    """An actor that keeps the newest weights and sends them to replicas while it is at work; it needs ``WEIGHT_THREADS``."""

    _kept: tuple[str, int, Weights]

    def listen(self, backend: str) -> Source:
        """Begins to take calls; returns where."""
        self._backend, self._links, self._lock = backend, dict[str, Link](), threading.Lock()
        address = (listening := listen()).getsockname()
        self._meetings = host(listening)
        return Source(ray.get_runtime_context().current_actor, address)

    def keep(self, session: str, version: int, weights: Weights) -> None:
        """These are the newest weights now; all versions have the same layout."""
        self._kept = session, version, weights

    @ray.method(concurrency_group="snapshot")
    def snapshot(self) -> tuple[str, int, Weights]:
        """The newest weights, through the object store, for whatever device."""
        session, version, weights = self._kept
        return session, version, {name: value.cpu() for name, value in weights.items()}

    @ray.method(concurrency_group="weights")
    def meet(self, name: str) -> None:
        """Makes the link ``name`` together with the replica that asks for it."""
        link, now = connect(self._backend, self._meetings, name, rank=0), time.monotonic()
        link.used = now
        with self._lock:
            self._links = {key: old for key, old in self._links.items() if now - old.used < UNUSED_SECONDS} | {name: link}

    @ray.method(concurrency_group="weights")
    def offer(self, name: str) -> Layout:
        """Layout of what ``send`` will pass on over the link. Raises ``RunError`` where this has no such link."""
        if (link := self._links.get(name)) is None:
            raise RunError(f"the learner has no link {name}")
        link.used = time.monotonic()
        return [(key, tuple(tensor.shape), tensor.dtype) for key, tensor in self._kept[2].items()]

    @ray.method(concurrency_group="weights")
    def send(self, name: str) -> tuple[str, int]:
        """Passes on what is the newest now over the link; session and version of it. Forgets the link where the other is lost."""
        session, version, weights = self._kept  # not before: who was offered them may have given up, and nobody would let go of them
        try:
            self._links[name].send(weights.values())
        except RuntimeError:
            with self._lock:
                self._links.pop(name, None)
            raise
        return session, version


def weight_transport(
    backend: str, store: Actor, *, device: str, source: WeightSource | None = None, link_lost: Callable[[], None] = lambda: None
) -> WeightTransport:
    """The transport that ``cluster.weight_transport`` names, for a process with this device: NCCL is for those that have a GPU."""
    if backend == "object_store" or (backend == "nccl" and device == "cpu"):
        return ObjectStoreTransport(store)
    return DirectTransport(store, backend, source=source, link_lost=link_lost)


class DirectTransport:
    """Weights from the learner's process to that of a replica; where that fails, through the object store, until both meet again.

    The learner gives ``source``, which is itself; ``link_lost`` is called where a link failed.
    """

    def __init__(self, store: Actor, backend: str, *, source: WeightSource | None = None, link_lost: Callable[[], None] = lambda: None):
        self.stored, self.backend, self.source, self.link_lost = ObjectStoreTransport(store), backend, source, link_lost
        self.place = None if source is None else source.listen(backend)
        self._partner: Actor = None
        self._link: tuple[str, Link] | None = None
        self._not_before = 0.0

    def publish(self, session: str, version: int, heads: Weights) -> None:
        """Keeps the heads for those who come for them. Raises ``RunError`` where the store does not start again."""
        assert self.source is not None
        assert self.place is not None
        self.source.keep(session, version, heads)
        self.stored.announce(session, version, self.place)

    def fetch(self, known: tuple[str, int]) -> tuple[str, int, Weights] | None:
        """Over the link to the learner, or through the object store."""
        session, version, place = self.stored.newest()
        if (session, version) == known:
            return None
        if place is not None:
            if place.actor != self._partner:
                self._partner, self._link, self._not_before = place.actor, None, 0.0
            if time.monotonic() >= self._not_before:
                try:
                    found = self._receive(place)
                    return None if found[:2] == known else found  # taken before it was announced
                except (RuntimeError, RayError) as error:
                    log.warning("weights come through the object store, since the link to the learner failed: %s", error)
                    self._link, self._not_before = None, time.monotonic() + SECONDS_BETWEEN_MEETINGS
                    self.link_lost()
        return self.stored.fetch(known)

    def frozen(self) -> Weights:
        """Through the object store: it is asked for once by each replica and shared by those of a node."""
        return self.stored.frozen()

    def _receive(self, place: Source) -> tuple[str, int, Weights]:
        seconds = TRANSFER_SECONDS.total_seconds()
        if self._link is None:
            name = uuid.uuid4().hex
            meeting = place.actor.meet.remote(name)
            store = TCPStore(*place.address, is_master=False, wait_for_workers=False, timeout=TRANSFER_SECONDS)
            link = connect(self.backend, store, name, rank=1)
            ray.get(meeting, timeout=seconds)
            self._link = name, link
        name, link = self._link
        layout = ray.get(place.actor.offer.remote(name), timeout=seconds)
        sending = place.actor.send.remote(name)
        weights = link.receive(layout)
        return *ray.get(sending, timeout=seconds), weights
