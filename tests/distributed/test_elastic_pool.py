"""The driver's side of a pool: who cannot run is replaced, who leaves may end what it is at."""

import logging
import time
from collections.abc import Callable, Iterator

import pytest
import ray

from dreamer_ray.distributed import elastic_pool
from dreamer_ray.distributed.board import Board
from dreamer_ray.distributed.elastic_pool import ElasticPool

NOWHERE = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}
"""A runtime environment that no node can set up."""


@ray.remote(num_cpus=0.1, max_restarts=-1)
class Replica:
    """Does nothing, or not even that."""

    def __init__(self, able: bool):
        if not able:
            raise ModuleNotFoundError("No module named 'world'")

    def ready(self) -> bool:
        return True


@pytest.fixture
def elastic(local_ray) -> Iterator[Callable[..., ElasticPool]]:
    begun: list[ElasticPool] = []

    def start(replica: Callable[[int], object], count: int) -> ElasticPool:
        begun.append(ElasticPool(lambda place, number: replica(place), Board.remote(0), count, lambda: None))
        return begun[-1]

    yield start
    for pool in begun:
        pool.end()
        ray.kill(pool.board)


def wait_until(condition: Callable[[], bool]) -> None:
    given_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < given_up
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("unable", "why"),
    [
        (lambda: Replica.remote(False), "ModuleNotFoundError: No module named 'world'"),
        (lambda: Replica.options(runtime_env=NOWHERE).remote(True), "RuntimeEnvSetupError"),
    ],
    ids=["constructor", "runtime environment"],
)
def test_a_replica_that_can_never_start_is_replaced_and_the_reason_said(elastic, monkeypatch, caplog, unable, why):
    monkeypatch.setattr(logging.getLogger("dreamer_ray"), "propagate", True)
    monkeypatch.setattr(elastic_pool, "PAUSE", 0.1)
    begun: list[int] = []

    def start(place: int) -> object:
        begun.append(place)
        return unable() if place == 1 and begun.count(1) < 3 else Replica.remote(True)

    pool = elastic(start, 3)
    first, _, last = pool.replicas
    wait_until(lambda: pool.look() or begun.count(1) == 3)
    assert all(ray.get([replica.ready.remote() for replica in pool.replicas], timeout=60))
    for _ in range(5):
        pool.look()
        time.sleep(0.2)
    assert begun == [0, 1, 2, 1, 1]
    assert (pool.replicas[0], pool.replicas[2]) == (first, last)
    assert ray.get(pool.board.enlisted.remote(), timeout=60) == pool.replicas
    lines = [message for message in caplog.messages if "another one is started again" in message]
    assert [line.split(" is lost ")[0] for line in lines] == ["imagination: replica 1", "imagination: replica 3"]
    assert all(why in line for line in lines)


def test_a_replica_that_is_killed_is_left_to_ray(elastic):
    pool = elastic(lambda place: Replica.remote(True), 1)
    (replica,) = pool.replicas
    assert ray.get(replica.ready.remote(), timeout=60)
    for _ in range(2):
        ray.kill(replica, no_restart=False)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            pool.look()
            time.sleep(0.05)
        assert ray.get(replica.ready.options(max_task_retries=-1).remote(), timeout=60)
    assert pool.places[0].ended == 0
    assert pool.replicas == [replica]


def test_who_leaves_the_pool_lives_on_until_learners_have_heard_of_it(elastic):
    pool = elastic(lambda place: Replica.remote(True), 2)
    stays, leaves = pool.replicas
    assert all(ray.get([stays.ready.remote(), leaves.ready.remote()], timeout=60))
    pool.resize(1)
    assert ray.get(pool.board.enlisted.remote(), timeout=60) == [stays]
    assert ray.get(leaves.ready.remote(), timeout=60)
    pool.look()

    def ended() -> bool:
        try:
            return not ray.get(leaves.ready.remote(), timeout=60)
        except ray.exceptions.ActorDiedError:
            return True

    wait_until(ended)  # a moment after it was told to
    assert ray.get(stays.ready.remote(), timeout=60)


def test_a_board_that_was_lost_hears_again_who_is_in_the_pool(elastic):
    pool = elastic(lambda place: Replica.remote(True), 1)
    ray.kill(pool.board, no_restart=False)
    wait_until(lambda: ray.get(pool.board.enlisted.options(max_task_retries=-1).remote(), timeout=60) is None)
    pool.look()
    wait_until(lambda: ray.get(pool.board.enlisted.remote(), timeout=60) == pool.replicas)
