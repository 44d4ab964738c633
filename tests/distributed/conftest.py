"""One local Ray for all tests of the layer."""

import pytest
import ray


@pytest.fixture(scope="session")
def local_ray():
    ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
