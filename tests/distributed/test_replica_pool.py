"""The replica pool under loss: every call of every update exactly once and in order, never older than the bound."""

import errno
import os
import signal
import time

import pytest
import ray
import torch

from dreamer_ray.distributed import replicas as module
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.replicas import ReplicaPool
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.types import Trajectory

CALLS, STEPS = 2, 12


@ray.remote(num_cpus=0.5, max_restarts=-1)
class CountingReplica:
    """Dreams nothing, but answers with the number of the call and the version it was told."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def pid(self) -> int:
        return os.getpid()

    def hang(self) -> None:
        time.sleep(1e6)

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        time.sleep(self.seconds)
        states = torch.full((1, 2, 1), float(call))
        one = torch.zeros(1, 1)
        return Trajectory(states, {"action": one}, one, one, torch.zeros(1, dtype=torch.long), version)


def consume(pool: ReplicaPool, disturb=None, start: int = 0) -> list[Trajectory]:
    batches = []
    for update, batch in enumerate(pool.updates(start, STEPS), start=start):
        batches.append(batch)
        if disturb is not None and update == 4:
            disturb()
    return batches


def assert_each_call_once(batches: list[Trajectory], start: int = 0) -> None:
    calls = torch.cat([batch.states[:, 0, 0] for batch in batches]).int().tolist()
    assert calls == list(range(start * CALLS, STEPS * CALLS))


@pytest.mark.parametrize("max_lag", [0, 2])
def test_every_call_once_in_order_and_never_too_old(local_ray, max_lag):
    pool = ReplicaPool([CountingReplica.remote(0.02) for _ in range(2)], CALLS, max_lag, "s")
    batches = consume(pool)
    assert_each_call_once(batches)
    lags = [update - batch.version for update, batch in enumerate(batches)]
    assert all(0 <= lag <= max_lag for lag in lags)
    assert max_lag == 0 or max(lags) > 0, "dreams ahead of the learner where it may"


def test_resumes_at_a_later_update(local_ray):
    batches = consume(ReplicaPool([CountingReplica.remote(0.0)], CALLS, 1, "s"), start=7)
    assert_each_call_once(batches, start=7)


def test_a_killed_replica_costs_its_call_only(local_ray):
    replicas = [CountingReplica.remote(0.1) for _ in range(2)]
    victim = ray.get(replicas[0].pid.remote())
    pool = ReplicaPool(replicas, CALLS, 2, "s")
    batches = consume(pool, disturb=lambda: os.kill(victim, signal.SIGKILL))
    assert_each_call_once(batches)
    assert pool.lost >= 1
    assert ray.get(replicas[0].pid.remote()) != victim


def test_a_hung_replica_is_replaced_after_its_deadline(local_ray, monkeypatch):
    monkeypatch.setattr(module, "CALL_DEADLINE", 12.0)
    replicas = [CountingReplica.remote(0.05) for _ in range(2)]
    pool = ReplicaPool(replicas, CALLS, 2, "s")
    begun = time.monotonic()
    batches = consume(pool, disturb=replicas[1].hang.remote)
    assert_each_call_once(batches)
    assert pool.lost >= 1
    assert time.monotonic() - begun < 120


@ray.remote(num_cpus=0.5, max_restarts=-1)
class DyingReplica:
    """Never answers."""

    def dream(self, call: int, session: str, version: int) -> None:
        os._exit(1)


@ray.remote(num_cpus=0.5)
class RefusingReplica:
    """Meets an error of ours, as one that reads a damaged checkpoint does, behind another actor."""

    def __init__(self, inner=None):
        self.inner = inner

    def dream(self, call: int, session: str, version: int) -> None:
        if self.inner is not None:
            ray.get(self.inner.dream.remote(call, session, version))
        raise UserError("checkpoint x: SHA-256 differs")


def test_replicas_that_only_die_end_the_run(local_ray, monkeypatch):
    monkeypatch.setattr(module, "OUTAGE_LIMIT", 5.0)
    with pytest.raises(RunError, match="update 0: no replica answered"):
        consume(ReplicaPool([DyingReplica.remote()], CALLS, 0, "s"))


def test_an_error_of_ours_comes_out_as_it_was_and_is_not_tried_again(local_ray):
    pool = ReplicaPool([RefusingReplica.remote(RefusingReplica.remote())], CALLS, 0, "s")
    with pytest.raises(UserError) as refusal:
        consume(pool)
    assert str(plain(refusal.value)) == "checkpoint x: SHA-256 differs"
    assert type(plain(refusal.value)) is UserError
    assert pool.lost == 0


def test_only_our_errors_and_full_disks_are_plain():
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    assert plain(ValueError("x")) is None
    assert plain(OSError(errno.EACCES, "Permission denied", "/runs/x")) is None
    assert isinstance(plain(full), RunError)
    assert "/runs/x" in str(plain(full))
