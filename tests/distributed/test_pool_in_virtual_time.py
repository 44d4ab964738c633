"""A real pool with replicas and a learner in virtual time: what takes hours or needs many machines is tried in a moment, without Ray.

``VirtualRay`` stands where the pool has ``ray`` and ``time``: waiting moves its clock to the next end of a call.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from dreamer_ray.distributed import pool_clock, replica_pool
from dreamer_ray.distributed.imagine import useful_replicas
from dreamer_ray.distributed.pool_clock import Shift
from dreamer_ray.distributed.replica_pool import ReplicaPool, TimedTrajectory
from dreamer_ray.imagination.schedule import Schedule


@dataclass(eq=False)
class Reference:
    ends: float
    result: Any


class VirtualReplica:
    """Does one call after the other, ``seconds`` each; ``fails`` says of a call what it raises, if anything."""

    def __init__(self, ray: "VirtualRay", seconds: float, fails=lambda call: None):
        self.ray, self.seconds, self.fails = ray, float(seconds), fails
        self.free, self.worked, self.killed, self.asked = 0.0, 0.0, 0, 0

    def __getattr__(self, name: str) -> "Method":
        if name not in ("ready", "dream", "__ray_ready__"):
            raise AttributeError(name)
        return Method(self, name)

    def __repr__(self) -> str:
        return "VirtualReplica"


@dataclass
class Method:
    replica: VirtualReplica
    name: str

    def remote(self, *arguments: Any) -> Reference:
        replica, now = self.replica, self.replica.ray.monotonic()
        if self.name != "dream":
            return Reference(now, None)
        call, _, version = arguments
        replica.asked += 1
        replica.free = max(replica.free, now) + replica.seconds
        replica.worked += replica.seconds
        if (error := replica.fails(call)) is not None:
            error = error if isinstance(error, ActorDiedError) else RayTaskError("dream", "traceback", error).as_instanceof_cause()
            return Reference(replica.free, error)
        states, one = torch.full((1, 2, 1), float(call)), torch.zeros(1, 1)
        trajectory = TimedTrajectory(
            states, {"action": one}, one, one, torch.zeros(1, dtype=torch.long), version, seconds=replica.seconds, busy=replica.seconds
        )
        return Reference(replica.free, trajectory)


@dataclass
class VirtualRay:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, references: list[Reference], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Reference], list[Reference]]:
        if not any(reference.ends <= self.now for reference in references):
            self.now = max(self.now, min(self.now + timeout, min(reference.ends for reference in references)))
        there = [reference for reference in references if reference.ends <= self.now][:num_returns]
        return there, [reference for reference in references if reference not in there]

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def kill(self, replica: VirtualReplica, *, no_restart: bool) -> None:
        assert not no_restart, "it starts again"
        replica.killed += 1
        replica.free = self.now


def install(monkeypatch) -> VirtualRay:
    """In the place of Ray and of the clock of the pool, until the test ends."""
    virtual = VirtualRay()
    monkeypatch.setattr(replica_pool, "ray", virtual)
    for module in (replica_pool, pool_clock):
        monkeypatch.setattr(module, "time", virtual)
    return virtual


def shares(monkeypatch, replicas: int, dream: float, update: float, *, max_lag: int, calls: int = 8, steps: int = 24, log_every: int = 4):
    """Shares that the last windows reported, and those of the replicas' idle time that were true, of a learner that takes ``update``."""
    virtual = install(monkeypatch)
    actors = [VirtualReplica(virtual, dream) for _ in range(replicas)]
    pool, found = ReplicaPool(actors, Schedule(calls, max_lag), "s"), []
    for done, _ in zip(range(1, steps + 1), pool.updates(0, 2 * steps)):
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
def test_replica_idle_is_the_share_of_the_time_in_which_replicas_had_no_call(monkeypatch, replicas, dream, update, max_lag, log_every):
    told, true, windows = shares(monkeypatch, replicas, dream, update, max_lag=max_lag, log_every=log_every)
    assert told["replica_idle"] == pytest.approx(true, abs=0.06)
    assert all(window["replica_idle"] == pytest.approx(true, abs=0.15) for window in windows)


def test_replicas_idle_most_of_the_time_beside_a_slow_learner(monkeypatch):
    """Eight calls of a second, shared by four replicas, for an update of ten seconds."""
    assert shares(monkeypatch, 4, 1, 10, max_lag=2)[0]["replica_idle"] == pytest.approx(0.8, abs=0.03)
    assert shares(monkeypatch, 4, 1, 10, max_lag=0)[0]["replica_idle"] == pytest.approx(1 - 8 / 4 / 12, abs=0.03)


def settled(monkeypatch, count: int, dream: float, update: float, *, max_lag: int, least: int = 1, most: int = 8) -> list[int]:
    """The sizes of a pool of ``count`` replicas, window by window."""
    seen = [count]
    while len(seen) < 2 or seen[-1] != seen[-2]:
        assert len(seen) < 12, f"it does not settle: {seen}"
        idle, _, _ = shares(monkeypatch, seen[-1], dream, update, max_lag=max_lag)
        idle.pop("lag")
        seen.append(useful_replicas(seen[-1], least=least, most=most, turns=max_lag == 0, **idle))
    return seen


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_pool_shrinks_beside_a_slow_learner_and_grows_again_when_this_gets_fast(monkeypatch, max_lag):
    """A learner of 10 s needs, without turns, one replica for its eight calls of a second; with turns so few that it waits a tenth."""
    slow = settled(monkeypatch, 8, 1, 10, max_lag=max_lag)
    assert slow[-1] == (8 if max_lag == 0 else 2)
    slow = settled(monkeypatch, 8, 1, 100, max_lag=max_lag)
    assert slow[-1] == 1
    fast = settled(monkeypatch, slow[-1], 1, 0.5, max_lag=max_lag)
    assert fast[-1] == 8


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_pool_settles_wherever_it_begins(monkeypatch, max_lag):
    for update in (1.0, 20.0):
        ends = [settled(monkeypatch, count, 1, update, max_lag=max_lag)[-1] for count in (1, 8)]
        waits = [shares(monkeypatch, end, 1, update, max_lag=max_lag)[0]["learner_idle"] for end in ends]
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
