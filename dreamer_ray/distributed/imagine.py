"""The imagination stage: starts store, replicas and learners, replaces what is lost and keeps the pool as large as it is useful.

driver --starts, replaces--> Learner x N, WorldModelReplica x M        Learner --idle shares--> Board --> driver --grows, shrinks--> pool
evaluators beside them play with the newest weights: rounds.py
"""

import itertools
import logging
import math
import time
import uuid
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.distributed.board import answer, raise_failure, watched
from dreamer_ray.distributed.cluster import here, require
from dreamer_ray.distributed.elastic_pool import ElasticPool
from dreamer_ray.distributed.failures import in_a_line, plain
from dreamer_ray.distributed.learner import Learner, silent_seconds
from dreamer_ray.distributed.replicas import device_of, start_replica
from dreamer_ray.distributed.restarts import Restarts, newest_step
from dreamer_ray.distributed.rounds import rounds_played, start_evaluator
from dreamer_ray.distributed.telemetry import exporter
from dreamer_ray.distributed.train import figures
from dreamer_ray.distributed.weights import STORE, WeightStore
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import REHEARSAL, dreams_of, feed, trained

log = logging.getLogger("dreamer_ray")

SECONDS_BETWEEN_LOOKS = 5.0
PLACING_SECONDS = 60.0
"""How long a cluster that is large enough may take to place the learners."""


def imagine_and_learn(recipe: Recipe, run: Path, progress: Progress) -> dict[str, Any]:
    """Trains the heads, or the whole agent, on dreams; a lost learner is replaced, with its group, and goes on from the last checkpoint."""
    cluster = recipe.cluster
    require(recipe, "imagination", "CPU")
    whole = dreams_of(recipe).finetune == "all"
    for source in ("imagination", REHEARSAL) if whole else ("imagination",):
        feed(source, recipe, run)  # what is wrong with the data is said here, before any actor starts
    made_by = trained(run, "agent").made_by
    places = _places(recipe)
    store: Actor = WeightStore.options(name=STORE, scheduling_strategy=here()).remote(str(run))
    evaluators = itertools.count()
    with watched(progress, run / "imagination" / "checkpoints") as board:

        def start(place: int, number: int) -> Actor:
            return start_replica(number, recipe, run, made_by, device=device_of(place, cluster))

        def lost() -> None:
            exporter(recipe.name, "imagination").add("restarts", part="replica")

        pool = ElasticPool(start, board, cluster.dreaming_replicas, lost)
        try:
            with rounds_played(recipe, run, lambda: start_evaluator(next(evaluators), recipe, run, made_by)):
                counts = _supervise(recipe, run, pool, store, board, places)
                raise_failure(board)
        finally:
            pool.end()
            ray.kill(store)
            remove_placement_group(places)
    return counts | figures("imagination", trained(run, "imagination"), dreams_of(recipe).fit.steps)


def useful_replicas(count: int, *, least: int, most: int, learner_idle: float, replica_idle: float, turns: bool) -> int:
    """How many replicas there should be, from the shares of time in which the learner and a replica of ``count`` had nothing to do.

    One more while the learner waits for dreams though replicas are busy then. Fewer while it does not wait, but so many that it will not:
    by as many as the idle time of all is worth, but for half a replica's, so that it settles. Where learner and replicas take ``turns``
    (``max_lag`` 0) each is idle while the other is not, which is worth nothing.
    """
    if learner_idle > WAITS:
        # While the learner does not wait all may be idle, since it is not their turn or nobody sends them calls: the rest counts.
        idle = max(0.0, replica_idle + learner_idle - 1) / learner_idle
        wanted = count + (idle < IDLES)
    else:
        wait = count * learner_idle / (1 - learner_idle)  # with one replica, in times of the learner's own work
        for_waits = math.ceil(wait * (1 - FEW_WAITS) / FEW_WAITS - 1e-6)
        for_work = 0 if turns else count - max(0, int(replica_idle * count - 0.5))
        wanted = min(count, max(for_waits, for_work))
    return max(least, min(most, wanted))


WAITS, FEW_WAITS = 0.2, 0.1
"""Shares of time from which a learner counts as waiting, and which it may wait after the pool was made smaller."""
IDLES = 0.5
"""Share of the waits up to which replicas count as busy; where they share the last calls of a turn some end before others."""


def _places(recipe: Recipe) -> PlacementGroup:
    """Room for all learners, taken before replicas could take it and kept while one is replaced."""
    cluster = recipe.cluster
    places = placement_group([{"CPU": 1.0} | ({"GPU": cluster.gpus_per_learner} if cluster.gpus_per_learner else {})] * cluster.learners)
    seconds = max(PLACING_SECONDS, cluster.wait_seconds)
    if not places.wait(seconds):
        remove_placement_group(places)
        raise UserError(
            f"stage imagination: no node had room for cluster.learners = {cluster.learners} with a CPU and cluster.gpus_per_learner = "
            f"{cluster.gpus_per_learner:g} each within {seconds:.0f} s; free some, or let the cluster grow: cluster.wait_seconds"
        )
    return places


def _supervise(recipe: Recipe, run: Path, pool: ElasticPool, store: Actor, board: Actor, places: PlacementGroup) -> dict[str, Any]:
    text, ranks, checkpoints = recipe.model_dump_json(), range(recipe.cluster.learners), run / "imagination" / "checkpoints"
    restarts, why = Restarts(newest_step(checkpoints)), ""
    while not restarts.too_many:
        learners: list[Actor] = [
            Learner.options(
                name=f"learner-{rank}-{restarts.all}",
                num_gpus=recipe.cluster.gpus_per_learner,
                scheduling_strategy=PlacementGroupSchedulingStrategy(places, rank),
            ).remote(text, str(run), rank)
            for rank in ranks
        ]
        try:
            address, session = _address(learners, pool), uuid.uuid4().hex
            found = _attend(
                [learner.run.remote(session, pool.replicas, store, board, address) for learner in learners], recipe, pool, board
            )
            return {name: sum(part.get(name, 0) for part in found) for name in found[0]} | {"learner_restarts": restarts.all}
        except _LearnerLostError as error:
            exporter(recipe.name, "imagination").add("restarts", part="learner")
            restarts.count(step := newest_step(checkpoints))
            why = str(error)
            log.warning("imagination: %s; %s", why, "given up" if restarts.too_many else f"started again from step {step}")
        finally:
            for learner in learners:
                ray.kill(learner)
    raise RunError(
        f"imagination: the learner was lost {restarts.in_vain} times without a new checkpoint, last: {why}; run again to resume from the "
        "last one"
    )


def _address(learners: list[Actor], pool: ElasticPool) -> tuple[str, int] | None:
    """Where learners meet, None of one; says so where they wait for room. Raises ``_LearnerLostError``."""
    starting, asked = [learner.__ray_ready__.remote() for learner in learners], time.monotonic()
    while ray.wait(starting, num_returns=len(starting), timeout=PLACING_SECONDS)[1]:
        log.warning("imagination: learners wait for room or to start, for %.0f s so far", time.monotonic() - asked)
        pool.look()
    _raise_loss(starting, starting)
    if len(learners) == 1:
        return None
    try:
        return ray.get(learners[0].address.remote(), timeout=PLACING_SECONDS)
    except RayError as error:  # also that there was no answer
        raise _LearnerLostError(0, in_a_line(error)) from error


def _attend(running: list[Any], recipe: Recipe, pool: ElasticPool, board: Actor) -> list[dict[str, int]]:
    """Waits for all learners and resizes the pool meanwhile. Raises ``_LearnerLostError`` where one is lost, whatever the others say."""
    waiting, seen, limit = list(running), 0, silent_seconds(recipe.cluster)
    pulse, heard = {}, time.monotonic()
    while waiting:
        done, waiting = ray.wait(waiting, timeout=SECONDS_BETWEEN_LOOKS)
        if done:
            raise_failure(board)
            _raise_loss(running, done)
        if (beats := answer(board.pulse.remote)) != pulse:
            pulse, heard = beats, time.monotonic()
        elif time.monotonic() - heard > limit:
            raise _LearnerLostError(0, f"no update for {limit:.0f} s, taken for hung: it takes longer? raise cluster.call_seconds")
        pool.look()
        seen = _resize(pool, recipe, answer(board.read.remote), seen)
    return ray.get(running)


def _resize(pool: ElasticPool, recipe: Recipe, state: tuple[int, dict[str, float]], seen: int) -> int:
    """Makes the pool as large as is useful by what the board says, if that is newer than ``seen``; what has been seen then."""
    cluster, dreams, (updates, figures) = recipe.cluster, dreams_of(recipe), state
    if cluster.least_replicas == cluster.dreaming_replicas or updates <= seen or "learner_idle" not in figures:
        return seen
    count, idle = len(pool.replicas), {name: figures[name] for name in ("learner_idle", "replica_idle")}
    calls = dreams.contexts.batch_size // dreams.dreams_per_call * (dreams.max_lag + 1)  # to more there is nothing to give
    most = min(cluster.dreaming_replicas, calls)
    wanted = useful_replicas(count, least=cluster.least_replicas, most=most, turns=dreams.max_lag == 0, **idle)
    if wanted != count:
        pool.resize(wanted)
    return updates


class _LearnerLostError(Exception):
    def __init__(self, rank: int, why: str):
        super().__init__(f"learner {rank} is lost ({why})")


def _raise_loss(running: list[Any], done: list[Any]) -> None:
    """Raises ``_LearnerLostError`` where one of ``done`` has failed, with the error behind all others, and an error of ours as it is."""
    if not any(_failed(reference) for reference in done):
        return
    # That one was lost may come a moment after the others have missed it.
    ended, _ = ray.wait(running, num_returns=len(running), timeout=SECONDS_BETWEEN_LOOKS)
    errors = [(rank, error) for rank, error in ((running.index(each), _failed(each)) for each in ended) if error is not None]
    for _, error in errors:
        if (ours := plain(error)) is not None:
            raise ours from error
    rank, error = min(errors, key=lambda each: (_misses_another(each[1]), not isinstance(each[1], LOST)))
    raise _LearnerLostError(rank, in_a_line(error)) from error


def _misses_another(error: RayError) -> bool:
    """Whether a learner failed since another of its group did not answer; Gloo says so with a RuntimeError."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _failed(reference: Any) -> RayError | None:
    try:
        ray.get(reference)
    except RayError as error:
        return error
    return None
