"""Independent jobs over a few actors: each job is sent once, sent again where its actor was lost, and handed back as it ends.

jobs --at most two an actor--> actors --results, in order of completion--> the caller
                               an actor that was lost gets none until it answers again, a silent one is ended and starts again
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray import ObjectRef

from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.errors import RunError

J = TypeVar("J")
IN_FLIGHT = 2
LOSSES_PER_JOB = 3
PATIENCE = 5.0
"""Seconds between two looks for silent actors."""
PAUSE = 0.5
"""Seconds between two tries to reach an actor that starts again."""


def spread(
    actors: Sequence[Actor],
    jobs: Sequence[J],
    send: Callable[[Actor, J], ObjectRef],
    *,
    job_seconds: float,
    given_up: Callable[[str], object] | None = None,
) -> Iterator[tuple[J, object]]:
    """Yields ``(job, result)`` as they come. An exception of a job itself is raised.

    An actor that has started and then answers nothing for ``job_seconds`` is taken for hung. A job that loses its actor 3 times ends the
    run, or has ``given_up`` of the reason for its result.
    """
    waiting, losses, late, crew = list(reversed(jobs)), [0] * len(jobs), [0] * len(jobs), _Crew(actors, job_seconds)
    order = {id(job): i for i, job in enumerate(jobs)}
    try:
        while waiting or crew.flying:
            for actor in crew.free()[: len(waiting)]:
                job = waiting.pop()
                crew.flying[send(actor, job)] = (job, actor)
            for reference, job, actor in crew.answers():
                try:
                    result = ray.get(reference)
                except LOST as error:
                    number = order[id(job)]
                    losses[number] += crew.lost(actor)
                    late[number] += reference in crew.ended
                    if losses[number] < LOSSES_PER_JOB:
                        waiting.append(job)
                        continue
                    reason = _reason(error, late[number], job_seconds)
                    if given_up is None:
                        raise RunError(f"{job}: {reason}") from error
                    result = given_up(reason)
                yield job, result
    finally:
        for actor in actors:
            ray.kill(actor)


def _reason(error: Exception, late: int, job_seconds: float) -> str:
    if not late:
        return f"its worker died {LOSSES_PER_JOB} times ({error}); see the Ray dashboard"
    times = f"{LOSSES_PER_JOB} times" if late == LOSSES_PER_JOB else f"{late} of the {LOSSES_PER_JOB} times that its worker died"
    return f"it was not done after cluster.job_seconds = {job_seconds:g} and ended, {times}; raise cluster.job_seconds if it takes so long"


class _Crew:
    """Who is there, who has which job and who has not been heard of for too long."""

    def __init__(self, actors: Sequence[Actor], job_seconds: float):
        self.actors, self.job_seconds = actors, job_seconds
        self.flying: dict[ObjectRef, tuple[Any, Actor]] = {}
        self.away: dict[ObjectRef, Actor] = {}
        self.heard: dict[Actor, float] = {}
        self.ended: set[ObjectRef] = set()
        """Of jobs under way when their actor was ended for its silence."""
        for actor in actors:
            self.lost(actor)

    def free(self) -> list[Actor]:
        """Those that can take a job, each as often as it can take one."""
        room = []
        for actor in (actor for actor in self.actors if actor not in self.away.values()):
            busy = sum(carrier == actor for _, carrier in self.flying.values())
            if not busy:
                self.heard[actor] = time.monotonic()
            room += [actor] * (IN_FLIGHT - busy)
        return room

    def answers(self) -> Iterator[tuple[ObjectRef, Any, Actor]]:
        """Waits a moment; gives the answers that came, with their jobs and actors, and ends silent actors."""
        for reference in ray.wait([*self.flying, *self.away], timeout=PATIENCE)[0]:
            if reference in self.away:
                self._welcome(reference)
                continue
            _, actor = self.flying[reference]
            self.heard[actor] = time.monotonic()
            for earlier in [each for each, (_, carrier) in self.flying.items() if carrier == actor]:
                yield earlier, *self.flying.pop(earlier)
                if earlier == reference:
                    break
        for actor in {actor for _, actor in self.flying.values() if time.monotonic() - self.heard[actor] > self.job_seconds}:
            carried = [reference for reference, (_, carrier) in self.flying.items() if carrier == actor]
            if not ray.wait(carried, timeout=0)[0]:
                self.ended.add(carried[0])
                ray.kill(actor, no_restart=False)
                self.heard[actor] = time.monotonic()

    def lost(self, actor: Actor) -> bool:
        """``actor`` gets nothing until it answers. Whether that is news: jobs are done in turn, so the first that is lost was under way."""
        if news := actor not in self.away.values():
            self.away[actor.__ray_ready__.remote()] = actor
        return news

    def _welcome(self, reference: ObjectRef) -> None:
        actor = self.away.pop(reference)
        try:
            ray.get(reference)
        except LOST:
            time.sleep(PAUSE)
            self.lost(actor)
