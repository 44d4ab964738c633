"""Independent jobs over a few actors: each job is sent once, sent again where its actor was lost, and handed back as it ends.

jobs --at most two a actor--> actors --results, in order of completion--> the caller
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError

from dreamer_ray.distributed import Actor
from dreamer_ray.errors import RunError

J = TypeVar("J")
IN_FLIGHT = 2
LOSSES_PER_JOB = 3


def spread(actors: Sequence[Actor], jobs: Sequence[J], send: Callable[[Actor, J], ObjectRef]) -> Iterator[tuple[J, object]]:
    """Yields ``(job, result)`` as they come. An exception of a job itself is raised; a job that loses its actor 3 times ends the run."""
    waiting, losses = list(reversed(jobs)), [0] * len(jobs)
    order = {id(job): i for i, job in enumerate(jobs)}
    flying: dict[ObjectRef, tuple[J, Actor]] = {}
    try:
        while waiting or flying:
            for actor in actors:
                busy = sum(carrier is actor for _, carrier in flying.values())
                for _ in range(min(IN_FLIGHT - busy, len(waiting))):
                    job = waiting.pop()
                    flying[send(actor, job)] = (job, actor)
            ready, _ = ray.wait(list(flying), timeout=5.0)
            for reference in ready:
                job, _ = flying.pop(reference)
                try:
                    yield job, ray.get(reference)
                except RayActorError as error:
                    losses[order[id(job)]] += 1
                    if losses[order[id(job)]] >= LOSSES_PER_JOB:
                        raise RunError(f"{job}: its worker died {LOSSES_PER_JOB} times ({error}); see the Ray dashboard") from error
                    waiting.append(job)
    finally:
        for actor in actors:
            ray.kill(actor)
