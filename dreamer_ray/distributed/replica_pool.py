"""The pool of world-model replicas: numbered calls out, trajectories back in order, lost and hung replicas replaced.

    Learner asks for update u --calls that the Schedule allows--> WorldModelReplica.dream(call) --> Trajectory
    replicas that have not started yet, or start again, get nothing until they answer; what unblocks the learner is ray.wait

A call is pure given the heads: a lost one is simply sent again, so every context is dreamed and used once.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayError

from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.distributed.failures import in_a_line, plain
from dreamer_ray.distributed.pool_clock import PoolClock, Shift, pace_advice
from dreamer_ray.distributed.weights import MissingWeightsError
from dreamer_ray.errors import RunError
from dreamer_ray.imagination.schedule import Schedule, Seat
from dreamer_ray.stages import join
from dreamer_ray.types import Trajectory

log = logging.getLogger("dreamer_ray")

MOST_FAILURES = 3
"""Errors of one call while others succeed, or of each replica on the average since a trajectory came: then the run is broken."""
JUDGED_CALLS = 3
"""Calls after which a replica's pace is judged."""
LONGEST_PAUSE = 60.0
"""Before a replica that fails again and again is tried again."""
OUTAGE_LIMIT = 600.0
"""Seconds without any trajectory after which the run fails."""
SECONDS_BETWEEN_PUBLISHES = 0.5
PAUSE = 0.5
"""Seconds between two tries to reach a replica, and between two looks at who is in the pool."""


@dataclass(frozen=True)
class TimedTrajectory(Trajectory):
    """What a replica may answer with, so that calls go to who will have done them first."""

    seconds: float | None = None
    """How long it took, None where that says nothing about the next one."""
    busy: float | None = None
    """How long its replica was at it, with all that came before."""


@dataclass(eq=False)
class ReplicaSeat(Seat):
    """A replica in the pool."""

    actor: Actor = None
    started: bool = False
    """Its process runs; before that it may wait for a node for as long as it likes."""
    greeting: ObjectRef | None = None
    """Asks whether it has started, then whether it has loaded what it needs."""
    greet_at: float = 0.0
    answer_by: float = math.inf
    shift: Shift = field(default_factory=Shift)
    failures: int = 0
    """Errors since its last trajectory."""

    def lose(self) -> None:
        """Its process is gone."""
        super().lose()
        self.started = False


@dataclass(frozen=True)
class _Flight:
    call: int
    seat: ReplicaSeat
    deadline: float


def _log(line: str, topic: str) -> None:
    log.warning("%s", line, extra={"topic": topic})


@dataclass
class ReplicaPool:
    """Keeps replicas busy with the calls of the next updates and hands out trajectories update by update."""

    replicas: Sequence[Actor]
    schedule: Schedule[Trajectory]
    session: str
    call_seconds: float = 300.0
    """After so long a replica that is silent, in a call or while it loads, is taken for hung."""
    outage_seconds: float | None = None
    """After so long without any trajectory the run fails; None is ``OUTAGE_LIMIT``."""
    publish_again: Callable[[], None] | None = None
    """Called where a replica did not find the weights."""
    look: Callable[[], Sequence[Actor] | None] | None = None
    """Says at once who is in the pool now; None where nothing is known."""
    tell: Callable[[str, str], object] = _log
    """Hears of every loss, and once of what is called by a topic."""
    seats: list[ReplicaSeat] = field(default_factory=list)
    flying: dict[ObjectRef, _Flight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = PoolClock()
        self._looked, self._published = 0.0, -math.inf
        self._judged = False
        self._failures: Counter[int | None] = Counter()
        self._failed, self._last = list[int | None](), "none was lost, none is there"
        self._seat(self.replicas)

    def updates(self, start: int, steps: int) -> Iterator[Trajectory]:
        """The batches of updates ``start .. steps-1``; asking for update u says that version u has been published."""
        self.schedule.open(start, steps)
        for update in range(start, steps):
            asked = heard = time.monotonic()
            self._look()  # first: what is missed of one that has left the pool is no loss
            self._take_in()
            while not self.schedule.complete(update):
                self._submit(update)
                if self._collect():
                    heard = time.monotonic()
                elif time.monotonic() - heard > (limit := self.outage_seconds or OUTAGE_LIMIT):
                    raise RunError(
                        f"imagination, update {update}: no replica answered for {limit:.0f} s; last: {self._last}. The Ray dashboard "
                        "shows what they wait for. "
                        "Raise cluster.wait_seconds where nodes need longer to come, cluster.call_seconds where calls take longer"
                    )
            self._submit(update)
            batch = join(self.schedule.use(update))
            self.clock.waited(time.monotonic() - asked, lag=update - batch.version)
            yield batch

    def counts(self) -> dict[str, int]:
        """Calls lost and dropped so far, calls under way, replicas that are ready; of several learners' pools these add up."""
        return {
            "lost_calls": self.schedule.lost,
            "dropped_calls": self.schedule.dropped,
            "calls_in_flight": len(self.flying),
            "replicas": sum(seat.ready for seat in self.seats),
        }

    def _submit(self, version: int) -> None:
        self.clock.look((seat.shift, seat.calls) for seat in self.seats)
        while (given := self.schedule.take(version, self.seats)) is not None:
            seat, call = given
            reference = seat.actor.dream.remote(call, self.session, version)
            self.flying[reference] = _Flight(call, seat, time.monotonic() + self.call_seconds * seat.calls)
        for seat in self.seats:
            seat.shift.calls = seat.calls if seat.ready else None

    def _collect(self) -> bool:
        """Takes in what ended, waiting a moment for it; whether a trajectory came."""
        self._look()
        before = len(self.schedule.finished)
        # All that is there, before anybody is taken for hung: the learner may have been busy for longer than a call may take.
        if not self._take_in():
            if references := [*self.flying, *self._greetings()]:
                ray.wait(references, timeout=PAUSE)
                self._take_in()
            else:
                time.sleep(PAUSE)
        now = time.monotonic()
        for reference, flight in list(self.flying.items()):
            if now > flight.deadline:
                del self.flying[reference]
                ray.kill(flight.seat.actor, no_restart=False)
                self._lost(flight, f"no answer within cluster.call_seconds = {self.call_seconds:g}")
        for seat in self.seats:
            if seat.greeting is not None and now > seat.answer_by:
                ray.kill(seat.actor, no_restart=False)
                self._silent(seat, f"not loaded within cluster.call_seconds = {self.call_seconds:g}")
        return len(self.schedule.finished) > before

    def _greetings(self) -> dict[ObjectRef, ReplicaSeat]:
        return {seat.greeting: seat for seat in self.seats if seat.greeting is not None}

    def _take_in(self) -> bool:
        """Takes in what has ended by now; whether anything had."""
        if not (references := [*self.flying, *(greetings := self._greetings())]):
            return False
        there, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in there:
            if reference in greetings:
                self._greeted(greetings[reference], reference)
            else:
                self._landed(reference, self.flying.pop(reference))
        return bool(there)

    def _landed(self, reference: ObjectRef, flight: _Flight) -> None:
        try:
            trajectory = ray.get(reference)
        except LOST as error:
            self._lost(flight, in_a_line(error))
            return
        except (MissingWeightsError, ObjectLostError) as error:
            if isinstance(error, MissingWeightsError):
                self._missed()
            self.schedule.again(flight.call, lost=isinstance(error, ObjectLostError))
            flight.seat.shift.ended(None)
        except RayError as error:
            self._broken(flight.seat, error, flight.call)
            self._lost(flight, in_a_line(error))
            return
        else:
            self.schedule.finished[flight.call] = trajectory
            self._failures.pop(flight.call, None)
            self._failed, flight.seat.failures = [], 0
            seconds, busy = (trajectory.seconds, trajectory.busy) if isinstance(trajectory, TimedTrajectory) else (None, None)
            flight.seat.took(seconds)
            flight.seat.shift.ended(busy)
            self._judge(flight.seat, rows=len(trajectory.rewards))
        flight.seat.calls -= 1

    def _judge(self, seat: ReplicaSeat, *, rows: int) -> None:
        """Says once that calls take too short or too long, where that can be helped."""
        if self._judged or len(seat.times) < JUDGED_CALLS:
            return
        share = self.schedule.calls_per_update // self.schedule.share[1]
        advice = pace_advice(seat.pace, rows, shorter=rows > 1, longer=share > 1)
        if advice is not None:
            self._judged = True
            self.tell(advice, "pace")

    def _missed(self) -> None:
        """Weights were not found: for all calls of that moment they are published once."""
        if self.publish_again is not None and time.monotonic() - self._published > SECONDS_BETWEEN_PUBLISHES:
            self.publish_again()
            self._published = time.monotonic()

    def _broken(self, seat: ReplicaSeat, error: RayError, call: int | None = None) -> None:
        """Replaces a replica that met an error which is not one of ours, as of its GPU or its node. Raises where it is not its fault."""
        if plain(error) is not None:
            raise error
        if not seat.started:  # it was told to start again just now
            return
        seat.failures += 1
        self._failures[call] += call is not None and call not in self._failed
        self._failed.append(call)
        again, alone = self._failures[call] >= MOST_FAILURES, len(self._failed) >= MOST_FAILURES * len(self.seats)
        if again or alone:
            what = (
                f"call {call} failed {MOST_FAILURES} times" if again else f"replicas failed {len(self._failed)} times and did nothing else"
            )
            raise RunError(f"imagination: {what}; last: {in_a_line(error)}; run again to resume") from error
        ray.kill(seat.actor, no_restart=False)
        seat.greet_at = time.monotonic() + min(LONGEST_PAUSE, PAUSE * 2 ** min(seat.failures, 10))

    def _lost(self, flight: _Flight, why: str) -> None:
        flight.seat.calls -= 1
        flight.seat.shift.ended(None)
        self.schedule.again(flight.call, lost=(there := flight.seat in self.seats))
        if there:
            self._gone(flight.seat, why)

    def _look(self) -> None:
        """Now and then asks who is in the pool, and those that are not ready whether they are."""
        now = time.monotonic()
        if self.look is not None and now - self._looked > PAUSE:
            self._looked = now
            if (replicas := self.look()) is not None:
                self._seat(replicas)
        for seat in self.seats:
            if not seat.ready and seat.greeting is None and now >= seat.greet_at:
                seat.greeting = seat.actor.ready.remote() if seat.started else seat.actor.__ray_ready__.remote()
                seat.answer_by = now + self.call_seconds if seat.started else math.inf

    def _greeted(self, seat: ReplicaSeat, reference: ObjectRef) -> None:
        try:
            ray.get(reference)
        except LOST as error:
            self._silent(seat, in_a_line(error))
        except MissingWeightsError:
            seat.greeting, seat.greet_at = None, time.monotonic() + PAUSE
        except RayError as error:
            seat.greeting, seat.greet_at = None, time.monotonic() + PAUSE
            self._broken(seat, error)
            self._gone(seat, in_a_line(error))
        else:
            seat.greeting, seat.ready, seat.started = None, seat.started, True

    def _silent(self, seat: ReplicaSeat, why: str) -> None:
        """One that has not got ready is gone; it is asked again after a moment."""
        seat.greeting, seat.greet_at = None, time.monotonic() + PAUSE
        self._gone(seat, why)

    def _gone(self, seat: ReplicaSeat, why: str) -> None:
        """Says so, but only once of one that is not there."""
        self._last = why
        if seat.started:
            self.tell(f"imagination: a replica is lost ({why}); it starts again, its calls are sent again", "")
        seat.lose()

    def _seat(self, replicas: Sequence[Actor]) -> None:
        (rank, ranks), seated = self.schedule.share, {seat.actor: seat for seat in self.seats}
        self.seats = [seated.get(actor) or ReplicaSeat(actor=actor) for actor in replicas[rank::ranks]]
