"""The replica pool under loss: every call of every update exactly once and in order, never older than the bound."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from dreamer_ray.distributed import replica_pool as module
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.imagine import useful_replicas
from dreamer_ray.distributed.replica_pool import ReplicaPool
from dreamer_ray.distributed.weights import MissingWeightsError
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.imagination.schedule import Schedule
from dreamer_ray.types import Trajectory

CALLS, STEPS = 2, 12


@ray.remote(num_cpus=0.5, max_restarts=-1)
class CountingReplica:
    """Dreams nothing, but answers with the number of the call and the version it was told."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def ready(self) -> None:
        pass

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
    pool = ReplicaPool([CountingReplica.remote(0.02) for _ in range(2)], Schedule(CALLS, max_lag), "s")
    batches = consume(pool)
    assert_each_call_once(batches)
    lags = [update - batch.version for update, batch in enumerate(batches)]
    assert all(0 <= lag <= max_lag for lag in lags)
    assert max_lag == 0 or max(lags) > 0, "dreams ahead of the learner where it may"


def test_resumes_at_a_later_update(local_ray):
    batches = consume(ReplicaPool([CountingReplica.remote(0.0)], Schedule(CALLS, 1), "s"), start=7)
    assert_each_call_once(batches, start=7)


def test_a_killed_replica_costs_its_call_only(local_ray):
    replicas = [CountingReplica.remote(0.1) for _ in range(2)]
    victim = ray.get(replicas[0].pid.remote())
    pool = ReplicaPool(replicas, Schedule(CALLS, 2), "s")
    batches = consume(pool, disturb=lambda: os.kill(victim, signal.SIGKILL))
    assert_each_call_once(batches)
    assert pool.schedule.lost >= 1
    assert ray.get(replicas[0].pid.options(max_task_retries=-1).remote(), timeout=60) != victim, "it has started again, or will have"


def test_a_hung_replica_is_replaced_after_its_deadline(local_ray):
    replicas = [CountingReplica.remote(0.05) for _ in range(2)]
    ray.get([replica.ready.remote() for replica in replicas])
    pool = ReplicaPool(replicas, Schedule(CALLS, 2), "s", call_seconds=5.0)
    begun = time.monotonic()
    batches = consume(pool, disturb=replicas[1].hang.remote)
    assert_each_call_once(batches)
    assert pool.schedule.lost >= 1
    assert time.monotonic() - begun < 120


@ray.remote(num_cpus=0.5, max_restarts=-1)
class HangingLoader(CountingReplica.__ray_actor_class__):
    """Hangs while it loads, but for its second life."""

    def ready(self) -> None:
        if not ray.get_runtime_context().was_current_actor_reconstructed:
            time.sleep(1e6)


def test_a_replica_that_hangs_while_it_loads_is_replaced_after_its_deadline(local_ray):
    pool = ReplicaPool([HangingLoader.remote(0.01)], Schedule(CALLS, 2), "s", call_seconds=3.0)
    assert_each_call_once(consume(pool))
    assert pool.schedule.lost == 0, "it had no calls yet"


def test_who_has_answered_is_not_taken_for_hung_by_a_learner_that_was_busy(local_ray):
    replicas = [CountingReplica.remote(0.01) for _ in range(2)]
    ray.get([replica.ready.remote() for replica in replicas])
    pool = ReplicaPool(replicas, Schedule(CALLS, 2), "s", call_seconds=0.5)
    pids = ray.get([replica.pid.remote() for replica in replicas])
    batches = []
    for batch in pool.updates(0, STEPS):
        batches.append(batch)
        if len(batches) in (3, 6):
            time.sleep(3)
    assert_each_call_once(batches)
    assert pool.schedule.lost == 0
    assert ray.get([replica.pid.remote() for replica in replicas]) == pids


@ray.remote(num_cpus=0.5, max_restarts=-1)
class DyingReplica:
    """Never answers."""

    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> None:
        os._exit(1)


@ray.remote(num_cpus=0.5)
class RefusingReplica:
    """Meets an error of ours, as one that reads a damaged checkpoint does, behind another actor."""

    def __init__(self, inner=None):
        self.inner = inner

    def ready(self) -> None:
        pass

    def dream(self, call: int, session: str, version: int) -> None:
        if self.inner is not None:
            ray.get(self.inner.dream.remote(call, session, version))
        raise UserError("checkpoint x: SHA-256 differs")


def test_replicas_that_only_die_end_the_run(local_ray, monkeypatch):
    monkeypatch.setattr(module, "OUTAGE_LIMIT", 5.0)
    with pytest.raises(RunError, match="update 0: no replica answered"):
        consume(ReplicaPool([DyingReplica.remote()], Schedule(CALLS, 0), "s"))


def test_an_error_of_ours_comes_out_as_it_was_and_is_not_tried_again(local_ray):
    pool = ReplicaPool([RefusingReplica.remote(RefusingReplica.remote())], Schedule(CALLS, 0), "s")
    with pytest.raises(UserError) as refusal:
        consume(pool)
    assert str(plain(refusal.value)) == "checkpoint x: SHA-256 differs"
    assert type(plain(refusal.value)) is UserError
    assert pool.schedule.lost == 0


def test_a_replica_that_never_starts_is_waited_for_by_nobody(local_ray):
    pending = CountingReplica.options(resources={"nowhere": 1}).remote(0.0)
    pool = ReplicaPool([pending, CountingReplica.remote(0.01)], Schedule(CALLS, 1), "s")
    assert_each_call_once(consume(pool))
    assert (pool.schedule.lost, pool.counts()["replicas"]) == (0, 1.0)
    ray.kill(pending)


def test_all_replicas_lost_and_back(local_ray):
    replicas = [CountingReplica.remote(0.05) for _ in range(2)]
    victims = ray.get([replica.pid.remote() for replica in replicas])
    pool = ReplicaPool(replicas, Schedule(CALLS, 2), "s")
    assert_each_call_once(consume(pool, disturb=lambda: [os.kill(victim, signal.SIGKILL) for victim in victims]))
    assert pool.schedule.lost >= 2
    back = ray.get([replica.pid.options(max_task_retries=-1).remote() for replica in replicas], timeout=60)
    assert not set(back) & set(victims)


@ray.remote(num_cpus=0.5)
class StaleReplica(CountingReplica.__ray_actor_class__):
    """Dreams each call by the first version at first, and only when asked again by the one it was told."""

    def __init__(self):
        super().__init__(0.0)
        self.seen = set()

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        told = version if call in self.seen else 0
        self.seen.add(call)
        return super().dream(call, session, told)


def test_what_is_too_old_when_it_is_to_be_used_is_dropped_and_dreamed_again(local_ray):
    pool = ReplicaPool([StaleReplica.remote()], Schedule(CALLS, 1), "s")
    batches = consume(pool)
    assert_each_call_once(batches)
    assert [update - batch.version for update, batch in enumerate(batches) if update - batch.version > 1] == []
    assert pool.schedule.dropped == CALLS * (STEPS - 2)
    assert pool.schedule.lost == 0


@ray.remote(num_cpus=0.5)
class ForgetfulReplica(CountingReplica.__ray_actor_class__):
    """Finds no weights at every third call."""

    def __init__(self):
        super().__init__(0.0)
        self.asked = 0

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        self.asked += 1
        if self.asked % 3 == 0:
            raise MissingWeightsError("the weight store is empty")
        return super().dream(call, session, version)


@pytest.mark.parametrize(("pause", "times"), [(0.0, CALLS * STEPS // 3), (60.0, 1)])
def test_missing_weights_are_published_again_now_and_then_and_the_call_is_sent_again(local_ray, monkeypatch, pause, times):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_PUBLISHES", pause)
    published = []
    pool = ReplicaPool([ForgetfulReplica.remote()], Schedule(CALLS, 0), "s", publish_again=lambda: published.append(1))
    assert_each_call_once(consume(pool))
    assert len(published) >= times if pause == 0 else len(published) == times
    assert pool.schedule.lost == 0


def test_replicas_come_and_go(local_ray):
    first, second = (CountingReplica.remote(0.03) for _ in range(2))
    members = [first]
    pool = ReplicaPool(members, Schedule(CALLS, 2), "s", look=lambda: members)
    batches = []
    for update, batch in enumerate(pool.updates(0, STEPS)):
        batches.append(batch)
        if update == 3:
            members = [first, second]
        if update == 7:
            members = [second]
            ray.kill(first)
        time.sleep(0.6)  # the pool looks twice a second
    assert_each_call_once(batches)
    assert [seat.actor for seat in pool.seats] == [second]


def test_learners_share_the_calls_of_every_update(local_ray):
    replicas = [CountingReplica.remote(0.0) for _ in range(3)]
    pools = [ReplicaPool(replicas, Schedule(CALLS, 0, share=(rank, 2)), "s") for rank in range(2)]
    assert [len(pool.seats) for pool in pools] == [2, 1]
    for rank, pool in enumerate(pools):
        calls = [int(batch.states[0, 0, 0]) for batch in consume(pool)]
        assert calls == list(range(rank, CALLS * STEPS, CALLS))


@pytest.mark.parametrize(
    ("learner_idle", "replica_idle", "wanted"),
    [
        (0.5, 0.0, 5),
        (0.5, 0.5, 5),
        (0.5, 0.9, 4),
        (0.0, 0.0, 4),
        (0.0, 0.3, 4),
        (0.0, 0.4, 3),
        (0.15, 0.9, 4),
        (0.0, 0.9, 2),
        (1.0, 0.0, 5),
    ],
)
def test_a_pool_grows_where_the_learner_waits_and_shrinks_where_replicas_do(learner_idle, replica_idle, wanted):
    idle = {"learner_idle": learner_idle, "replica_idle": replica_idle, "turns": False}
    assert useful_replicas(4, least=2, most=5, **idle) == wanted
    assert useful_replicas(4, least=4, most=4, **idle) == 4


def test_a_pool_settles():
    """Six replicas of which the learner can use 2.6: the pool stops shrinking, and does not grow again."""
    count, seen = 6, []
    for _ in range(10):
        idle = {"learner_idle": max(0.0, 1 - count / 2.6), "replica_idle": max(0.0, 1 - 2.6 / count)}
        count = useful_replicas(count, least=1, most=6, turns=False, **idle)
        seen.append(count)
    assert len(set(seen[3:])) == 1
    assert seen[-1] in (3, 4)


def test_only_our_errors_and_full_disks_are_plain():
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    assert plain(ValueError("x")) is None
    assert plain(OSError(errno.EACCES, "Permission denied", "/runs/x")) is None
    assert isinstance(plain(full), RunError)
    assert "/runs/x" in str(plain(full))


def test_fast_replicas_that_share_a_gpu_and_a_slow_one_on_a_cpu_make_one_pool():
    script = Path(__file__).with_name("mixed_pool.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in ("mixed", "fast"):
        assert found[kind]["seen"] == list(range(40 * 4))
        assert found[kind]["lost"] == 0
    assert found["third on the GPU"] == 0, "two have the GPU, and the one on a CPU has nothing of it"
    assert found["after the first end"] == [0, 1], "the one on a CPU is the first to end"
    assert found["mixed"]["slow"] <= 2, "no update waits for it, but for the first"
