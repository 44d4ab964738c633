"""Where weights live: one small actor owns every reference, so that a killed learner takes none along.

Learner --publish(session, version, heads)--> WeightStore <--latest / frozen-- WorldModelReplica
Learner --announce(session, version)--> WeightStore, which asks the learner for the weights when somebody wants them from here

A store that was lost starts again empty: whoever asks it then says so (``MissingWeightsError``), and the learner publishes again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError
from torch import Tensor

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.errors import RunError
from dreamer_ray.stages import trained
from dreamer_ray.training.restore import restore_agent

Weights = dict[str, Tensor]
STORE = "weight-store"
"""Name of the store of a run."""
KEPT_VERSIONS = 2
EMPTY = "the weight store is empty"
STORE_SECONDS = 60.0
"""How long a store may need to start again."""
FROZEN_THREAD: dict[str, Any] = {"concurrency_groups": {"frozen": 1}}
"""Reading a large agent must not hold up those who publish."""
FROZEN_SECONDS = 600.0
"""How long it may take to read the agent and to bring it to a node."""


class MissingWeightsError(RunError):
    """The weights are not where they should be, since what held them was lost; they can be had again."""


class WeightTransport(Protocol):
    """The way of weights from the learner to the replicas."""

    def publish(self, session: str, version: int, heads: Weights) -> None:
        """Makes the heads of one version the newest; ``session`` names the learner's life, since a restarted learner may go back."""
        ...

    def fetch(self, known: tuple[str, int]) -> tuple[str, int, Weights] | None:
        """Session, version and values (to be read only) of the newest heads, None where these are ``known``.

        Raises ``MissingWeightsError``.
        """
        ...

    def frozen(self) -> Weights:
        """The agent of the run, to be read only. Raises ``MissingWeightsError``."""
        ...


@dataclass(frozen=True)
class Source:
    """Who gives the newest weights to those that ask for them."""

    actor: Actor
    """Its method ``snapshot`` returns session, version and weights."""
    address: tuple[str, int]
    """Where others meet it for a process group."""


@ray.remote(num_cpus=0, max_restarts=-1, runtime_env=ZERO_COPY_TENSORS, **FROZEN_THREAD)
class WeightStore:
    """Holds the agent of the run in folder ``run`` once, frozen, and the newest versions of the head weights."""

    def __init__(self, run: str):
        self.run = Path(run)
        self.frozen_ref: ObjectRef | None = None
        self.versions: list[tuple[str, int, ObjectRef | None]] = []
        self.source: Source | None = None

    def publish(self, session: str, version: int, heads: Weights) -> None:
        """Takes the heads of one version."""
        self._add(session, version, ray.put((session, version, heads)))

    def announce(self, session: str, version: int, source: Source) -> None:
        """Takes note of one version, which ``source`` gives to whom it is asked by."""
        self.source = source
        self._add(session, version, None)

    def newest(self) -> tuple[str, int, Source | None] | None:
        """Session and version of the newest heads and who gives them, if anybody but this store; None before the first."""
        return (*self.versions[-1][:2], self.source) if self.versions else None

    def latest(self) -> tuple[str, int, list[Any]] | None:
        """Session, version and (in a list, so that it is not fetched here) the reference of the newest heads; None before the first.

        It leads to session, version (those or newer ones) and heads.
        """
        if not self.versions:
            return None
        session, version, reference = self.versions[-1]
        if reference is None and self.source is not None:
            reference = self.source.actor.snapshot.remote()
            self.versions[-1] = session, version, reference
        return session, version, [reference]

    def _add(self, *version: Any) -> None:
        self.versions = [*self.versions, version][-KEPT_VERSIONS:]

    @ray.method(concurrency_group="frozen")
    def frozen(self) -> list[ObjectRef]:
        """The reference of the frozen weights, in a list."""
        if self.frozen_ref is None:
            self.frozen_ref = ray.put(restore_agent(trained(self.run, "agent")).state_dict())
        return [self.frozen_ref]

    def __repr__(self) -> str:
        return "WeightStore"


class ObjectStoreTransport:
    """Weights through Ray's object store: one copy a node, which all replicas there read."""

    def __init__(self, store: Actor):
        self.store = store

    def publish(self, session: str, version: int, heads: Weights) -> None:
        """Waits for a store that starts again. Raises ``RunError`` where it does not."""
        self._tell(lambda: self.store.publish.remote(session, version, heads))

    def announce(self, session: str, version: int, source: Source) -> None:
        """Like ``publish``, but the weights stay with ``source`` until somebody asks for them."""
        self._tell(lambda: self.store.announce.remote(session, version, source))

    def newest(self) -> tuple[str, int, Source | None]:
        """Session and version of the newest heads and who gives them. Raises ``MissingWeightsError``."""
        try:
            found: Any = ray.get(self.store.newest.remote(), timeout=STORE_SECONDS)
        except (RayActorError, GetTimeoutError) as error:
            raise MissingWeightsError(f"the weight store is lost ({error})") from error
        if found is None:
            raise MissingWeightsError(EMPTY)
        return found

    def fetch(self, known: tuple[str, int]) -> tuple[str, int, Weights] | None:
        """Through a reference of the store."""
        try:
            found = ray.get(self.store.latest.remote(), timeout=STORE_SECONDS)
            if found is None:
                raise MissingWeightsError(EMPTY)
            session, version, (reference,) = found
            return None if (session, version) == known else ray.get(reference, timeout=STORE_SECONDS)
        except (RayActorError, ObjectLostError, GetTimeoutError) as error:
            raise MissingWeightsError(f"the newest weights are lost ({error})") from error

    def _tell(self, send: Callable[[], ObjectRef]) -> None:
        given_up = time.monotonic() + STORE_SECONDS
        while True:
            try:
                ray.get(send(), timeout=STORE_SECONDS)
            except (RayActorError, GetTimeoutError) as error:
                if time.monotonic() > given_up:
                    raise RunError(
                        f"the weight store has not answered for {STORE_SECONDS:.0f} s ({error}); see the Ray dashboard"
                    ) from error
                time.sleep(0.2)
            else:
                return

    def frozen(self) -> Weights:
        """Through a reference of the store, which reads the run's checkpoint where it has none."""
        try:
            (reference,) = ray.get(self.store.frozen.remote(), timeout=FROZEN_SECONDS)
            return ray.get(reference, timeout=FROZEN_SECONDS)
        except (RayActorError, ObjectLostError, GetTimeoutError) as error:
            raise MissingWeightsError(f"the frozen weights are lost ({error})") from error
