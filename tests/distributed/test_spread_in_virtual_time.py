"""Jobs over actors in virtual time: actors that come late or never, or go for many reasons, and what is said of it; without Ray."""

from collections.abc import Callable, Iterable
from itertools import count, repeat
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError, RuntimeEnvSetupError

from dreamer_ray.distributed import pool
from dreamer_ray.distributed.pool import spread
from dreamer_ray.errors import RunError


def died(reason: int = NodeDeathInfo.UNSPECIFIED) -> ActorDiedError:
    """As Ray raises it of an actor whose node went for ``reason``."""
    went = NodeDeathInfo(reason=reason)
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message="The actor is dead.", node_death_info=went))


PREEMPTED = died(NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
AWAY = ActorUnavailableError("its node is gone", None)
UNABLE = RayActorError(actor_init_failed=True)
NO_PACKAGE = RuntimeEnvSetupError("no such package")


class Worker:
    """Does jobs one after the other: ``does`` gives the seconds that one takes and what comes of it, ``greets`` the same of each greeting.

    An exception is the end of it, also for what it would have done next.
    """

    def __init__(self, ray: Any, does: Callable[[int], tuple[float, Any]], greets: Iterable[tuple[float, Any]] = repeat((0.0, None))):
        self.ray, self.does, self.greets, self.calls = ray, does, iter(greets), []
        self.__ray_ready__ = SimpleNamespace(remote=self._ready)

    def __repr__(self) -> str:
        return "Worker"

    def _ready(self) -> Any:
        seconds, result = next(self.greets)
        return self.ray.call(self.ray.now + seconds, result)

    def work(self, job: int) -> Any:
        fatal = [call.ends for call in self.calls if call.ends > self.ray.now and isinstance(call.result, Exception)]
        if fatal:
            self.calls.append(self.ray.call(fatal[0], died()))
        else:
            seconds, result = self.does(job)
            self.calls.append(self.ray.call(max([self.ray.now, *(call.ends for call in self.calls)]) + seconds, result))
        return self.calls[-1]

    def kill(self, *, no_restart: bool) -> None:
        for call in self.calls:
            if call.ends > self.ray.now:
                call.ends, call.result = self.ray.now, died()


@pytest.fixture
def virtual(in_virtual_time) -> Any:
    """In the place of Ray and of the clock, until the test ends."""
    return in_virtual_time(pool)


def done(workers, jobs: int, **options) -> dict[int, Any]:
    return dict(spread(workers, list(range(jobs)), lambda worker, job: worker.work(job), **{"job_seconds": 300.0} | options))


def steady(job: int) -> tuple[float, int]:
    return 10.0, job


def first_time(seconds: float, result: Any, job: int = 0) -> Callable[[int], tuple[float, Any]]:
    """Does ``job`` the first time so, and else what is right."""
    times = count()
    return lambda each: (seconds, result) if each == job and next(times) == 0 else steady(each)


@pytest.mark.parametrize(("error", "last"), [(None, ""), (AWAY, " (last: ActorUnavailableError: ")])
def test_who_does_not_come_is_missed_once_a_minute_with_the_last_reason(virtual, caplog, error, last):
    late = [(150.0, None)] if error is None else [(1.0, error)] * 100 + [(0.0, None)]
    assert done([Worker(virtual, steady), Worker(virtual, steady, late)], 30) == {job: job for job in range(30)}
    said = [message for message in caplog.messages if "start or wait for room" in message]
    assert len(said) == 2
    for minute, message in enumerate(said, start=1):
        assert message.startswith("1 of 2 workers start or wait for room, for up to ")
        assert minute * 60 <= float(message.split()[12]) < minute * 60 + 10
        assert f"s so far{last}" in message


def test_where_nobody_comes_that_is_said(virtual, caplog):
    assert done([Worker(virtual, steady, [(601.0, None)])], 1) == {0: 0}
    assert len(caplog.messages) == 10


def test_machines_that_are_known_to_be_taken_away_cost_a_job_none_of_its_tries(virtual):
    ends = [PREEMPTED] * 20 + [died()] * 2
    assert done([Worker(virtual, lambda job: (5.0, ends.pop() if ends else job))], 1) == {0: 0}


def test_a_job_that_only_ever_loses_machines_that_are_taken_away_is_given_up_at_last(virtual):
    tried = []
    found = done([Worker(virtual, lambda job: (5.0, tried.append(job) or PREEMPTED))], 1, given_up=str)
    assert found[0].startswith("its worker was lost 30 times, as Ray says with machines that were taken away (last: ActorDiedError")
    assert len(tried) == 30


def test_a_worker_that_hangs_counts_though_its_machine_was_once_taken_away(virtual):
    """Ray calls an actor preempted for good."""

    class Hangs(Worker):
        def kill(self, *, no_restart: bool) -> None:
            super().kill(no_restart=no_restart)
            for call in self.calls:
                call.result = PREEMPTED

    found = done([Hangs(virtual, lambda job: (inf, None))], 1, given_up=str)
    assert found[0].startswith("it was not done after cluster.job_seconds = 300 and ended, 3 times")


@pytest.mark.parametrize("error", [died(), died(NodeDeathInfo.UNEXPECTED_TERMINATION), OutOfMemoryError("too much")])
def test_a_job_whose_worker_dies_time_and_again_says_that_it_was_never_late(virtual, error):
    tried = []
    found = done([Worker(virtual, lambda job: (5.0, tried.append(job) or error))], 1, given_up=str)
    assert found[0].startswith("its worker died 3 times, never since cluster.job_seconds were over (last: ")
    assert tried == [0, 0, 0]


def test_deaths_are_not_taken_for_lateness_where_one_of_them_was(virtual):
    ends = [(5.0, died()), (inf, None), (5.0, died())]
    found = done([Worker(virtual, lambda job: ends.pop())], 1, given_up=str)
    assert found[0].startswith("it was not done after cluster.job_seconds = 300 and ended, 1 of the 3 times that its worker died")


def test_a_worker_that_is_lost_is_said_once_whatever_it_had(virtual, caplog):
    assert done([Worker(virtual, first_time(5.0, died()))], 4) == {job: job for job in range(4)}
    assert caplog.messages == ["Worker is lost (ActorDiedError: The actor is dead.); it starts again, what it had is done again"]


def test_a_worker_that_hangs_is_said_once(virtual, caplog):
    assert done([Worker(virtual, first_time(inf, None))], 4) == {job: job for job in range(4)}
    assert caplog.messages == ["Worker has not answered for cluster.job_seconds = 300, taken for hung and started again"]


def test_a_worker_that_can_never_start_leaves_the_jobs_to_the_others(virtual, caplog):
    bad = Worker(virtual, steady, [(3.0, NO_PACKAGE)])
    assert done([bad, Worker(virtual, steady)], 5) == {job: job for job in range(5)}
    assert not bad.calls
    assert caplog.messages == ["Worker cannot start (RuntimeEnvSetupError: no such package); the stage goes on with the other 1"]


def test_a_constructor_that_fails_once_another_worker_was_there_leaves_the_jobs_to_that_one(virtual, caplog):
    bad = Worker(virtual, steady, [(30.0, UNABLE)])
    assert done([Worker(virtual, steady), bad], 5) == {job: job for job in range(5)}
    assert [message.split(" (")[0] for message in caplog.messages] == ["Worker cannot start"]
    with pytest.raises(RunError, match="Worker failed as it started"):
        done([Worker(virtual, steady, [(60.0, None)]), Worker(virtual, steady, [(30.0, UNABLE)])], 5)


def test_a_worker_that_cannot_start_again_is_lost_with_what_it_had(virtual, caplog):
    bad = Worker(virtual, first_time(5.0, NO_PACKAGE), [(0.0, None), (3.0, NO_PACKAGE)])
    assert done([bad, Worker(virtual, steady)], 6) == {job: job for job in range(6)}
    assert sum("cannot start" in message for message in caplog.messages) == 1


def test_where_no_worker_can_start_the_stage_ends_with_the_reason(virtual):
    with pytest.raises(RunError, match="no worker is left; the last, Worker, cannot start: RuntimeEnvSetupError: no such package"):
        done([Worker(virtual, steady, [(seconds, NO_PACKAGE)]) for seconds in (1.0, 2.0)], 5)
