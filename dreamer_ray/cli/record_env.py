"""``dreamer-ray record-env``: plays the Gymnasium environment of a recipe and writes the LeRobot data set that the recipe trains on."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ray.errors import UserError

if TYPE_CHECKING:
    from dreamer_ray.data.environment import EnvironmentRecording
    from dreamer_ray.recipe import Recipe

log = logging.getLogger("dreamer_ray")

NOTE = """The environment, its tasks and the step limit are those of the recipe's evaluation (evaluation.environment and
evaluation.length), so that what is recorded is what will be played. The same command goes on where it was
cut off; the same values give the same data."""
NOISE = (0.0, 0.1, 0.3, 0.6, 0.9)


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``record-env`` and its options."""
    parser = verbs.add_parser("record-env", help="record the Gymnasium environment of a recipe", description=__doc__, epilog=NOTE)
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file such as configs/robot/sample.yaml")
    parser.add_argument("overrides", metavar="path=value", nargs="*", help="values to use instead of the recipe's")
    parser.add_argument("--to", metavar="FOLDER", type=Path, help="of the data set (default: where the recipe reads its first source)")
    parser.add_argument("--episodes", metavar="N", type=int, default=100, help="how many are played (default: %(default)s)")
    parser.add_argument(
        "--noise",
        metavar="X,X",
        type=_shares,
        default=NOISE,
        help=f"shares of random actions, which episodes take in turn; 1 needs no script (default: {','.join(map(str, NOISE))})",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another one gives other episodes (default: %(default)s)")
    parser.add_argument("--task", metavar="NAME", help="the task whose success is recorded (default: the environment's first)")
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.set_defaults(act=act, goes_on="; the same command goes on with the episodes that are missing")


def act(options: argparse.Namespace) -> None:
    """Records what ``options`` say."""
    from dreamer_ray.config_file import load_config
    from dreamer_ray.data.environment import record_environment
    from dreamer_ray.progress import Progress
    from dreamer_ray.recipe import Recipe

    recipe = load_config(Recipe, options.recipe, options.overrides)
    plan, folder = _plan(recipe, options), options.to or _source_folder(recipe)
    log.info("%s, task %r -> %s", plan.environment.id, plan.task, folder)
    progress = Progress("record-env", plan.episodes, "episodes")
    made = record_environment(plan, folder, on_episode=lambda done: progress.update(done, {}))
    for noise in dict.fromkeys(plan.noise):
        played = [episode for episode in made["episodes"] if episode["noise"] == noise]
        done = sum(episode["first_done"] is not None for episode in played)
        log.info("noise %g: %d of %d episodes reach %r", noise, done, len(played), plan.task)
    log.info("%s: %d episodes, %d steps", folder, plan.episodes, sum(episode["steps"] for episode in made["episodes"]))


def _plan(recipe: "Recipe", options: argparse.Namespace) -> "EnvironmentRecording":
    from pydantic import ValidationError

    from dreamer_ray.data.environment import EnvironmentRecording

    environment = recipe.evaluation.environment
    if environment is None:
        raise UserError(f"{options.recipe}: has no evaluation.environment, which says what is to be played; see configs/robot/sample.yaml")
    task = options.task or environment.tasks[0].name
    environment.rules([task])
    try:
        return EnvironmentRecording(
            environment=environment,
            task=task,
            length=recipe.evaluation.length,
            episodes=options.episodes,
            noise=options.noise,
            seed=options.seed,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"--{problem['loc'][0]} {problem['input']}: {problem['msg'][0].lower() + problem['msg'][1:]}") from None


def _source_folder(recipe: "Recipe") -> Path:
    recordings = recipe.data.recordings
    if recordings is not None and (first := recordings.sources[0].source).kind == "lerobot":
        return Path(recordings.path or first.path).expanduser()
    raise UserError("the recipe's first source is no LeRobot data set (data.recordings.sources, kind: lerobot); give a folder with --to")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0 to 1, such as 0,0.1,0.5") from None
