"""Jobs over actors: each result once, also where an actor dies."""

import os

import pytest
import ray

from dreamer_ray.distributed.pool import spread
from dreamer_ray.errors import RunError


@ray.remote(num_cpus=0.5, max_restarts=-1)
class Squarer:
    """Squares; dies once when told to by a file, or always."""

    def square(self, job: tuple[int, str]) -> int:
        number, deadly = job
        if deadly == "always" or (deadly and not os.path.exists(deadly)):  # noqa: PTH110
            if deadly != "always":
                open(deadly, "w").close()  # noqa: PTH123
            os._exit(1)
        return number * number


def squares(jobs):
    return dict(spread([Squarer.remote() for _ in range(2)], jobs, lambda actor, job: actor.square.remote(job)))


def test_each_job_once(local_ray):
    jobs = [(number, "") for number in range(9)]
    assert squares(jobs) == {(number, ""): number * number for number in range(9)}


def test_a_job_whose_actor_dies_is_done_again(local_ray, tmp_path):
    jobs = [(number, str(tmp_path / "died") if number == 4 else "") for number in range(9)]
    assert sorted(squares(jobs).values()) == [number * number for number in range(9)]
    assert (tmp_path / "died").exists()


def test_a_job_that_kills_every_actor_ends_the_run(local_ray):
    with pytest.raises(RunError, match="died 3 times"):
        squares([(1, "always")])
