"""What a job's log and the states of its actors say, read without a cluster."""

import pytest

from dreamer_ray.distributed.job_status import (
    ActorGroup,
    ActorState,
    RoundState,
    StageState,
    groups,
    last_error,
    newest_round,
    progress,
    stages,
    with_replaced,
)
from dreamer_ray.envs.crafter import LADDER, TASKS
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.rounds import summarized
from dreamer_ray.progress import Progress, progress_line

LOG = """\
Running entrypoint for job toy: python -m dreamer_ray run toy.yaml --runs /shared name=5/7 units
10:26:15  toy.yaml -> /shared/crafter-toy
10:26:43  record        skip (done)
10:26:43  tokenizer     resume (was cut off)
10:27:07  tokenizer     5/10 steps  0.209 steps/s  ETA 0:00:24  mse 0.0123
10:27:36  tokenizer     done in 1:01:26
10:28:36  encode        run (not there yet)
"""


def line(done: int, rate: float | None, figures: dict[str, float]) -> str:
    return "10:27:07  " + progress_line(Progress("imagination", 8, "updates"), done, units_per_second=rate, figures=figures) + "\n"


@pytest.mark.parametrize("figures", [{}, {"lag": 1.0, "lost_calls": 3.0, "kl.prior": -2.5e-7, "loss": float("inf")}])
def test_a_progress_line_is_read_as_it_was_written(figures):
    found = progress(LOG + line(6, 0.25, figures))
    assert found is not None
    assert (found.stage, found.done, found.total, found.unit) == ("imagination", 6, 8, "updates")
    assert (found.per_second, found.eta_seconds, found.figures) == (0.25, 8, figures)


def test_a_line_without_a_rate_has_no_time_of_arrival():
    found = progress(line(0, None, {"lag": 0.0}))
    assert found is not None
    assert (found.per_second, found.eta_seconds, found.figures) == (None, None, {"lag": 0.0})


def test_a_log_without_progress_has_none():
    assert progress(LOG.partition("10:27:07")[0]) is None


def test_a_log_with_debug_messages_reads_the_same():
    stamped = [f"2026-11-22 10:27:07,123  INFO  {text[10:]}" for text in LOG.splitlines()[1:]]
    assert stages("\n".join(stamped)) == stages(LOG)
    assert progress("\n".join(stamped)) == progress(LOG)


def test_the_newest_round_is_read_as_it_was_written_and_is_no_progress():
    counts = [int(task in LADDER[:2]) for task in TASKS]
    ladder, episode = {task: TASKS.index(task) for task in LADDER}, EpisodeResult(7, counts, [-1] * len(TASKS), 10, died=False)
    played = [summarized(version, [episode], ladder, seconds=1) for version in (4, 6)]
    log = LOG + "".join(f"10:28:40  imagination   {one.line()}\n" for one in played)
    assert newest_round(log) == RoundState(6, 1, {"ladder_events": 2, LADDER[0]: 1, LADDER[1]: 1})
    assert progress(log) == progress(LOG)
    assert stages(log) == stages(LOG)
    assert newest_round(LOG) is None


def test_stages_are_done_running_or_waiting():
    assert stages(LOG, ["record", "tokenizer", "encode", "report"]) == [
        StageState("record", "done"),
        StageState("tokenizer", "done", 3686),
        StageState("encode", "running"),
        StageState("report", "waiting"),
    ]


def test_the_newest_error_is_found():
    assert last_error(LOG) is None
    assert (
        last_error(LOG + "10:29:00  error: loss is NaN\n10:29:01  error: disk full: no room\n10:29:02  stopped\n") == "disk full: no room"
    )


def test_actors_are_counted_by_group_without_those_that_have_ended():
    actors = [
        ActorState("replica-0", "ALIVE", 2),
        ActorState("replica-1", "RESTARTING", 1),
        ActorState("replica-10", "PENDING_CREATION", 0),
        ActorState("replica-11", "DEPENDENCIES_UNREADY", 0),
        ActorState("replica-12", "DEAD", 7),
        ActorState("learner-1", "ALIVE", 0),
        ActorState("recorder-0", "DEAD", 0),
    ]
    assert groups(actors) == [ActorGroup("learner", alive=1), ActorGroup("replica", alive=1, pending=2, restarting=1, restarts=10)]


def test_restarts_of_actors_that_have_ended_for_good_count_too():
    actors = [ActorState("replica-0", "DEAD", 5), ActorState("replica-3", "ALIVE", 1), ActorState("recorder-0", "DEAD", 2)]
    assert groups(actors) == [ActorGroup("recorder", restarts=2), ActorGroup("replica", alive=1, restarts=6)]
    said = "10:28:50  tokenizer: worker 0 is lost (ActorDiedError: gone); its group is started again"
    assert with_replaced([], LOG + said) == [ActorGroup("RayTrainWorker", restarts=1)], "none is there while its group waits for room"


def test_learners_evaluators_and_replicas_that_were_replaced_count_as_restarted_as_the_log_says_it():
    actors = [ActorState("learner-0-2", "ALIVE", 0), ActorState("learner-1-2", "ALIVE", 0), ActorState("round-evaluator-1", "ALIVE", 0)]
    said = [
        "10:28:40  imagination: learner 1 is lost (OutOfMemoryError: CUDA out of memory (2 GiB)); started again from step 40",
        "2026-11-22 10:28:50,123  WARNING  imagination: learner 0 is lost (ActorDiedError: gone); started again from step 40",
        "10:28:52  imagination: evaluator 0 is lost (RunError: no answer); started again",
        "10:28:55  imagination: evaluator 0 is lost (RunError: no answer); given up, training goes on without it",
        "10:28:59  imagination: a replica is lost (ActorDiedError: gone); it starts again, its calls are sent again",
        "10:29:20  imagination: replica 3 is lost (RuntimeEnvSetupError: no); for good, so another one is started again in 10 s",
    ]
    actors.append(ActorState("replica-0", "ALIVE", 2))
    found = with_replaced(groups(actors), LOG + "\n".join(said))
    assert found == [
        ActorGroup("learner", alive=2, restarts=2),
        ActorGroup("replica", alive=1, restarts=3),
        ActorGroup("round-evaluator", alive=1, restarts=1),
    ]


def test_groups_of_workers_and_trainers_that_were_lost_count_as_restarted():
    actors = [ActorState("RayTrainWorker", "ALIVE", 0), ActorState("TrainController", "ALIVE", 0), ActorState("Board", "ALIVE", 0)]
    said = [
        "10:28:40  agent_scratch: worker 1 is lost (ActorDiedError: The actor died (SIGKILL); see its log); its group is started again",
        "10:28:45  tokenizer: worker 0 has done no step for cluster.job_seconds = 3600, is taken for hung and ended",
        "10:28:50  tokenizer: worker 0 is lost (ActorDiedError: gone); its group is started again",
        "10:28:55  tokenizer: trainer 0 is lost (ActorDiedError: gone); started again from step 40",
    ]
    found = with_replaced(groups(actors), LOG + "\n".join(said))
    assert found == [
        ActorGroup("Board", alive=1),
        ActorGroup("RayTrainWorker", 1, restarts=2),
        ActorGroup("TrainController", 1, restarts=1),
    ]
