"""What a run asks of a cluster that may grow: it gets what it needs in time or is told why not, and leaves no request behind."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from dreamer_ray.config_file import load_config
from dreamer_ray.distributed import cluster as module
from dreamer_ray.distributed.cluster import require
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import Recipe

TOY = Path(__file__).parents[2] / "configs/crafter/toy.yaml"
TWO_GPUS = ("cluster.workers=2", "cluster.gpus_per_worker=1", "cluster.wait_seconds=0.2")


def recipe(*overrides: str) -> Recipe:
    return load_config(Recipe, TOY, list(overrides))


def requested() -> list[dict]:
    """What the autoscaler of the cluster would read."""
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or b"[]")


@pytest.fixture
def waiting(local_ray, monkeypatch):
    """What was asked for at each look at a cluster that has to grow; ``then`` happens in place of the time between two looks."""
    looks: list[list[dict]] = []

    def begin(then):
        def sleep(_: float) -> None:
            looks.append(requested())
            then(len(looks))

        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))  # Ray's threads sleep as before
        return looks

    return begin


def test_what_a_cluster_has_not_grown_by_in_time_is_no_longer_asked_for(waiting):
    looks = waiting(lambda _: None)
    with pytest.raises(UserError, match=r"needs 2 GPUs .* the cluster has 0 after 0\.2 s"):
        require(recipe(*TWO_GPUS), "dynamics", "GPU")
    assert [bundle for bundle in looks[-1] if "GPU" in bundle] == [{"CPU": 1.0, "GPU": 1.0}] * 2, "as they are to lie on one node"
    assert requested() == []


def test_a_run_that_is_stopped_while_it_waits_asks_for_nothing_any_more(waiting):
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    looks = waiting(stop)
    with pytest.raises(KeyboardInterrupt):
        require(recipe(*TWO_GPUS), "dynamics", "GPU")
    assert looks[0]
    assert requested() == []


def test_what_another_run_has_cleared_is_asked_for_again_until_it_is_there(waiting, monkeypatch):
    def grown(look: int) -> None:
        module.request_resources(bundles=[])
        if look == 2:
            monkeypatch.setattr(module, "_nodes", lambda: [{"CPU": 4.0, "GPU": 2.0}])

    looks = waiting(grown)
    require(recipe(*TWO_GPUS, "cluster.wait_seconds=60"), "dynamics", "GPU")
    assert looks[0] == looks[1] != []
    assert requested() == []


def test_gpus_of_stages_that_are_not_to_be_done_are_not_asked_for(dreamer_run, tmp_path):
    dreamer_run(tmp_path, "--only", "record", "cluster.gpus_per_worker=100")
    assert (tmp_path / "crafter-toy/record/manifest.json").exists()
