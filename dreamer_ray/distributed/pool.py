"""Independent jobs over a few actors: each job is sent once, sent again where its actor was lost, and handed back as it ends.

jobs --at most two an actor--> actors --results, in order of completion--> the caller
                               an actor that was lost gets none until it answers again
"""

import time
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
PAUSE = 0.5
"""Seconds between two tries to reach an actor that starts again."""


def spread(actors: Sequence[Actor], jobs: Sequence[J], send: Callable[[Actor, J], ObjectRef]) -> Iterator[tuple[J, object]]:
    """Yields ``(job, result)`` as they come. An exception of a job itself is raised; a job that loses its actor 3 times ends the run."""
    waiting, losses = list(reversed(jobs)), [0] * len(jobs)
    order = {id(job): i for i, job in enumerate(jobs)}
    flying: dict[ObjectRef, tuple[J, Actor]] = {}
    away: dict[ObjectRef, Actor] = {}
    try:
        while waiting or flying:
            for actor in actors:
                busy = sum(carrier is actor for _, carrier in flying.values())
                room = 0 if any(lost is actor for lost in away.values()) else IN_FLIGHT - busy
                for _ in range(min(room, len(waiting))):
                    job = waiting.pop()
                    flying[send(actor, job)] = (job, actor)
            for reference in ray.wait([*flying, *away], timeout=5.0)[0]:
                if reference in away:
                    _welcome(away, reference)
                    continue
                job, actor = flying.pop(reference)
                try:
                    yield job, ray.get(reference)
                except RayActorError as error:
                    losses[order[id(job)]] += 1
                    if losses[order[id(job)]] >= LOSSES_PER_JOB:
                        raise RunError(f"{job}: its worker died {LOSSES_PER_JOB} times ({error}); see the Ray dashboard") from error
                    waiting.append(job)
                    if not any(lost is actor for lost in away.values()):
                        away[actor.__ray_ready__.remote()] = actor
    finally:
        for actor in actors:
            ray.kill(actor)


def _welcome(away: dict[ObjectRef, Actor], reference: ObjectRef) -> None:
    """Takes an actor that answers out of those that are away; asks again after a moment where it does not."""
    actor = away.pop(reference)
    try:
        ray.get(reference)
    except RayActorError:
        time.sleep(PAUSE)
        away[actor.__ray_ready__.remote()] = actor
