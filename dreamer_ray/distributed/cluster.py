"""Joining the cluster of RAY_ADDRESS, or starting a local Ray on the loopback interface.

driver --init--> [RAY_ADDRESS set: that cluster] | [else: a Ray of its own, ended with the driver]
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources
from ray.data import DataContext
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dreamer_ray.cluster_section import LEAST_OBJECT_STORE_MB, REPLICA_RESOURCE, ClusterSection
from dreamer_ray.distributed.authentication import refused, required_mode
from dreamer_ray.distributed.demand import demands
from dreamer_ray.distributed.head import head_required, knock
from dreamer_ray.errors import UserError
from dreamer_ray.loopback import named_cluster
from dreamer_ray.recipe import Recipe

log = logging.getLogger("dreamer_ray")

LOCAL_ENVIRONMENT = {"RAY_prestart_worker_first_driver": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""No idle worker processes beforehand, and none that waits for the machine to be taken away: their imports slow the start of a stage."""
SECONDS_BETWEEN_LOOKS = 5.0
REMEDIES = {
    "CPU": "raise cluster.cpus or lower these keys",
    "GPU": "lower these keys or their gpus_per_ (0 leaves them on CPUs), add GPUs",
    REPLICA_RESOURCE: f"start nodes with --resources='{{\"{REPLICA_RESOURCE}\": N}}', set cluster.dedicated_replicas=false",
}
LEAST_CPUS = 4
"""Declared by a local Ray even where there are fewer: one each for the learner and two replicas, and one for what comes beside them."""


@contextmanager
def cluster(recipe: Recipe) -> Iterator[None]:
    """A connected Ray inside the ``with``; shut down or left behind it."""
    _quiet()
    if address := named_cluster():
        _join(address)
    else:
        _start(recipe.cluster)
    try:
        for stage in demands(recipe):
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
    try:
        knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(f"RAY_ADDRESS = {address}: no Ray cluster answers there; start one, or unset it to use this machine") from error
    except AuthenticationError as error:
        raise refused(f"RAY_ADDRESS = {address}", error) from error
    request_resources(bundles=[])  # what a run that was killed while it waited has left keeps nodes up for ever
    there = ray.cluster_resources().get("object_store_memory", 0) / 2**20
    if there < LEAST_OBJECT_STORE_MB:
        raise UserError(
            f"RAY_ADDRESS = {address}: the object stores of this cluster have {there:.0f} MiB together, {LEAST_OBJECT_STORE_MB} are the "
            "least; start its nodes with a larger --object-store-memory"
        )
    log.info("joined the Ray cluster at %s: %s", address, _resources())


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
    """Raises ``UserError`` where the cluster does not give a stage the resources of ``kinds`` in time; Ray itself would wait for ever."""
    demand = demands(recipe)[stage]
    for kind in kinds:
        _require(recipe.cluster, kind, demand.total(kind), demand.words(kind), REMEDIES[kind])


def here() -> NodeAffinitySchedulingStrategy:
    """For small actors that must not go with a node that is taken away: on that of the driver, with which they may go."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _require(config: ClusterSection, kind: str, wanted: float, need: str, remedy: str) -> None:
    """Asks an autoscaler, where ``config`` gives it time, and takes the request back whatever comes: else nodes stay up for nobody."""
    given_up = time.monotonic() + config.wait_seconds
    try:
        while (there := ray.cluster_resources().get(kind, 0)) < wanted:
            if time.monotonic() >= given_up:
                waited = f" after {config.wait_seconds:g} s" if config.wait_seconds else ""
                raise UserError(f"{need}, the cluster has {there:g}{waited}; {remedy}, or let it grow: cluster.wait_seconds")
            request_resources(bundles=[{kind: 1}] * math.ceil(wanted))  # each time: one cluster has one request, and others may clear it
            log.info("%s, the cluster has %g; waiting for it to grow", need, there)
            time.sleep(min(SECONDS_BETWEEN_LOOKS, config.wait_seconds))
    finally:
        if config.wait_seconds:
            request_resources(bundles=[])
