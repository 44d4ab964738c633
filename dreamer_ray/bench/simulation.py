"""The actor-learner loop without models: the real schedule, given how long each part takes, in simulated time.

learner: submit what the Schedule allows -> wait for a result -> take it in -> when an update is complete: update, publish
replica: the oldest of its calls, by the newest heads; it fetches them first where they are new to it
"""

import heapq
import random
from dataclasses import dataclass

from pydantic import Field

from dreamer_ray.config import Config
from dreamer_ray.imagination.schedule import IN_FLIGHT, Schedule, Seat


class Service(Config):
    """Seconds that the parts of the loop take."""

    dream: float = Field(gt=0)
    """A call, in a replica."""
    update: float = Field(gt=0)
    """In the learner, without what follows here."""
    publish: float = Field(ge=0)
    """The heads of a version, in the learner."""
    fetch: float = Field(ge=0)
    """Heads that are new to a replica, in it."""
    submit: float = Field(ge=0)
    """A call, in the learner."""
    take: float = Field(ge=0)
    """A trajectory, in the learner."""
    watch: float = Field(default=0, ge=0)
    """Each replica of the pool, in the learner, whenever something has ended: whether its calls have, and whether it gets the next one."""
    spread: float = Field(default=0.1, ge=0)
    """Standard deviation of the time of a call, as a share of its mean."""


@dataclass(frozen=True)
class Throughput:
    """How the loop runs with some number of replicas."""

    replicas: int
    updates_per_second: float
    lag: float
    """Mean age, in updates, of the heads whose dreams an update used."""
    learner_idle: float
    """Share of the time in which the learner waited."""
    learner_handling: float
    """Share in which it submitted calls, took in trajectories and watched the replicas."""
    replica_idle: float
    """Share of the replicas' time without a call."""
    calls_an_update: float
    """That a replica could do while the learner updates; it has ``IN_FLIGHT`` at hand then."""

    @property
    def bottleneck(self) -> str:
        """What to change for more updates a second, and how."""
        if self.learner_handling > 0.5:
            return "taking in trajectories and watching replicas: larger imagination.dreams_per_call"
        if self.learner_idle < 0.1:
            return "the learner's update: more cluster.learners, or a GPU for it"
        if self.replica_idle > 0.2 and self.calls_an_update > IN_FLIGHT:
            return "calls at hand while the learner updates: larger imagination.dreams_per_call"
        if self.replica_idle > 0.2:
            return "calls: larger imagination.contexts.batch_size or max_lag, or smaller dreams_per_call"
        return "dreams: more cluster.replicas"


@dataclass(eq=False)
class _Replica(Seat):
    free_at: float = 0.0
    version: int = -1
    worked: float = 0.0


@dataclass(frozen=True)
class _Result:
    version: int


def simulate(service: Service, *, replicas: int, calls_per_update: int, max_lag: int, updates: int = 50, seed: int = 0) -> Throughput:
    """Runs ``updates`` updates after as many that are not counted."""
    run = _Run(service, replicas, Schedule(calls_per_update, max_lag), random.Random(seed))
    run.schedule.open(0, 2 * updates)
    for update in range(2 * updates):
        if update == updates:
            run.reset()
        run.update(update)
    return run.figures(updates)


class _Run:
    def __init__(self, service: Service, replicas: int, schedule: Schedule[_Result], draw: random.Random):
        self.service, self.schedule, self.draw = service, schedule, draw
        self.replicas = [_Replica(ready=True) for _ in range(replicas)]
        self.now = 0.0
        self.published = [(0.0, 0)]
        self.ends: list[tuple[float, int, float, _Replica]] = []
        """When each call that is under way ends, its number, when it begins, and where."""
        self.reset()

    def reset(self) -> None:
        self.begun, self.idle, self.handling, self.lags = self.now, 0.0, 0.0, []
        for replica in self.replicas:
            replica.worked = 0.0

    def update(self, update: int) -> None:
        while not self.schedule.complete(update):
            self._submit(update)
            first = self.ends[0][0]
            self.idle += max(0.0, first - self.now)
            self.now = max(self.now, first)
            self._handle(self.service.watch * len(self.replicas))
            while self.ends and self.ends[0][0] <= self.now:
                _, call, begun, replica = heapq.heappop(self.ends)
                self._handle(self.service.take)
                replica.calls -= 1
                self.schedule.finished[call] = _Result(self._newest_before(begun))
        self._submit(update)
        self.lags.append(update - min(result.version for result in self.schedule.use(update)))
        self.now += self.service.update + self.service.publish
        self.published.append((self.now, update + 1))

    def figures(self, updates: int) -> Throughput:
        elapsed = self.now - self.begun
        worked = sum(replica.worked for replica in self.replicas) / len(self.replicas)
        return Throughput(
            replicas=len(self.replicas),
            updates_per_second=updates / elapsed,
            lag=sum(self.lags) / len(self.lags),
            learner_idle=self.idle / elapsed,
            learner_handling=self.handling / elapsed,
            replica_idle=max(0.0, 1 - worked / elapsed),
            calls_an_update=self.service.update / self.service.dream,
        )

    def _submit(self, version: int) -> None:
        while (given := self.schedule.take(version, self.replicas)) is not None:
            replica, call = given
            self._handle(self.service.submit)
            seconds = max(0.1, self.draw.gauss(1.0, self.service.spread)) * self.service.dream
            if replica.version != version:
                seconds, replica.version = seconds + self.service.fetch, version
            begun = max(self.now, replica.free_at)
            replica.free_at = begun + seconds
            replica.worked += seconds
            heapq.heappush(self.ends, (replica.free_at, call, begun, replica))

    def _handle(self, seconds: float) -> None:
        self.now += seconds
        self.handling += seconds

    def _newest_before(self, moment: float) -> int:
        return next((version for when, version in reversed(self.published) if when <= moment), 0)
