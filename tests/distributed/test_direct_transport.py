"""Weights over links between a learner and replicas: the same bits, the newest version, and the object store while a link is broken."""

import gc
import os
import signal
import sys
import time
import weakref

import pytest
import ray
import torch

from dreamer_ray.distributed import ZERO_COPY_TENSORS
from dreamer_ray.distributed import direct_transport as module
from dreamer_ray.distributed.direct_transport import WEIGHT_THREADS, DirectTransport, WeightSource, weight_transport
from dreamer_ray.distributed.weights import MissingWeightsError, ObjectStoreTransport, WeightStore

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors use functions of this module, which they cannot import
NOTHING = ("", -1)
SMALL = {"num_cpus": 0.5, "runtime_env": ZERO_COPY_TENSORS}


def weights(version: int, scale: int = 1) -> dict[str, torch.Tensor]:
    """Of many kinds: a scalar, an empty one, a transposed one, numbers of other types."""
    draw = torch.Generator().manual_seed(version)
    return {
        "policy.w": torch.randn(64 * scale, 32, generator=draw),
        "policy.t": torch.randn(5, 7, generator=draw).T,
        "value.half": torch.randn(33, generator=draw).bfloat16(),
        "value.count": torch.tensor(version),
        "value.none": torch.zeros(0, 4),
        "value.mask": torch.rand(9, generator=draw) < 0.5,
    }


def bits(found: dict[str, torch.Tensor]) -> list:
    return [(name, tensor.dtype, tensor.float().tolist()) for name, tensor in found.items()]


@ray.remote(**SMALL, **WEIGHT_THREADS)
class Publisher(WeightSource):
    """Publishes while it is asked for weights, in one long call as the learner's."""

    def __init__(self, store):
        self.transport = DirectTransport(store, "gloo", source=self)

        self.published = []

    def publish(self, version, scale=1):
        made = weights(version, scale)
        self.published.append(weakref.ref(made["policy.w"]))
        self.transport.publish("s", version, made)

    def publish_many(self, versions, seconds):
        for version in versions:
            self.publish(version)
            time.sleep(seconds)

    def pid(self):
        return os.getpid()

    def links(self):
        return list(self._links)

    def held(self):
        """How many versions are in memory."""
        gc.collect()
        return sum(made() is not None for made in self.published)

    def forget(self):
        self._links.clear()


@ray.remote(**SMALL, **WEIGHT_THREADS)
class HastyPublisher(Publisher.__ray_actor_class__):
    """Has newer weights, which it has not announced yet, once it has offered the first ones."""

    @ray.method(concurrency_group="weights")
    def offer(self, name):
        layout = super().offer(name)
        self.keep("s", 1, weights(1))
        return layout


@ray.remote(**SMALL, max_restarts=-1)
class Fetcher:
    """A process that fetches as a replica does."""

    def __init__(self, store, pause=0.0):
        module.SECONDS_BETWEEN_MEETINGS = pause
        self.lost, self.known = 0, NOTHING
        self.transport = DirectTransport(store, "gloo", link_lost=self.count)

    def count(self):
        self.lost += 1

    def fetch(self):
        if (found := self.transport.fetch(self.known)) is None:
            return None
        self.known = found[:2]
        return found[1], bits(found[2])

    def watch(self, last):
        """The versions that it sees until the ``last``, each checked."""
        seen = []
        while not seen or seen[-1] < last:
            try:
                found = self.transport.fetch(self.known)
            except MissingWeightsError:
                time.sleep(0.05)
                continue
            if found is not None:
                self.known = found[:2]
                seen.append(found[1])
                assert bits(found[2]) == bits(weights(found[1]))
        return seen

    def state(self):
        return {"linked": self.transport._link is not None, "lost": self.lost, "pid": os.getpid()}


@pytest.fixture
def actors(local_ray, tmp_path):
    begun = [WeightStore.remote(str(tmp_path))]

    def start(kind, *arguments):
        begun.append(kind.remote(begun[0], *arguments))
        return begun[-1]

    start.store = begun[0]
    yield start
    for actor in begun:
        ray.kill(actor)


def get(reference):
    return ray.get(reference, timeout=60)


def test_all_replicas_see_the_same_bits_by_their_links(actors):
    publisher, fetchers = actors(Publisher), [actors(Fetcher) for _ in range(2)]
    for version in range(3):
        get(publisher.publish.remote(version))
        assert get([fetcher.fetch.remote() for fetcher in fetchers]) == [(version, bits(weights(version)))] * 2
    assert get([fetcher.fetch.remote() for fetcher in fetchers]) == [None, None]
    assert all(state["linked"] and state["lost"] == 0 for state in get([fetcher.state.remote() for fetcher in fetchers]))
    assert len(get(publisher.links.remote())) == 2


def test_versions_only_grow_while_the_learner_is_in_one_long_call(actors):
    publisher, fetcher = actors(Publisher), actors(Fetcher)
    publishing = publisher.publish_many.remote(range(200), 0.02)  # long enough for a busy machine to see some of it
    seen = get(fetcher.watch.remote(199))
    get(publishing)
    assert seen == sorted(set(seen))
    assert len(seen) > 3
    assert get(fetcher.state.remote())["lost"] == 0


def test_weights_that_were_offered_in_vain_are_not_held(actors):
    publisher, fetcher = actors(Publisher), actors(Fetcher)
    get(publisher.publish.remote(0))
    get(fetcher.fetch.remote())
    (link,) = get(publisher.links.remote())
    for version in range(1, 4):
        get(publisher.offer.remote(link))  # by a replica that does not wait for the answer
        get(publisher.publish.remote(version))
    assert get(publisher.held.remote()) == 1


def test_what_comes_over_a_link_is_the_newest_version_and_bears_its_number(actors):
    publisher, fetcher = actors(HastyPublisher), actors(Fetcher)
    get(publisher.publish.remote(0))
    assert get(fetcher.fetch.remote()) == (1, bits(weights(1)))
    assert get(fetcher.fetch.remote()) is None, "it has them already, though the store does not know of them"
    assert get(fetcher.state.remote())["lost"] == 0


def test_who_has_no_link_finds_announced_weights_in_the_object_store(actors):
    publisher = actors(Publisher)
    get(publisher.publish.remote(3))
    session, version, found = ObjectStoreTransport(actors.store).fetch(NOTHING)
    assert (session, version, bits(found)) == ("s", 3, bits(weights(3)))
    assert ObjectStoreTransport(actors.store).fetch(("s", 3)) is None


def test_a_replica_that_is_killed_and_comes_back_meets_the_learner_anew_and_costs_the_others_nothing(actors):
    publisher, victim, other = actors(Publisher), actors(Fetcher), actors(Fetcher)
    get(publisher.publish.remote(0))
    get([victim.fetch.remote(), other.fetch.remote()])
    begun = get(victim.state.remote())["pid"]
    publishing = publisher.publish_many.remote(range(1, 60), 0.05)
    watching = other.watch.remote(59)
    os.kill(begun, signal.SIGKILL)
    given_up = time.monotonic() + 60
    while True:
        try:
            version, found = get(victim.fetch.remote())
            break
        except ray.exceptions.RayActorError:
            assert time.monotonic() < given_up
    assert found == bits(weights(version))
    state = get(victim.state.remote())
    assert state["pid"] != begun
    assert (state["linked"], state["lost"]) == (True, 0)
    get(publishing)
    assert get(watching)[-1] == 59
    assert get(other.state.remote())["lost"] == 0


def test_a_replica_killed_in_the_midst_of_a_transfer_leaves_the_learner_alive(actors):
    publisher, victim, other = actors(Publisher), actors(Fetcher), actors(Fetcher)
    get(publisher.publish.remote(0))
    get([victim.fetch.remote(), other.fetch.remote()])
    get(publisher.publish.remote(1, 10_000))  # 80 MB, which take long enough
    begun = get(victim.state.remote())["pid"]
    fetching = victim.fetch.remote()
    time.sleep(0.02)
    os.kill(begun, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        get(fetching)
    get(publisher.publish.remote(2))
    assert get(other.fetch.remote()) == (2, bits(weights(2)))
    assert get(other.state.remote())["lost"] == 0


def test_a_broken_link_is_replaced_by_the_object_store_until_both_meet_again(actors):
    publisher, fetcher = actors(Publisher), actors(Fetcher, 3.0)
    get(publisher.publish.remote(0))
    get(fetcher.fetch.remote())
    get(publisher.forget.remote())
    get(publisher.publish.remote(1))
    assert get(fetcher.fetch.remote()) == (1, bits(weights(1)))
    assert get(fetcher.state.remote())["linked"] is False
    get(publisher.publish.remote(2))
    assert get(fetcher.fetch.remote()) == (2, bits(weights(2)))
    assert get(fetcher.state.remote())["lost"] == 1, "meanwhile the learner is left alone"
    time.sleep(3)
    get(publisher.publish.remote(3))
    assert get(fetcher.fetch.remote()) == (3, bits(weights(3)))
    assert get(fetcher.state.remote())["linked"] is True


def test_a_lost_learner_is_said_and_its_successor_is_met(actors):
    publisher, fetcher = actors(Publisher), actors(Fetcher, 60.0)
    get(publisher.publish.remote(0))
    get(fetcher.fetch.remote())
    get(publisher.publish.remote(1))
    os.kill(get(publisher.pid.remote()), signal.SIGKILL)
    with pytest.raises(MissingWeightsError):
        get(fetcher.fetch.remote())
    successor = actors(Publisher)
    get(successor.publish.remote(1))
    assert get(fetcher.fetch.remote()) == (1, bits(weights(1)))
    assert get(fetcher.state.remote())["linked"] is True


def test_a_store_that_was_lost_hears_of_the_weights_again(actors):
    publisher, fetcher = actors(Publisher), actors(Fetcher)
    get(publisher.publish.remote(0))
    os.kill(get(actors.store.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    with pytest.raises(MissingWeightsError):
        get(fetcher.fetch.remote())
    get(publisher.publish.remote(0))
    assert get(fetcher.fetch.remote()) == (0, bits(weights(0)))


@pytest.mark.parametrize(("backend", "device", "direct"), [("object_store", "cuda", False), ("nccl", "cpu", False), ("gloo", "cpu", True)])
def test_processes_without_a_gpu_take_the_object_store_where_others_have_nccl(actors, backend, device, direct):
    found = weight_transport(backend, actors.store, device=device)
    assert isinstance(found, DirectTransport if direct else ObjectStoreTransport)
