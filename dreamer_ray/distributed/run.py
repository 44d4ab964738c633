"""Executes the stages of a recipe on Ray.

run.execute --stage by stage--> record | train | encode | imagine_and_learn | evaluate (all on Ray) | report (here)
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from dreamer_ray.deadline import Deadline
from dreamer_ray.distributed.encode import SILENT_SECONDS, encode
from dreamer_ray.distributed.evaluate import play_all, variants
from dreamer_ray.distributed.failures import plain
from dreamer_ray.distributed.imagine import imagine_and_learn
from dreamer_ray.distributed.ingest import ingest, record
from dreamer_ray.distributed.learner import SHOWN
from dreamer_ray.distributed.train import train
from dreamer_ray.domain import domain_of
from dreamer_ray.measure import Measurements, measure, refuse_poor_data
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.report import report, save_evaluation
from dreamer_ray.run import StageContext
from dreamer_ray.stages import dreams_of, section_of

log = logging.getLogger("dreamer_ray")

Executor = Callable[[StageContext], dict[str, Any]]


def ray_executors(deadline: Deadline | None = None) -> dict[str, Executor]:
    """One executor a stage; each returns figures for the stage's manifest.

    After the ``deadline`` none begins and supervised phases stop at their next checkpoint, with ``OutOfTimeError``.
    """
    deadline = deadline or Deadline()
    trained = dict.fromkeys(("tokenizer", "dynamics", "agent", "agent_scratch"), partial(_train, deadline))
    every = trained | {"record": _record, "encode": _encode, "imagination": _imagination, "evaluate": _evaluate, "report": report}
    return {stage: _for_a_cluster(executor, deadline) for stage, executor in every.items()}


def _for_a_cluster(executor: Executor, deadline: Deadline) -> Executor:
    """``executor`` with paths that hold everywhere, and with errors as they were before they passed through Ray."""

    def run(context: StageContext) -> dict[str, Any]:
        deadline.check()
        try:
            return executor(replace(context, recipe=context.recipe.absolute()))  # workers of a cluster run elsewhere
        except (RayError, OSError) as error:
            if (inner := plain(error)) is None:
                raise
            raise inner from error

    return run


def _record(context: StageContext) -> dict[str, Any]:
    recipe = context.recipe
    domain_of(recipe)  # before anything is fetched: what the sources have must be what the sections need
    if (config := recipe.data.crafter) is None:
        figures = ingest(recipe, context.run)
    else:
        figures = record(recipe, context.run, Progress("record", config.episodes + config.holdout_episodes, "episodes"))
    refuse_poor_data(recipe, context.run)
    return figures


def _train(deadline: Deadline, context: StageContext) -> dict[str, Any]:
    section = section_of(context.stage, context.recipe)
    return train(context.stage, context.recipe, context.run, Progress(context.stage, section.fit.steps, "steps"), deadline)


def _encode(context: StageContext) -> dict[str, Any]:
    return encode(context.recipe, context.run)


def _imagination(context: StageContext) -> dict[str, Any]:
    progress = Progress("imagination", dreams_of(context.recipe).fit.steps, "updates", shown=len(SHOWN))
    return imagine_and_learn(context.recipe, context.run, progress)


def _evaluate(context: StageContext) -> dict[str, Any]:
    recipe, run = context.recipe, context.run
    measured = _measure.remote(recipe.model_dump_json(), str(run))
    players = variants(recipe)
    results = play_all(recipe, run, Progress("evaluate", sum(players.values()), "episodes")) if players else {}
    found = measurements(measured)
    save_evaluation(context.folder, found, results)
    return found.figures | {"episodes": sum(map(len, results.values()))}


def measurements(measured: ObjectRef) -> Measurements:
    """What the task ``measured`` has found; says now and then that it is not there yet."""
    asked = time.monotonic()
    while not ray.wait([measured], timeout=SILENT_SECONDS)[0]:
        log.info(
            "evaluate: what is measured beside the episodes takes %.0f s more so far; `ray status` shows whether it waits for a CPU",
            time.monotonic() - asked,
        )
    return ray.get(measured)


@ray.remote(num_cpus=1)
def _measure(recipe: str, run: str) -> Measurements:
    return measure(Recipe.model_validate_json(recipe), Path(run))
