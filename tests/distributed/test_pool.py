"""Jobs over actors: each result once, also where an actor dies."""

import os
import signal
import time

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
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number


def squares(jobs, kind=Squarer, actors=2, job_seconds=300.0, given_up=None):
    crew = [kind.remote() for _ in range(actors)]
    return dict(spread(crew, jobs, lambda actor, job: actor.square.remote(job), job_seconds=job_seconds, given_up=given_up))


def test_each_job_once(local_ray):
    jobs = [(number, "") for number in range(9)]
    assert squares(jobs) == {(number, ""): number * number for number in range(9)}


def test_a_job_whose_actor_dies_is_done_again(local_ray, tmp_path):
    jobs = [(number, str(tmp_path / "died") if number == 4 else "") for number in range(9)]
    assert sorted(squares(jobs).values()) == [number * number for number in range(9)]
    assert (tmp_path / "died").exists()


@ray.remote(num_cpus=0.5, max_restarts=-1)
class SlowSquarer(Squarer.__ray_actor_class__):
    """Takes a while to start again, as one does that imports and loads a model."""

    def __init__(self):
        time.sleep(8 * ray.get_runtime_context().was_current_actor_reconstructed)


def test_an_actor_that_starts_again_slowly_costs_no_job_its_tries(local_ray, tmp_path):
    jobs = [(number, str(tmp_path / "died") if number == 1 else "") for number in range(4)]
    found = squares(jobs, SlowSquarer, actors=1, job_seconds=4.0)  # the time in which it starts is not counted
    assert found == {job: job[0] * job[0] for job in jobs}
    assert (tmp_path / "died").exists()


@ray.remote(num_cpus=0.5, max_restarts=-1)
class HangingSquarer(Squarer.__ray_actor_class__):
    """Hangs once where others die."""

    def square(self, job: tuple[int, str]) -> int:
        number, deadly = job
        if deadly and not os.path.exists(deadly):  # noqa: PTH110
            open(deadly, "w").close()  # noqa: PTH123
            time.sleep(1e6)
        return number * number


def test_a_job_whose_actor_hangs_is_done_again(local_ray, tmp_path):
    jobs = [(number, str(tmp_path / "hung") if number == 4 else "") for number in range(9)]
    assert squares(jobs, HangingSquarer, job_seconds=3.0) == {job: job[0] * job[0] for job in jobs}
    assert (tmp_path / "hung").exists()


def test_a_job_that_kills_every_actor_ends_the_run(local_ray):
    with pytest.raises(RunError, match=r"died 3 times, never since cluster.job_seconds were over \(last: Actor"):
        squares([(1, "always")])


@pytest.mark.parametrize("deadly", [0, 1, 3])
def test_a_job_that_kills_every_actor_costs_itself_where_the_caller_can_go_on(local_ray, deadly):
    """Not the one that waits behind it."""
    jobs = [(number, "always" if number == deadly else "") for number in range(4)]
    found = squares(jobs, actors=1, given_up=lambda reason: reason)
    assert "its worker died 3 times" in found.pop((deadly, "always"))
    assert found == {(number, ""): number * number for number in range(4) if number != deadly}


@ray.remote(num_cpus=0.5, max_restarts=-1)
class SleepingSquarer(Squarer.__ray_actor_class__):
    """Takes longer than it may."""

    def square(self, job: tuple[int, str]) -> int:
        time.sleep(1e6 * bool(job[1]))
        return job[0] * job[0]


def test_a_job_that_takes_too_long_names_the_key_that_ended_it(local_ray):
    found = squares([(0, "slow"), (1, "")], SleepingSquarer, actors=1, job_seconds=2.0, given_up=lambda reason: reason)
    assert found[1, ""] == 1
    assert "not done after cluster.job_seconds = 2 and ended, 3 times; raise cluster.job_seconds" in found[0, "slow"]


@ray.remote(num_cpus=0.5, max_restarts=-1)
class UninstalledSquarer(Squarer.__ray_actor_class__):
    """Lacks what it requires."""

    def __init__(self):
        raise ModuleNotFoundError("No module named 'crafter'")


def test_an_actor_whose_constructor_fails_ends_the_run_with_the_reason(local_ray):
    with pytest.raises(RunError, match=r"UninstalledSquarer, .* failed as it started .*No module named 'crafter'\); every node needs"):
        squares([(1, "")], UninstalledSquarer)


def test_actors_without_a_runtime_environment_end_the_run_with_the_reason_once_none_is_left(local_ray, caplog):
    nowhere = Squarer.options(runtime_env={"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"})
    with pytest.raises(RunError, match=r"no worker is left; .*Squarer, .* cannot start: RuntimeEnvSetupError"):
        squares([(1, "")], nowhere)
    assert ["goes on with the other 1" in message for message in caplog.messages if "cannot start" in message] == [True]
