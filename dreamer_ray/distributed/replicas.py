"""The pool of world-model replicas: numbered calls out, trajectories back in order, lost and hung replicas replaced.

    Learner asks for update u --submit calls while u - done <= max_lag--> WorldModelReplica.dream(call) --> Trajectory
    a replica takes the newest heads from the WeightStore when told of a newer version; what unblocks the learner is ray.wait

A call is pure given the heads: a lost one is simply sent again, so every context is dreamed and used once.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray.exceptions import RayActorError

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.errors import RunError
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import Dreamer, join
from dreamer_ray.training.restore import build_agent
from dreamer_ray.types import Trajectory

IN_FLIGHT_PER_REPLICA = 2
CALL_DEADLINE = 300.0
"""Seconds after which a silent replica is taken for hung."""
OUTAGE_LIMIT = 600.0
"""Seconds without any trajectory after which the run fails."""


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, runtime_env=ZERO_COPY_TENSORS)
class WorldModelReplica:
    """Holds the frozen world model and the newest heads; one call dreams one batch of whole rollouts."""

    def __init__(self, number: int, recipe: str, run: str, made_by: dict[str, Any], store: Actor):
        torch.set_num_threads(1)
        self.number, self.store, self.session, self.version = number, store, "", -1
        self.recipe, self.run, self.made_by = Recipe.model_validate_json(recipe), Path(run), made_by
        self.dreamer: Dreamer | None = None

    def dream(self, call: int, session: str, version: int) -> Trajectory:
        """The rollouts of ``call``, by heads at least as new as ``version`` of ``session``."""
        self.dreamer = self.dreamer or self._dreamer()
        if (self.session, self.version) != (session, version):
            self.session, self.version, reference = ray.get(self.store.latest.remote())
            self.dreamer.agent.load_head_weights(ray.get(reference[0]))
        return self.dreamer.dream(call, self.version)

    def _dreamer(self) -> Dreamer:
        """Made by the first call and not with the actor, whose errors would lose their type."""
        agent = build_agent(self.made_by)
        agent.load_state_dict(ray.get(ray.get(self.store.frozen.remote())[0]))
        return Dreamer(self.recipe, self.run, agent.requires_grad_(False).eval())

    def __repr__(self) -> str:
        return f"WorldModelReplica({self.number}, version={self.version})"


@dataclass
class ReplicaPool:
    """Keeps replicas busy with the calls of the next updates and hands out trajectories update by update."""

    replicas: list[Actor]
    calls_per_update: int
    max_lag: int
    session: str
    lost: int = 0
    """Calls that were sent again."""
    flying: dict[ObjectRef, tuple[int, Actor, float]] = field(default_factory=dict)
    finished: dict[int, Trajectory] = field(default_factory=dict)

    def updates(self, start: int, steps: int) -> Iterator[Trajectory]:
        """The batches of updates ``start .. steps-1``; asking for update u says that version u has been published."""
        self.waiting = list(range(start * self.calls_per_update, steps * self.calls_per_update))
        for update in range(start, steps):
            calls = range(update * self.calls_per_update, (update + 1) * self.calls_per_update)
            heard = time.monotonic()
            while not all(call in self.finished for call in calls):
                self._submit(update)
                if self._collect():
                    heard = time.monotonic()
                elif time.monotonic() - heard > OUTAGE_LIMIT:
                    raise RunError(f"imagination, update {update}: no replica answered for {OUTAGE_LIMIT:.0f} s; see the Ray dashboard")
            self._submit(update)
            yield join([self.finished.pop(call) for call in calls])

    def _submit(self, version: int) -> None:
        last = (version + self.max_lag + 1) * self.calls_per_update
        busy = {id(replica): 0 for replica in self.replicas}
        for _, replica, _ in self.flying.values():
            busy[id(replica)] += 1
        while self.waiting and self.waiting[0] < last:
            replica = min(self.replicas, key=lambda r: busy[id(r)])
            if busy[id(replica)] >= IN_FLIGHT_PER_REPLICA:
                return
            call = self.waiting.pop(0)
            reference = replica.dream.remote(call, self.session, version)
            self.flying[reference] = (call, replica, time.monotonic() + CALL_DEADLINE * (1 + busy[id(replica)]))
            busy[id(replica)] += 1

    def _collect(self) -> bool:
        before = len(self.finished)
        ready, _ = ray.wait(list(self.flying), timeout=1.0)
        for reference in ready:
            call, _, _ = self.flying.pop(reference)
            try:
                self.finished[call] = ray.get(reference)
            except RayActorError:
                self._again(call)
        now = time.monotonic()
        for reference, (call, replica, deadline) in list(self.flying.items()):
            if now > deadline:
                ray.kill(replica, no_restart=False)
                del self.flying[reference]
                self._again(call)
        return len(self.finished) > before

    def _again(self, call: int) -> None:
        self.lost += 1
        self.waiting = sorted([call, *self.waiting])
