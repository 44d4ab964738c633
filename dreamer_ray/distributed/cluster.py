"""Joining the cluster of RAY_ADDRESS, or starting a local Ray on the loopback interface.

driver --init--> [RAY_ADDRESS set: that cluster] | [else: a Ray of its own, ended with the driver]
"""

import logging
import os
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources
from ray.data import DataContext
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dreamer_ray.cluster_section import LEAST_OBJECT_STORE_MB, REPLICA_RESOURCE, ClusterSection
from dreamer_ray.distributed.authentication import refused, required_mode
from dreamer_ray.distributed.demand import Demand, Shortage, demands
from dreamer_ray.distributed.head import head_required, knock
from dreamer_ray.errors import UserError
from dreamer_ray.loopback import named_cluster
from dreamer_ray.recipe import Recipe

log = logging.getLogger("dreamer_ray")

LOCAL_ENVIRONMENT = {"RAY_prestart_worker_first_driver": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""No idle worker processes beforehand, and none that waits for the machine to be taken away: their imports slow the start of a stage."""
SECONDS_BETWEEN_LOOKS = 5.0
LEAST_CPUS = 4
"""Declared by a local Ray even where there are fewer: one each for the learner and two replicas, and one for what comes beside them."""
NO_NODE_HERE = "No node info found"
"""In Ray's message where no process on this machine is a node of the cluster."""


@contextmanager
def cluster(recipe: Recipe, stages: Collection[str]) -> Iterator[None]:
    """A connected Ray inside the ``with``; shut down or left behind it. It has what ``stages``, which are to be done, need beside CPUs."""
    _quiet()
    if address := named_cluster():
        _join(address)
    else:
        _start(recipe.cluster)
    try:
        for stage in [stage for stage in demands(recipe) if stage in stages]:
            require(recipe, stage, "GPU", REPLICA_RESOURCE)
        with head_required():
            yield
    finally:
        ray.shutdown()


def _quiet() -> None:
    """Our own progress lines take the place of Ray Data's; the zero-copy tensors that workers get are only read."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars, context.raise_original_map_exception = False, True
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def _join(address: str) -> None:
    required_mode()
    listens = False
    try:
        listens = knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (AuthenticationError, OSError, OverflowError, RuntimeError, ValueError) as error:
        raise _not_joined(address, error, listens=listens) from error
    request_resources(bundles=[])  # what a run that was killed while it waited has left keeps nodes up for ever
    there = ray.cluster_resources().get("object_store_memory", 0) / 2**20
    if there < LEAST_OBJECT_STORE_MB:
        raise UserError(
            f"RAY_ADDRESS = {address}: the object stores of this cluster have {there:.0f} MiB together, {LEAST_OBJECT_STORE_MB} are the "
            "least; start its nodes with a larger --object-store-memory"
        )
    log.info("joined the Ray cluster at %s: %s", address, _resources())


def _not_joined(address: str, error: Exception, *, listens: bool) -> UserError:
    """To Ray a token that is not taken is a failed connection too, and so, after a minute, is a machine where it finds no node."""
    if isinstance(error, RuntimeError) or NO_NODE_HERE in str(error.__cause__):
        reason = " ".join(str(error.__cause__ or error).split())
        return UserError(
            f"RAY_ADDRESS = {address}: cannot be joined from here ({reason}); a run joins on a node of the cluster, with the Ray and the "
            "Python of that node; from elsewhere: dreamer-ray submit RECIPE --address HOST:8265 --runs DIR"
        )
    if listens or isinstance(error, AuthenticationError):
        return refused(f"RAY_ADDRESS = {address}", error)
    return UserError(f"RAY_ADDRESS = {address}: no Ray cluster answers there; start one, or unset it to use this machine")


def _start(config: ClusterSection) -> None:
    os.environ.update(LOCAL_ENVIRONMENT)
    free = os.statvfs("/dev/shm")
    available = free.f_bavail * free.f_frsize // 2**20
    if available < config.object_store_mb:
        raise UserError(
            f"cluster.object_store_mb = {config.object_store_mb}: /dev/shm has {available} MiB free; "
            f"lower the key ({LEAST_OBJECT_STORE_MB} is the least) or enlarge /dev/shm"
        )
    context = ray.init(
        address="local",
        num_cpus=config.cpus or max(LEAST_CPUS, os.cpu_count() or 1),
        include_dashboard=config.dashboard,
        dashboard_host="127.0.0.1",
        object_store_memory=config.object_store_mb * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    board = f", dashboard http://{context.dashboard_url}" if context.dashboard_url else ""
    log.info("started a local Ray: %s%s", _resources(), board)


def _resources() -> str:
    total = ray.cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs, object store {total.get('object_store_memory', 0) / 2**20:.0f} MiB"


def require(recipe: Recipe, stage: str, *kinds: str) -> None:
    """Raises ``UserError`` where the cluster does not give the actors of a stage that take a resource of ``kinds`` all they take in time.

    Ray itself would wait for ever.
    """
    demand, seconds = demands(recipe)[stage].of(*kinds), recipe.cluster.wait_seconds
    shortage = demand.shortage(_nodes())
    if shortage and seconds:
        shortage = _grow(demand, seconds)
    if shortage:
        waited = f" after {seconds:g} s" if seconds else ""
        raise UserError(f"{shortage.need}{waited}; {shortage.remedy}, or let it grow: cluster.wait_seconds")


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _grow(demand: Demand, seconds: float) -> Shortage | None:
    """Asks an autoscaler, and takes the request back whatever comes: else nodes stay up for nobody."""
    given_up, bundles = time.monotonic() + seconds, [bundle for asked in demand.asked for bundle in asked.bundles]
    try:
        while (shortage := demand.shortage(_nodes())) and time.monotonic() < given_up:
            request_resources(bundles=bundles)  # each time: a cluster has one request, and another run may clear it
            log.info("%s; waiting for it to grow", shortage.need)
            time.sleep(min(SECONDS_BETWEEN_LOOKS, seconds))
        return shortage
    finally:
        request_resources(bundles=[])


def here() -> NodeAffinitySchedulingStrategy:
    """For small actors that must not go with a node that is taken away: on that of the driver, with which they may go."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
