"""A reproduction on a cluster: phase 1 as any run does it, then a task for each phase-2 seed.

driver: record, tokenizer, encode, dynamics (actors of their own) --> task x seeds: agent, agent_scratch, imagination, play --> results
        random play: a task for each batch of worlds
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray
import torch
from ray.exceptions import RayError

from dreamer_ray.distributed.cluster import cluster
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.run import ray_executors
from dreamer_ray.in_process import Deadline, executors, processes
from dreamer_ray.reproduce import PHASE_1, Reproduction, check, finish_seed, playing, prepare, tell

Job = TypeVar("Job")
Result = TypeVar("Result")


def reproduce_on_ray(reproduction: Reproduction) -> None:
    """All of it; a task that is lost with its node starts again and goes on from its last checkpoint."""
    check(reproduction.recipe)
    section = reproduction.recipe.cluster
    share = max(section.gpus_per_worker, section.gpus_per_learner, section.gpus_per_replica)
    with cluster(reproduction.recipe, PHASE_1):
        prepare(reproduction, ray_executors() | playing(_tasks))
        for _ in _tasks(_Seed(reproduction), range(reproduction.seeds), gpus=share):
            tell(reproduction)


class _Seed:
    """One phase-2 seed, on one node and in one process."""

    def __init__(self, reproduction: Reproduction):
        self.reproduction = reproduction

    def __call__(self, number: int) -> bool:
        deadline = Deadline()
        with processes(1, deadline) as spread:
            return finish_seed(self.reproduction, number, executors(spread, deadline) | playing(spread))


def _tasks(function: Callable[[Job], Result], jobs: Sequence[Job], *, gpus: float = 0) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they come; one that fails ends the others."""

    def one(job: Job) -> Result:
        torch.set_num_threads(1)
        return function(job)

    task = ray.remote(num_cpus=1, num_gpus=gpus)(one)
    waiting = {task.remote(job): job for job in jobs}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            yield waiting.pop(done), ray.get(done)
    except RayError as error:
        if (inner := plain(error)) is None:
            raise
        raise inner from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
