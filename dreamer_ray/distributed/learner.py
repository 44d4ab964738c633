"""The learner of imagination training: ``fit`` over the trajectories of the pool, publishing its heads after every update.

ReplicaPool --Trajectory--> fit(ImaginationTraining) --heads, version = updates done--> WeightStore --> replicas
"""

import uuid
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError

from dreamer_ray.distributed import ZERO_COPY_TENSORS, Actor
from dreamer_ray.distributed.board import note_failure, raise_failure, watched
from dreamer_ray.distributed.cluster import require_cpus
from dreamer_ray.distributed.replicas import ReplicaPool, WorldModelReplica
from dreamer_ray.distributed.weights import Weights, WeightStore
from dreamer_ray.errors import DreamerError, RunError
from dreamer_ray.phases.imagination_training import ImaginationTraining
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import feed, imagination, trained
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.metrics import FileSink

LEARNER_RESTARTS = 10


def imagine_and_learn(recipe: Recipe, run: Path, progress: Progress) -> dict[str, Any]:
    """The imagination stage: starts store, replicas and learner; a lost learner is replaced and goes on from its last checkpoint."""
    require_cpus(recipe.cluster.replicas + 1, f"imagination with cluster.replicas = {recipe.cluster.replicas}")
    feed("imagination", recipe, run)  # what is wrong with the data is said here, before any actor starts
    checkpoint = trained(run, "agent")
    text = recipe.model_dump_json()
    store: Actor = WeightStore.options(name="weight-store").remote(str(run))
    replicas: list[Actor] = [
        WorldModelReplica.options(name=f"replica-{i}", num_gpus=recipe.cluster.gpus_per_replica).remote(
            i, text, str(run), checkpoint.made_by, store
        )
        for i in range(recipe.cluster.replicas)
    ]
    with watched(progress, run / "imagination" / "checkpoints") as board:
        figures = _supervise(text, str(run), replicas, store, board)
        raise_failure(board)
    for actor in [*replicas, store]:
        ray.kill(actor)
    checkpoint = trained(run, "imagination")
    return figures | {"checkpoint": checkpoint.fingerprint, "steps": checkpoint.step}


def _supervise(recipe: str, run: str, replicas: list[Actor], store: Actor, board: Actor) -> dict[str, Any]:
    for restarts in range(LEARNER_RESTARTS + 1):
        learner: Actor = Learner.options(name=f"learner-{restarts}").remote(recipe, run)
        try:
            lost = ray.get(learner.run.remote(replicas, store, board))
            ray.kill(learner)
            return {"lost_calls": lost, "learner_restarts": restarts}
        except RayActorError:
            continue
    raise RunError(f"imagination: the learner was lost {LEARNER_RESTARTS + 1} times; the run resumes from its last checkpoint")


@ray.remote(num_cpus=1, runtime_env=ZERO_COPY_TENSORS)
class Learner:
    """Owns the policy and value heads in training."""

    def __init__(self, recipe: str, run: str):
        torch.set_num_threads(1)
        self.recipe, self.run_folder = Recipe.model_validate_json(recipe), Path(run)

    def run(self, replicas: list[Actor], store: Actor, board: Actor) -> int:
        """Fits to the end; returns how many calls were lost and sent again. Errors of ours go to the board."""
        config = self.recipe.imagination
        session = uuid.uuid4().hex
        calls = config.contexts.batch_size // config.dreams_per_call
        pool = ReplicaPool(replicas, calls, config.max_lag, session)
        files = FileSink(self.run_folder / "imagination")

        def publish(version: int) -> None:
            ray.get(store.publish.remote(session, version, _heads(phase)))

        def batches(start: int) -> Any:
            publish(start)
            return pool.updates(start, config.fit.steps)

        def sink(done: int, figures: dict[str, float]) -> None:
            figures = figures | {"lost_calls": float(pool.lost)}
            files(done, figures)
            board.report.remote(done, figures)

        place = Place(self.run_folder / "imagination" / "checkpoints", sink)
        try:
            phase, made_by = imagination(self.recipe, self.run_folder)
            fit(phase, batches, config.fit, place=place, made_by=made_by, after_step=publish)
        except (DreamerError, RayError, OSError) as error:
            note_failure(board, error)
        return pool.lost

    def __repr__(self) -> str:
        return "Learner"


def _heads(phase: ImaginationTraining) -> Weights:
    parts = {"policy": phase.policy, "value": phase.value}
    return {f"{part}.{k}": v.detach().cpu().clone() for part, module in parts.items() for k, v in module.state_dict().items()}
