"""The supervised phases on Ray Train: every worker runs the same ``fit``; a lost worker restarts the group from the last checkpoint.

TorchTrainer --starts--> worker ranks: Ray Data stream -> fit -> (rank 0) checkpoints, metrics --report--> Board
                                       each rank counts its frames for Prometheus, and ends itself where it hangs
"""

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from dreamer_ray.deadline import Deadline
from dreamer_ray.distributed import LOST, Actor
from dreamer_ray.distributed.batches import stream
from dreamer_ray.distributed.board import answer, note_failure, raise_failure, watched
from dreamer_ray.distributed.cluster import require
from dreamer_ray.distributed.failures import in_a_line
from dreamer_ray.distributed.group import join_group, listen
from dreamer_ray.distributed.heartbeat import heartbeat
from dreamer_ray.distributed.restarts import Restarts, newest_step
from dreamer_ray.distributed.telemetry import GroupRestarts, export_peak, exporter
from dreamer_ray.errors import DreamerError, RunError
from dreamer_ray.estimate import operations_per_frame
from dreamer_ray.in_process import until
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import feed, section_of, supervised, trained
from dreamer_ray.training.checkpoint import Checkpoint
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.metrics import FileSink

log = logging.getLogger("dreamer_ray")

SECONDS_BETWEEN_RESIZES = 60.0
"""Between two looks whether the cluster has room for more workers, for which all start anew."""
SECONDS_TO_END = 300.0
"""So much longer than ``cluster.job_seconds`` workers wait for one of them; one that hangs ends itself before, which they notice."""
WORKER_RESTARTS = 3
"""Of one trainer, which is replaced where there is a new checkpoint by then."""
SECONDS_OF_A_START = 60.0
"""After which Ray Train gives up placing its workers and begins anew: without a limit in silence, and for ever."""
SECONDS_WITHOUT_ROOM = 900.0
"""How long one trainer looks for room in all, or twice as long as the cluster may take to grow."""


def train(stage: str, recipe: Recipe, run: Path, progress: Progress, deadline: Deadline | None = None) -> dict[str, Any]:
    """Fits the phase of ``stage``; returns figures for the stage's manifest.

    Raises ``OutOfTimeError`` at the first checkpoint after the ``deadline``, where there is one.
    """
    require(recipe, stage, "CPU")
    feed(stage, recipe, run)  # what is wrong with the data is said here, before any worker starts
    with watched(progress, run / stage / "checkpoints") as board:
        with _told_to_wait(stage, board):
            _fit(stage, recipe, run, board, deadline or Deadline())
        raise_failure(board)
    return figures(stage, trained(run, stage), section_of(stage, recipe).fit.steps)


def figures(stage: str, checkpoint: Checkpoint, steps: int) -> dict[str, Any]:
    """Of a stage that ended with ``checkpoint``. Raises ``RunError`` where that is not the last of its ``steps``."""
    if checkpoint.step != steps:
        raise RunError(f"stage {stage}: its workers ended at step {checkpoint.step} of {steps} without an error; run again to resume")
    return {"checkpoint": checkpoint.fingerprint, "steps": checkpoint.step}


@contextmanager
def _told_to_wait(stage: str, board: Actor) -> Iterator[None]:
    """Says now and then that no worker is at work: Ray Train waits for room without a word, for ``fewest_workers`` for ever."""
    ended = threading.Event()

    def look() -> None:
        pulse, heard = {}, time.monotonic()
        while not ended.wait(SECONDS_OF_A_START):
            asked = board.pulse.remote()
            if not ray.wait([asked], timeout=SECONDS_OF_A_START)[0]:
                continue
            with suppress(RayActorError):
                if (beats := ray.get(asked)) != pulse:
                    pulse, heard = beats, time.monotonic()
                    continue
                log.warning(
                    "stage %s: no worker has been at work for %.0f s; `ray status` shows what takes the CPUs and GPUs",
                    stage,
                    time.monotonic() - heard,
                )

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _fit(stage: str, recipe: Recipe, run: Path, board: Actor, deadline: Deadline) -> None:
    """Trains to the end, with as many trainers and groups of workers as are lost while there are new checkpoints."""
    checkpoints = run / stage / "checkpoints"
    restarts = Restarts(newest_step(checkpoints))
    while True:
        before = restarts.step
        try:
            _trainer(stage, recipe, run, board, deadline).fit()
            return
        except (TrainingFailedError, *LOST) as error:
            raise_failure(board)
            restarts.count(newest_step(checkpoints))
            if restarts.too_many or (isinstance(error, TrainingFailedError) and restarts.step == before):
                raise RunError(f"stage {stage}: {_given_up(recipe, restarts, error)}; run again to resume") from error
            exporter(recipe.name, stage).add("restarts", part="worker")
            log.warning("%s: trainer %d is lost (%s); started again from step %d", stage, restarts.all - 1, in_a_line(error), restarts.step)


def _given_up(recipe: Recipe, restarts: Restarts, error: TrainingFailedError | RayError) -> str:
    if isinstance(error, ControllerError):
        return (
            f"Ray Train could not start its workers in {starts(recipe)} attempts, last with: {error}; look with `ray status` for what "
            "takes the CPUs and GPUs, or lower cluster.workers"
        )
    if isinstance(error, TrainingFailedError):
        return f"its workers failed up to {WORKER_RESTARTS + 1} times without a new checkpoint, last with: {error}"
    return f"its trainer was lost {restarts.in_vain} times without a new checkpoint, last: {in_a_line(error)}"


def starts(recipe: Recipe) -> int:
    """How many attempts to place its workers a trainer has."""
    return math.ceil(max(SECONDS_WITHOUT_ROOM, 2 * recipe.cluster.wait_seconds) / SECONDS_OF_A_START)


def _trainer(stage: str, recipe: Recipe, run: Path, board: Actor, deadline: Deadline) -> TorchTrainer:
    cluster = recipe.cluster
    fewest = cluster.fewest_workers or cluster.workers
    operations = operations_per_frame(recipe)[stage]  # asks the sources, whose paths may be relative: workers have other folders
    told = {"stage": stage, "recipe": recipe.model_dump_json(), "run": str(run), "board": board, "operations": operations}
    told |= {"deadline": deadline}
    return TorchTrainer(
        _worker,
        train_loop_config=told,
        torch_config=_OwnGroup(),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers if fewest == cluster.workers else (fewest, cluster.workers),
            use_gpu=cluster.gpus_per_worker > 0,
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
            resources_per_worker={"CPU": 1} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=stage,
            storage_path=str((run / "ray_train").absolute()),
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS, controller_failure_limit=starts(recipe) - 1),
            callbacks=[GroupRestarts(recipe.name, stage, board)],  # pyright: ignore[reportArgumentType] - Ray takes callbacks of all its kinds
        ),
    )


class _SharedDevices(Backend):
    share_cuda_visible_devices = True  # as Ray's own for torch; without its process group


class _OwnGroup(TorchConfig):
    """Workers make their process group themselves: the one that Ray Train makes listens on every interface of a machine."""

    @property
    def backend_cls(self) -> type[Backend]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What Ray Train calls when workers start and end."""
        return _SharedDevices


def _join(rank: int, world: int, wait: timedelta) -> None:
    listening = listen() if rank == 0 else None
    address = broadcast_from_rank_zero(None if listening is None else listening.getsockname())
    assert address is not None
    join_group(address, listening, rank=rank, ranks=world, device=get_device(), wait=wait)


def _worker(config: dict[str, Any]) -> None:
    board, stage, run = config["board"], config["stage"], Path(config["run"])
    recipe, context = Recipe.model_validate_json(config["recipe"]), ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    with heartbeat(board, stage, rank, limit=recipe.cluster.job_seconds) as after_step:
        if answer(board.failed.remote) is not None:
            return
        torch.set_num_threads(recipe.cluster.threads)
        if world > 1:
            _join(rank, world, timedelta(seconds=recipe.cluster.job_seconds + SECONDS_TO_END))
        try:
            job, export = supervised(stage, recipe, run), exporter(recipe.name, stage, rank=str(rank))
            export_peak(export, get_device(), recipe.cluster.tuning)
            files = FileSink(run / stage) if rank == 0 else None

            def sink(done: int, figures: dict[str, float]) -> None:
                assert files is not None
                files(done, figures)
                export(done, figures)
                board.report.remote(done, figures)

            deadline = config["deadline"] if rank == 0 else Deadline()  # who writes the checkpoint ends the group behind it
            batches = until(deadline, stream(stage, recipe, run, steps=job.fit.steps, rank=rank, world=world), job.fit)
            fit(
                job.phase,
                export.counted(batches, config["operations"]),
                job.fit,
                place=Place(run / stage / "checkpoints", sink, get_device(), rank, recipe.cluster.tuning),
                made_by=job.made_by,
                after_step=after_step,
            )
        except (DreamerError, RayError, OSError) as error:
            note_failure(board, error)
            if world > 1:
                raise
