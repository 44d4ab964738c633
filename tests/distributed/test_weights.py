"""The weight store: references that outlive the learner, memory that does not grow, and a store that was lost."""

import os
import signal

import pytest
import ray
import torch

from dreamer_ray.distributed.weights import MissingWeightsError, ObjectStoreTransport, WeightStore

NOTHING = ("", -1)


@pytest.fixture
def store(local_ray, tmp_path):
    actor = WeightStore.remote(str(tmp_path))
    yield actor
    ray.kill(actor)


@ray.remote(num_cpus=0)
class Publisher:
    def publish(self, store, version):
        ObjectStoreTransport(store).publish("s", version, {"policy.w": torch.full((4,), float(version))})
        return os.getpid()


def test_the_newest_heads_are_found_and_outlive_who_published_them(store):
    learner = Publisher.remote()
    for version in range(5):
        learner_pid = ray.get(learner.publish.remote(store, version))
    os.kill(learner_pid, signal.SIGKILL)
    session, version, heads = ObjectStoreTransport(store).fetch(NOTHING)
    assert (session, version, heads["policy.w"].tolist()) == ("s", 4, [4.0] * 4)
    assert ObjectStoreTransport(store).fetch(("s", 4)) is None


def test_an_empty_store_says_so(store):
    with pytest.raises(MissingWeightsError, match="empty"):
        ObjectStoreTransport(store).fetch(NOTHING)


def test_a_lost_store_starts_again_empty_and_takes_what_is_published(store):
    transport = ObjectStoreTransport(store)
    transport.publish("s", 1, {"policy.w": torch.ones(4)})
    os.kill(ray.get(store.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    with pytest.raises(MissingWeightsError):
        transport.fetch(NOTHING)
    transport.publish("s", 2, {"policy.w": torch.ones(4)})
    assert transport.fetch(NOTHING)[1] == 2


def test_memory_is_flat_over_many_versions(store):
    transport, heads = ObjectStoreTransport(store), {"policy.w": torch.zeros(2**18)}
    used = []
    for version in range(200):
        transport.publish("s", version, heads)
        transport.fetch(NOTHING)
        if version in (20, 199):
            total, free = (resources().get("object_store_memory", 0) for resources in (ray.cluster_resources, ray.available_resources))
            used.append(total - free)
    assert transport.fetch(NOTHING)[1] == 199
    assert used[1] <= used[0] + 4 * 2**20
