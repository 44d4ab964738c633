"""One local Ray for all tests of the layer."""

import os

import pytest
import ray

from dreamer_ray.distributed.cluster import LOOPBACK_ENVIRONMENT


@pytest.fixture(scope="session")
def local_ray():
    os.environ.update(LOOPBACK_ENVIRONMENT)
    ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
