"""A reproduction on a cluster: phase 1 as any run does it, then a task for each phase-2 seed.

driver: record, tokenizer, encode, dynamics (actors of their own) --> task x seeds: agent, agent_scratch, imagination, play --> results
        random play: a task for each batch of worlds              --> then task x variants x seeds: what differs, play
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import ray
import torch
from ray.exceptions import RayError

from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.distributed.cluster import cluster
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.run import ray_executors
from dreamer_ray.in_process import executors, processes
from dreamer_ray.reproduce import PHASE_1, Reproduction, finish_seed, finish_variant, playing, prepare, tell
from dreamer_ray.run import Executor

Job = TypeVar("Job")
Result = TypeVar("Result")


def reproduce_on_ray(reproduction: Reproduction, deadline: Deadline) -> None:
    """All of it; a task that is lost with its node starts again and goes on from its last checkpoint.

    Raises ``OutOfTimeError`` after the deadline, which every task has with it: training stops at its next checkpoint, wherever it runs;
    recording and encoding, once begun, go on to their end.
    """
    reproduction.check()
    section = reproduction.recipe.cluster
    share = max(section.gpus_per_worker, section.gpus_per_learner, section.gpus_per_replica)
    with cluster(reproduction.recipe, PHASE_1):
        prepare(reproduction, ray_executors(deadline) | playing(partial(_tasks, deadline)))
        for _ in _tasks(deadline, _Task(finish_seed, reproduction, deadline), range(reproduction.seeds), gpus=share):
            tell(reproduction)
        for _ in _tasks(deadline, _Task(finish_variant, reproduction, deadline), reproduction.jobs, gpus=share):
            tell(reproduction)


@dataclass(frozen=True)
class _Task(Generic[Job]):
    """One phase-2 seed, of the recipe or of a variant, on one node and in one process."""

    finish: Callable[[Reproduction, Job, Mapping[str, Executor]], bool]
    reproduction: Reproduction
    deadline: Deadline

    def __call__(self, job: Job) -> bool:
        with processes(1, self.deadline) as spread:
            return self.finish(self.reproduction, job, executors(spread, self.deadline) | playing(spread))


def _tasks(deadline: Deadline, function: Callable[[Job], Result], jobs: Sequence[Job], *, gpus: float = 0) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they come; one that fails ends the others, one that was out of time lets them come to their stop."""

    def one(job: Job) -> Result:
        torch.set_num_threads(1)
        deadline.check()
        return function(job)

    task = ray.remote(num_cpus=1, num_gpus=gpus)(one)
    waiting, stopped = {task.remote(job): job for job in jobs}, None
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            job = waiting.pop(done)
            try:
                result = ray.get(done)
            except RayError as error:
                if (inner := plain(error)) is None:
                    raise
                if not isinstance(inner, OutOfTimeError):
                    raise inner from error
                stopped = inner
                continue
            yield job, result
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    if stopped is not None:
        raise stopped
