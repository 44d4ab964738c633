"""Independent jobs over a few actors: each job is sent once, sent again where its actor was lost, and handed back as it ends.

jobs --at most two an actor--> actors --results, in order of completion--> the caller
                               an actor that was lost gets none until it answers again, a silent one is ended and starts again
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError, RayError, RuntimeEnvSetupError

from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.distributed.failures import in_a_line
from dreamer_ray.errors import RunError

log = logging.getLogger("dreamer_ray")

J = TypeVar("J")
GONE = (*LOST, RuntimeEnvSetupError)
"""What a job raises whose actor is lost, or cannot start again where Ray has put it."""
IN_FLIGHT = 2
LOSSES_PER_JOB, PREEMPTIONS_PER_JOB = 3, 30
"""How often a job may lose its actor, by itself for all that is known, and with machines that Ray says were taken away."""
PATIENCE = 5.0
"""Seconds between two looks for silent actors."""
PAUSE = 0.5
"""Seconds between two tries to reach an actor that starts again."""
MISSED_SECONDS = 60.0
"""How long an actor may stay away before that is said, and between two such lines."""


def spread(
    actors: Sequence[Actor],
    jobs: Sequence[J],
    send: Callable[[Actor, J], ObjectRef],
    *,
    job_seconds: float,
    given_up: Callable[[str], object] | None = None,
) -> Generator[tuple[J, object], None, None]:
    """Yields ``(job, result)`` as they come, and ends the actors when it is closed. An exception of a job itself is raised.

    An actor that has started and then answers nothing for ``job_seconds`` is taken for hung. A job that loses its actor 3 times (30 with
    preemptions that Ray knows of) ends the run, or has ``given_up`` of the reason for its result. Raises ``RunError`` where a constructor
    fails before any actor was there, which others would do too, or no actor can be started.
    """
    waiting, crew = list(reversed(jobs)), _Crew(actors, job_seconds)
    losses = {id(job): _Losses() for job in jobs}
    try:
        while waiting or crew.flying:
            for actor in crew.free()[: len(waiting)]:
                job = waiting.pop()
                crew.flying[send(actor, job)] = (job, actor)
            for reference, job, actor in crew.answers():
                try:
                    result = ray.get(reference)
                except GONE as error:
                    lost = losses[id(job)]
                    if crew.lost(reference, actor, error):
                        lost.count(error, ended=reference in crew.ended)
                    if not lost.too_many:
                        waiting.append(job)
                        continue
                    reason = lost.reason(error, job_seconds)
                    if given_up is None:
                        raise RunError(f"{job}: {reason}") from error
                    result = given_up(reason)
                yield job, result
    finally:
        for actor in actors:
            ray.kill(actor)


@dataclass
class _Losses:
    """How often a job has lost the actor that was at it."""

    alone: int = 0
    late: int = 0
    """Of these, where the actor was ended since it was silent for too long."""
    preempted: int = 0

    def count(self, error: RayError, *, ended: bool) -> None:
        """One more; Ray calls an actor preempted from its first preemption on, whatever becomes of it later."""
        if isinstance(error, RayActorError) and error.preempted and not ended:
            self.preempted += 1
        else:
            self.alone += 1
            self.late += ended

    @property
    def too_many(self) -> bool:
        """Whether the job is not tried again."""
        return self.alone >= LOSSES_PER_JOB or self.preempted >= PREEMPTIONS_PER_JOB

    def reason(self, error: RayError, job_seconds: float) -> str:
        """Why not, for people."""
        if self.alone < LOSSES_PER_JOB:
            return f"its worker was lost {self.preempted} times, as Ray says with machines that were taken away (last: {in_a_line(error)})"
        if not self.late:
            return (
                f"its worker died {self.alone} times, never since cluster.job_seconds were over (last: {in_a_line(error)}): for want of "
                "memory, in a crash, or with machines that went without notice; see the Ray dashboard"
            )
        times = f"{self.alone} times" if self.late == self.alone else f"{self.late} of the {self.alone} times that its worker died"
        return (
            f"it was not done after cluster.job_seconds = {job_seconds:g} and ended, {times}; raise cluster.job_seconds if it takes so long"
        )


class _Crew:
    """Who is there, who has which job and who has not been heard of for too long."""

    def __init__(self, actors: Sequence[Actor], job_seconds: float):
        self.actors, self.job_seconds = list(actors), job_seconds
        self.flying: dict[ObjectRef, tuple[Any, Actor]] = {}
        self.away: dict[ObjectRef, Actor] = {}
        self.missing: dict[Actor, float] = {}
        """Since when, of those who are away."""
        self.why, self.said = "", time.monotonic()
        """The last reason for which one was lost or did not come; when it was last said who is missing."""
        self.heard: dict[Actor, float] = {}
        self.began = False
        """Whether one of them has ever been there."""
        self.ended: set[ObjectRef] = set()
        """Of jobs under way when their actor was ended for its silence."""
        for actor in actors:
            self._greet(actor)

    def free(self) -> list[Actor]:
        """Those that can take a job, each as often as it can take one."""
        room = []
        for actor in (actor for actor in self.actors if actor not in self.missing):
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
                log.warning("%s has not answered for cluster.job_seconds = %g, taken for hung and started again", actor, self.job_seconds)
                self.ended.add(carried[0])
                ray.kill(actor, no_restart=False)
                self.heard[actor] = time.monotonic()
        self._say_who_is_missing()

    def lost(self, reference: ObjectRef, actor: Actor, error: RayError) -> bool:
        """``actor`` gets nothing until it answers. Whether that is news: jobs are done in turn, so the first that is lost was under way."""
        if actor in self.missing or actor not in self.actors:
            return False
        self.why = in_a_line(error)
        if reference not in self.ended:
            log.warning("%s is lost (%s); it starts again, what it had is done again", actor, self.why)
        self._greet(actor)
        return True

    def _greet(self, actor: Actor) -> None:
        self.away[actor.__ray_ready__.remote()] = actor
        self.missing.setdefault(actor, time.monotonic())

    def _welcome(self, reference: ObjectRef) -> None:
        actor = self.away.pop(reference)
        try:
            ray.get(reference)
        except LOST as error:
            self.why = in_a_line(error)
            if isinstance(error, RayActorError) and error.actor_init_failed:
                if self.began:
                    self._do_without(actor, error)
                    return
                raise RunError(
                    f"{actor} failed as it started ({self.why}); every node needs dreamer_ray, all that it requires and the run folder, as "
                    "there are here; the Ray dashboard shows the rest of the error"
                ) from error
            time.sleep(PAUSE)
            self._greet(actor)
        except RayError as error:  # such as a runtime environment that one node cannot set up: Ray starts it nowhere else
            self._do_without(actor, error)
        else:
            self.began = True
            del self.missing[actor]

    def _do_without(self, actor: Actor, error: RayError) -> None:
        self.actors.remove(actor)
        del self.missing[actor]
        if not self.actors:
            raise RunError(f"no worker is left; the last, {actor}, cannot start: {in_a_line(error)}; see the Ray dashboard") from error
        log.warning("%s cannot start (%s); the stage goes on with the other %d", actor, in_a_line(error), len(self.actors))

    def _say_who_is_missing(self) -> None:
        now = time.monotonic()
        longest = max((now - since for since in self.missing.values()), default=0.0)
        if min(longest, now - self.said) < MISSED_SECONDS:
            return
        self.said = now
        log.warning(
            "%d of %d workers start or wait for room, for up to %.0f s so far%s; `ray status` shows what takes the CPUs and GPUs",
            *(len(self.missing), len(self.actors), longest, self.why and f" (last: {self.why})"),
        )
