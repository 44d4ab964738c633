"""``dreamer-ray run``: does the stages of a recipe, skipping what is done and resuming what was cut off."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamer_ray.cli import console

if TYPE_CHECKING:
    from dreamer_ray.estimate_gpus import GpuNeed
    from dreamer_ray.run import Executor, Plan, StageContext

log = logging.getLogger("dreamer_ray")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``run`` and its options."""
    parser = verbs.add_parser("run", help="do the stages of a recipe", description=__doc__)
    parser.add_argument("--only", metavar="STAGE", help="do this stage alone")
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Recipe and options of a verb that does stages."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file such as configs/crafter/tiny.yaml")
    parser.add_argument(
        "overrides", metavar="path=value", nargs="*", help="values to use instead of the recipe's, such as dynamics.fit.steps=100"
    )
    parser.add_argument(
        "--from",
        metavar="STAGE",
        dest="start",
        help="do this stage again, all that follow from it, and later ones that have other values now",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and what it needs, and do nothing")
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where the results go: DIR/NAME (default: runs)")
    parser.set_defaults(act=act, goes_on="; the same command, without --from, goes on from the last checkpoint")


def act(options: argparse.Namespace) -> None:
    """Runs the recipe that ``options`` name."""
    from dreamer_ray.config_file import load_config
    from dreamer_ray.loopback import bind_ray_to_loopback
    from dreamer_ray.recipe import Recipe
    from dreamer_ray.run import execute, plan, recipe_stages, refuse_itself
    from dreamer_ray.run_folder import locked

    recipe = load_config(Recipe, options.recipe, options.overrides)
    folder = (options.runs / recipe.name).absolute()
    refuse_itself(recipe, folder)

    def decide() -> "Plan":
        return plan(recipe_stages(recipe), recipe, folder, only=options.only, start=options.start)

    if options.dry_run:
        sys.stdout.write(overview(decide()))
        return
    with locked(folder):
        console.copy_to(folder / "run.log")
        log.info("%s -> %s", options.recipe, folder)
        decided = decide()
        for line in _grown(decided):
            log.warning("record: %s; --from record takes in what is new, and makes no other file again", line)
        if not decided.work:
            log.info("all done already; --from STAGE does a stage and what follows from it again")
            return
        bind_ray_to_loopback()
        from dreamer_ray.distributed.cluster import cluster
        from dreamer_ray.distributed.run import ray_executors
        from dreamer_ray.stages import check_inputs

        with cluster(recipe, [decision.stage.name for decision in decided.work]):
            execute(decided, {stage: _stoppable(executor) for stage, executor in ray_executors().items()}, check_inputs)
    log.info("finished: %s", folder)


def _stoppable(executor: "Executor") -> "Executor":
    def begin(context: "StageContext") -> dict[str, Any]:
        console.stop_on_signals()
        return executor(context)

    return begin


def _grown(plan: "Plan") -> list[str]:
    """What sources hold now that they did not when they were ingested, where that is not done again anyway."""
    from dreamer_ray.data.ingest import grown
    from dreamer_ray.run_folder import read_record

    config, record = plan.recipe.data.recordings, read_record(plan.folder / "record")
    if config is None or record is None or "record" in [decision.stage.name for decision in plan.work]:
        return []
    return grown(config, record.figures.get("recordings", ()))


def overview(plan: "Plan") -> str:
    """A table of the stages: what is to be done and, by rough estimate, what it needs on this machine, or on the recipe's GPUs."""
    from dreamer_ray.estimate import estimate
    from dreamer_ray.estimate_gpus import estimate_gpus
    from dreamer_ray.progress import duration

    needs, on_gpus = estimate(plan.recipe), estimate_gpus(plan.recipe)
    lines = [f"{plan.folder}", f"{'stage':<14}{'plan':<8}{'parameters':>12}{'memory':>10}{'time':>10}  size; why"]
    for decision in plan.decisions:
        name, note = decision.stage.name, decision.reason
        figures = f"{'-':>12}{'-':>10}{'-':>10}"
        if need := needs.get(name):
            seconds = duration(need.seconds) if need.seconds else "-"
            here = f"{'on GPUs':>20}" if name in on_gpus else f"{need.memory_mb / 1024:>7.1f} GB{seconds:>10}"
            figures, note = f"{need.parameters or '-':>12}{here}", f"{need.size}; {note}"
        lines.append(f"{name:<14}{decision.action:<8}{figures}  {note}")
    work = [decision.stage.name for decision in plan.work]
    total = sum(needs[name].seconds for name in work if name in needs and name not in on_gpus)
    if total:
        lines.append(f"about {duration(total)} of work on this machine (a rough estimate; a GPU or a cluster is faster)")
    return "\n".join([*lines, *_on_gpus({name: on_gpus[name] for name in work if name in on_gpus})]) + "\n"


def _on_gpus(needs: "dict[str, GpuNeed]") -> list[str]:
    from dreamer_ray.estimate_gpus import PEAKS, SHARE_OF_PEAK

    if not needs:
        return []
    lines = [f"{'on GPUs':<14}{'GPUs':>6}{'operations':>16}{'memory of each':>18}{'time':>14}"]
    for stage, need in needs.items():
        days = f"{need.seconds / 86400:.2f} days"
        lines.append(f"{stage:<14}{need.gpus:>6g}{need.operations:>11.2e} FLOP{need.memory_mb / 1024:>15.1f} GB{days:>14}")
    seconds, operations = sum(need.seconds for need in needs.values()), sum(need.operations for need in needs.values())
    lines.append(f"{'all':<14}{'':>6}{operations:>11.2e} FLOP{'':>18}{f'{seconds / 86400:.2f} days':>14}")
    peak = f"{SHARE_OF_PEAK:.0%} of the peak of an H100 or H200 ({PEAKS['bf16'] / 1e12:,.0f} TFLOP/s in bf16)"
    return [*lines, f"with {peak}: {sum(need.seconds * need.gpus for need in needs.values()) / 86400:,.3g} GPU days"]
