"""A real pool with replicas and a learner in virtual time: what takes hours or needs many machines is tried in a moment, without Ray."""

import errno
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError, RuntimeEnvSetupError

from dreamer_ray.distributed import elastic_pool, pool_clock, replica_pool
from dreamer_ray.distributed.elastic_pool import ElasticPool
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.imagine import useful_replicas
from dreamer_ray.distributed.pool_clock import Shift, pace_advice
from dreamer_ray.distributed.replica_pool import ReplicaPool, TimedTrajectory
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.imagination.schedule import Schedule


class VirtualReplica:
    """Does one call after the other, ``seconds`` each; ``fails`` says of a call what it raises, if anything."""

    def __init__(self, ray: Any, seconds: float, fails=lambda call: None, unable: Exception | None = None):
        self.ray, self.seconds, self.fails, self.unable = ray, float(seconds), fails, unable
        self.free, self.worked, self.killed, self.rows = 0.0, 0.0, 0, 1
        self.greeted, self.sent = 0, []

    def __getattr__(self, name: str) -> "Method":
        if name not in ("ready", "dream", "__ray_ready__"):
            raise AttributeError(name)
        return Method(self, name)

    def kill(self, *, no_restart: bool) -> None:
        self.killed += not no_restart  # those that start again
        self.free = self.ray.now

    def end(self) -> None:
        """For good: what it had not done is lost."""
        for reference in self.sent:
            if reference.ends > self.ray.now:
                reference.ends, reference.result = self.ray.now, ActorDiedError()

    def __repr__(self) -> str:
        return "VirtualReplica"


@dataclass
class Method:
    replica: VirtualReplica
    name: str

    def remote(self, *arguments: Any) -> Any:
        replica, now = self.replica, self.replica.ray.monotonic()
        if self.name != "dream":
            replica.greeted += 1
            assert replica.greeted < 10_000, "greeted without end"
            return self.replica.ray.call(now, replica.unable)
        call, _, version = arguments
        replica.free = max(replica.free, now) + replica.seconds
        replica.worked += replica.seconds
        if (error := replica.fails(call)) is not None:
            error = error if isinstance(error, ActorDiedError) else RayTaskError("dream", "traceback", error).as_instanceof_cause()
            return replica.ray.call(replica.free, error)
        states, one = torch.full((replica.rows, 2, 1), float(call)), torch.zeros(replica.rows, 1)
        trajectory = TimedTrajectory(
            states,
            {"action": one},
            one,
            one,
            torch.zeros(replica.rows, dtype=torch.long),
            version,
            seconds=replica.seconds,
            busy=replica.seconds,
        )
        replica.sent.append(replica.ray.call(replica.free, trajectory))
        return replica.sent[-1]


@pytest.fixture
def install(in_virtual_time, monkeypatch) -> Callable[[], Any]:
    """Puts virtual time in the place of Ray and of the clock of the pool, until the test ends."""
    monkeypatch.setattr(elastic_pool, "answer", lambda ask: ask())
    return lambda: in_virtual_time(replica_pool, elastic_pool, pool_clock)


def shares(install, replicas: int, dream: float, update: float, *, max_lag: int, calls: int = 8, steps: int = 24, log_every: int = 4):
    """Shares that the last windows reported, and those of the replicas' idle time that were true, of a learner that takes ``update``."""
    virtual = install()
    actors = [VirtualReplica(virtual, dream) for _ in range(replicas)]
    pool, found = ReplicaPool(actors, Schedule(calls, max_lag), "s"), []
    for done, _ in zip(range(1, steps + 1), pool.updates(0, 2 * steps), strict=False):
        virtual.sleep(update)
        if done == steps // 2:
            pool.clock.figures()
            begun, worked = virtual.now, sum(actor.worked for actor in actors)
        elif done > steps // 2 and done % log_every == 0:
            found.append(pool.clock.figures())
    true = 1 - (sum(actor.worked for actor in actors) - worked) / (virtual.now - begun) / replicas
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}, true, found


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.parametrize("max_lag", [0, 2])
@pytest.mark.parametrize(
    ("replicas", "dream", "update"), [(4, 1, 10), (8, 0.5, 5), (4, 1, 2), (4, 1, 0.1), (2, 1, 0.1), (6, 0.5, 0.7), (8, 3.0, 20)]
)
def test_replica_idle_is_the_share_of_the_time_in_which_replicas_had_no_call(install, replicas, dream, update, max_lag, log_every):
    told, true, windows = shares(install, replicas, dream, update, max_lag=max_lag, log_every=log_every)
    assert told["replica_idle"] == pytest.approx(true, abs=0.06)
    assert all(window["replica_idle"] == pytest.approx(true, abs=0.15) for window in windows)


def test_replicas_idle_most_of_the_time_beside_a_slow_learner(install):
    """Eight calls of a second, shared by four replicas, for an update of ten seconds."""
    assert shares(install, 4, 1, 10, max_lag=2)[0]["replica_idle"] == pytest.approx(0.8, abs=0.03)
    assert shares(install, 4, 1, 10, max_lag=0)[0]["replica_idle"] == pytest.approx(1 - 8 / 4 / 12, abs=0.03)


def settled(install, count: int, dream: float, update: float, *, max_lag: int, least: int = 1, most: int = 8) -> list[int]:
    """The sizes of a pool of ``count`` replicas, window by window."""
    seen = [count]
    while len(seen) < 2 or seen[-1] != seen[-2]:
        assert len(seen) < 12, f"it does not settle: {seen}"
        idle, _, _ = shares(install, seen[-1], dream, update, max_lag=max_lag)
        idle.pop("lag")
        seen.append(useful_replicas(seen[-1], least=least, most=most, turns=max_lag == 0, **idle))
    return seen


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_pool_shrinks_beside_a_slow_learner_and_grows_again_when_this_gets_fast(install, max_lag):
    """A learner of 10 s needs, without turns, one replica for its eight calls of a second; with turns so few that it waits a tenth."""
    slow = settled(install, 8, 1, 10, max_lag=max_lag)
    assert slow[-1] == (8 if max_lag == 0 else 2)
    slow = settled(install, 8, 1, 100, max_lag=max_lag)
    assert slow[-1] == 1
    fast = settled(install, slow[-1], 1, 0.5, max_lag=max_lag)
    assert fast[-1] == 8


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_pool_settles_wherever_it_begins(install, max_lag):
    for update in (1.0, 20.0):
        ends = [settled(install, count, 1, update, max_lag=max_lag)[-1] for count in (1, 8)]
        waits = [shares(install, end, 1, update, max_lag=max_lag)[0]["learner_idle"] for end in ends]
        assert all(wait <= 0.2 or end == 8 for wait, end in zip(waits, ends, strict=True)), (update, ends, waits)


def test_a_call_that_nobody_timed_counts_as_busy_until_its_end_is_seen():
    shift = Shift(calls=1)
    shift.ended(None)
    assert shift.busy(7.0, 0) == 7.0
    shift.calls = 1
    shift.ended(2.0)
    assert shift.busy(7.0, 0) == 2.0


def test_a_call_counts_no_more_than_it_took_over_several_looks():
    shift = Shift(calls=1)
    assert shift.busy(3.0, 1) == 3.0
    shift.ended(5.0)
    assert shift.busy(10.0, 0) == 2.0


def errors(install, *fails, updates: int = 6, calls: int = 4):
    """A pool of replicas of which each ``fails`` so, what it said, and the calls that came out of it."""
    virtual, said = install(), []
    actors = [VirtualReplica(virtual, 1.0, each) for each in fails]
    pool = ReplicaPool(actors, Schedule(calls, 1), "s", tell=lambda line, topic: said.append(line))
    seen = [int(call) for batch in pool.updates(0, updates) for call in batch.states[:, 0, 0]]
    assert seen == list(range(updates * calls))
    return pool, actors, said


def once(error: Exception):
    """Fails in its first call."""
    left = [error]
    return lambda call: left.pop() if left else None


def well(call: int) -> None:
    """Never fails."""


FOREIGN = OSError(errno.ESTALE, "Stale file handle")


@pytest.mark.parametrize("others", [0, 2])
def test_a_replica_that_meets_a_foreign_error_starts_again_and_its_call_is_sent_again(install, others):
    pool, actors, said = errors(install, once(FOREIGN), *[well] * others)
    assert [actor.killed for actor in actors] == [1] + [0] * others
    assert pool.schedule.lost == 1
    assert len(said) == 1
    assert "a replica is lost (OSError: [Errno 116] Stale file handle)" in said[0]


def test_one_broken_replica_among_others_does_not_end_the_run_and_is_tried_ever_more_seldom(install):
    _, actors, said = errors(install, lambda call: FOREIGN, well, updates=60)
    assert actors[0].killed == len(said)
    assert 3 < len(said) < 10


def test_a_replica_that_has_failed_for_days_is_still_tried(install):
    virtual = install()
    pool = ReplicaPool([VirtualReplica(virtual, 1.0, once(FOREIGN)), VirtualReplica(virtual, 1.0)], Schedule(4, 1), "s")
    pool.seats[0].failures = 5000
    assert len(list(pool.updates(0, 60))) == 60
    assert pool.seats[0].failures == 0


def test_a_replica_whose_environment_cannot_be_set_up_is_greeted_now_and_then(install):
    virtual, said = install(), []
    unable = VirtualReplica(virtual, 1.0, unable=RuntimeEnvSetupError("no space"))
    pool = ReplicaPool([unable, VirtualReplica(virtual, 1.0)], Schedule(4, 1), "s", tell=lambda line, topic: said.append(line))
    assert len(list(pool.updates(0, 6))) == 6
    assert 2 < unable.greeted <= virtual.now / replica_pool.PAUSE + 2
    assert said == []


def test_the_calls_of_a_replica_that_has_left_the_pool_are_no_losses(install):
    virtual, said, seen = install(), [], []
    stays, leaves = (VirtualReplica(virtual, 1.0) for _ in range(2))
    members = [stays, leaves]
    pool = ReplicaPool(members, Schedule(4, 2), "s", look=lambda: members, tell=lambda line, topic: said.append(line))
    for update, batch in enumerate(pool.updates(0, 8)):
        seen += [int(call) for call in batch.states[:, 0, 0]]
        if update == 3:
            assert leaves in [flight.seat.actor for flight in pool.flying.values()]
            members = [stays]
            leaves.end()
            virtual.sleep(1.0)
    assert seen == list(range(32))
    assert (pool.schedule.lost, said) == (0, [])


@pytest.fixture
def replaced(install, monkeypatch, caplog):
    """When replicas that meet this error were started and lost in a place which the driver looks at once a minute, and what was said."""
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)
    virtual, begun, lost = install(), [], []
    board = SimpleNamespace(enlist=SimpleNamespace(remote=lambda replicas: None))

    def watch(unable: Exception, minutes: int):
        def start(place: int, number: int) -> VirtualReplica:
            begun.append(virtual.now)
            return VirtualReplica(virtual, 1.0, unable=unable)

        pool = ElasticPool(start, board, 1, lambda: lost.append(virtual.now))
        for _ in range(minutes):
            pool.look()
            virtual.sleep(60)
        return begun, lost, caplog.messages

    return watch


@pytest.mark.parametrize("error", [ActorDiedError(), RuntimeEnvSetupError("no space")])
def test_a_place_where_no_replica_can_run_is_tried_ever_more_seldom(replaced, error):
    begun, lost, said = replaced(error, minutes=5 * 24 * 60)
    pauses = [after - before for before, after in itertools.pairwise(begun)]
    assert pauses[0] == 60
    assert pauses == sorted(pauses)
    assert pauses[-1] == 360, "five minutes after it was seen"
    assert len(said) == len(lost) == len(begun) - (lost[-1] < begun[-1])
    assert said[2].startswith(f"imagination: replica 2 is lost ({type(error).__name__}")
    assert said[2].endswith("for good, so another one is started again in 40 s")


@pytest.mark.parametrize("error", [ActorUnavailableError("it restarts", None), RayActorError(preempted=True)])
def test_a_replica_that_ray_starts_again_is_not_replaced(replaced, error):
    begun, lost, said = replaced(error, minutes=100)
    assert (begun, lost, said) == ([0.0], [], [])


def test_replicas_that_only_fail_end_the_run_with_the_cause(install):
    with pytest.raises(RunError, match=r"replicas failed 6 times and did nothing else; last: OSError: .*Stale file handle"):
        errors(install, lambda call: FOREIGN, lambda call: FOREIGN)


def test_a_call_that_no_replica_can_do_ends_the_run_though_others_succeed(install):
    def fails(call):
        return ValueError("bad context") if call == 5 else None

    with pytest.raises(RunError, match=r"call 5 failed 3 times; last: ValueError: bad context"):
        errors(install, *[fails] * 3, updates=60)


def test_a_hiccup_that_all_replicas_feel_at_once_is_survived(install):
    pool, actors, _ = errors(install, *[once(FOREIGN) for _ in range(4)])
    assert [actor.killed for actor in actors] == [1] * 4
    assert pool.schedule.lost == 4


@pytest.mark.parametrize("error", [UserError("checkpoint x: SHA-256 differs"), OSError(errno.ENOSPC, "No space left on device", "/runs/x")])
def test_an_error_of_ours_ends_the_run_at_once(install, error):
    with pytest.raises((UserError, OSError)) as raised:
        errors(install, once(error))
    assert type(plain(raised.value)) in (UserError, RunError)


def test_a_run_whose_replicas_only_die_says_of_what(install):
    with pytest.raises(RunError, match=r"update 0: no replica answered for 600 s; last: ActorDiedError: The actor died"):
        errors(install, lambda call: ActorDiedError())


@pytest.mark.parametrize(("seconds", "key"), [(0.05, "raise"), (0.3, None), (15, None), (40, "lower")])
def test_calls_that_are_too_short_or_too_long_are_told_of_once(install, seconds, key):
    virtual, said = install(), []
    pool = ReplicaPool([VirtualReplica(virtual, seconds)], Schedule(4, 0), "s", tell=lambda line, topic: said.append((line, topic)))
    for actor in pool.replicas:
        actor.rows = 2
    assert len(list(pool.updates(0, 5))) == 5
    if key is None:
        assert said == []
    else:
        ((line, topic),) = said
        assert line.startswith(f"imagination: a call of a replica takes {seconds:g} s; {key} imagination.dreams_per_call (2 now)")
        assert topic == "pace"


def test_nothing_is_said_of_a_pace_that_cannot_be_helped():
    assert pace_advice(0.05, 16, shorter=True, longer=False) is None
    assert pace_advice(40.0, 1, shorter=False, longer=True) is None
