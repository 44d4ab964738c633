"""Executes the stages of a recipe without Ray: training in this process; recording, encoding and playing in some processes beside it."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from dreamer_ray.data.crafter_files import commit_recording, record_jobs, recorded_so_far, write_episodes
from dreamer_ray.data.shards import ShardFile, open_shards
from dreamer_ray.deadline import Deadline
from dreamer_ray.encoding import commit_encoding, encode_file, open_encoder
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.measure import refuse_poor_data
from dreamer_ray.phases.imagination_training import Rehearsal
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import Executor, StageContext
from dreamer_ray.stages import REHEARSAL, SPLITS, Dreamer, dreams_of, feed, imagination, join, section_of, supervised, trained
from dreamer_ray.training.loop import Batches, FitConfig, Place, fit
from dreamer_ray.training.metrics import FileSink
from dreamer_ray.training.parallel import Tuning
from dreamer_ray.training.restore import restore_agent
from dreamer_ray.types import LatentClip, Trajectory

Job = TypeVar("Job")
Result = TypeVar("Result")
Spread = Callable[[Callable[[Job], Result], Sequence[Job]], Iterator[tuple[Job, Result]]]
"""Does jobs side by side and yields each with its result, as they come; raises ``OutOfTimeError`` where some were left."""


@contextmanager
def processes(count: int, deadline: Deadline) -> Iterator[Spread]:
    """Inside, jobs are done by ``count`` processes, or by this one where it is 1; after the deadline none is begun."""
    if count == 1:
        yield partial(_one_by_one, deadline)
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))
    try:
        yield partial(_side_by_side, pool, deadline)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(deadline: Deadline, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
    for job in jobs:
        deadline.check()
        yield job, function(job)


def _side_by_side(
    pool: ProcessPoolExecutor, deadline: Deadline, function: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[tuple[Job, Result]]:
    deadline.check()
    waiting = {pool.submit(function, job): job for job in jobs}
    try:
        for done in as_completed(waiting):
            if not done.cancelled():
                yield waiting[done], done.result()
            if deadline.over:
                _cancel(waiting)
    except BrokenProcessPool as error:
        raise RunError("a process was killed, perhaps since memory ran out; lower cluster.replicas and run again to go on") from error
    finally:
        _cancel(waiting)
    if any(done.cancelled() for done in waiting):
        deadline.check()


def _cancel(waiting: dict[Future[Result], Job]) -> None:
    for future in waiting:
        future.cancel()


def executors(spread: Spread, deadline: Deadline) -> dict[str, Executor]:
    """One executor a stage up to imagination training; each returns figures for the stage's manifest.

    Training stops at the first checkpoint after the deadline, with ``OutOfTimeError``.
    """
    trained = dict.fromkeys(("tokenizer", "dynamics", "agent", "agent_scratch"), partial(_train, deadline))
    return trained | {
        "record": partial(_record, spread),
        "encode": partial(_encode, spread),
        "imagination": partial(_imagination, deadline),
    }


def refuse_missing_gpu(recipe: Recipe) -> None:
    """Raises ``UserError`` where the recipe means a GPU that is not there."""
    cluster = recipe.cluster
    if (cluster.gpus_per_worker or cluster.gpus_per_learner or cluster.gpus_per_replica) and not torch.cuda.is_available():
        raise UserError(
            f"{recipe.name}: cluster.gpus_per_worker = {cluster.gpus_per_worker:g}, gpus_per_learner = {cluster.gpus_per_learner:g}, "
            f"gpus_per_replica = {cluster.gpus_per_replica:g}, and there is no GPU; set all three to 0, and cluster.dreaming to {{}}"
        )


def _record(spread: Spread, context: StageContext) -> dict[str, Any]:
    config = context.recipe.data.crafter
    if config is None:
        raise UserError("data: only what is played in Crafter is recorded without Ray; use dreamer-ray run for recordings")
    files, jobs = record_jobs(config, context.folder)
    progress = Progress("record", config.episodes + config.holdout_episodes, "episodes")
    for job, file in spread(partial(write_episodes, config, context.folder), jobs):
        files[job.split].append(file)
        progress.update(*recorded_so_far(files))
    commit_recording(config, context.folder, files)
    refuse_poor_data(context.recipe, context.run)
    return recorded_so_far(files)[1]


def _encode(spread: Spread, context: StageContext) -> dict[str, Any]:
    recordings = {split: open_shards(context.run / "record" / split) for split in SPLITS}
    progress = Progress("encode", sum(int(found.lengths.sum()) for found in recordings.values()), "frames")
    jobs = [(split, number) for split, found in recordings.items() for number in range(len(found.files))]
    files: dict[str, list[ShardFile]] = {split: [] for split in SPLITS}
    for (split, _), file in spread(partial(_encode_file, context), jobs):
        files[split].append(file)
        progress.update(sum(file.frames for done in files.values() for file in done), {})
    commit_encoding(context.run, files)
    return {"frames": sum(file.frames for done in files.values() for file in done)}


def _encode_file(context: StageContext, job: tuple[str, int]) -> ShardFile:
    return encode_file(open_encoder(context.run, context.recipe.cluster.replica_device), *job)


def _train(deadline: Deadline, context: StageContext) -> dict[str, Any]:
    stage, recipe, run = context.stage, context.recipe, context.run
    section, clips, job = section_of(stage, recipe), feed(stage, recipe, run), supervised(stage, recipe, run)
    device = torch.device("cuda" if recipe.cluster.gpus_per_worker else "cpu")
    torch.set_num_threads(recipe.cluster.threads)

    def batches(start: int) -> Iterator[Any]:
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(clips.load, start, rank=0, world=1)
            for step in range(start, section.fit.steps):
                batch = coming.result()
                if step + 1 < section.fit.steps:
                    coming = ahead.submit(clips.load, step + 1, rank=0, world=1)
                yield batch

    place = Place(context.folder / "checkpoints", _sink(context, section.fit.steps, "steps"), device, tuning=recipe.cluster.tuning)
    checkpoint = fit(job.phase, until(deadline, batches, section.fit), section.fit, place=place, made_by=job.made_by)
    return {"checkpoint": checkpoint.fingerprint, "steps": checkpoint.step}


def _imagination(deadline: Deadline, context: StageContext) -> dict[str, Any]:
    recipe, run, config = context.recipe, context.run, dreams_of(context.recipe)
    whole, cluster = config.finetune == "all", recipe.cluster
    torch.set_num_threads(cluster.threads)
    phase, made_by = imagination(recipe, run)
    dreamer = Dreamer(recipe, run, restore_agent(trained(run, "agent")), device=cluster.replica_device)
    recorded = feed(REHEARSAL, recipe, run)

    def update(step: int) -> Trajectory | Rehearsal:
        dreamer.agent.load_weights(phase.published())
        first = step * dreamer.calls_per_update
        dreamed = join([dreamer.dream(call, step) for call in range(first, first + dreamer.calls_per_update)])
        if not whole:
            return dreamed
        clips = recorded.load(step, rank=0, world=1)
        assert isinstance(clips, LatentClip)
        return Rehearsal(dreamed, clips)

    def updates(start: int) -> Iterator[Trajectory | Rehearsal]:
        return map(update, range(start, config.fit.steps))

    device, tuning = torch.device("cuda" if cluster.gpus_per_learner else "cpu"), cluster.tuning if whole else Tuning()
    place = Place(context.folder / "checkpoints", _sink(context, config.fit.steps, "updates"), device, tuning=tuning)
    checkpoint = fit(phase, until(deadline, updates, config.fit), config.fit, place=place, made_by=made_by)
    return {"checkpoint": checkpoint.fingerprint, "steps": checkpoint.step}


def until(deadline: Deadline, batches: Batches, config: FitConfig) -> Batches:
    """``batches``, which end with ``OutOfTimeError`` once a checkpoint is written after the deadline."""

    def some(start: int) -> Iterator[Any]:
        for step, batch in enumerate(batches(start), start):
            if step % config.checkpoint_every == 0:
                deadline.check()
            yield batch

    return some


def _sink(context: StageContext, steps: int, unit: str) -> Callable[[int, dict[str, float]], None]:
    files, progress = FileSink(context.folder), Progress(context.stage, steps, unit)

    def sink(done: int, figures: dict[str, float]) -> None:
        files(done, figures)
        progress.update(done, figures)

    return sink
