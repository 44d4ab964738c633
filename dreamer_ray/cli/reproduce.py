"""``dreamer-ray reproduce``: a result of the paper, at a size that this machine can do, with intervals over seeds of training."""

import argparse
import logging
import re
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ray.cli import console
from dreamer_ray.deadline import Deadline, OutOfTimeError
from dreamer_ray.errors import UserError

if TYPE_CHECKING:
    from dreamer_ray.reproduce import Reproduction

log = logging.getLogger("dreamer_ray")

SEEDS = {"cpu": 2, "gpu": 8}
UNFINISHED = OutOfTimeError.exit_code
"""Exit code where the time was over before the work: that of a failure which is gone when one tries again."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``reproduce`` and its options."""
    parser = verbs.add_parser("reproduce", help="reproduce a result of the paper, with intervals over seeds", description=__doc__)
    parser.add_argument(
        "result", choices=("imagination",), help="random play, BC without world model, WM+BC, and imagination training (Fig. 4, Table 7)"
    )
    parser.add_argument("overrides", metavar="path=value", nargs="*", help="values to use instead of those of the shipped recipe")
    parser.add_argument(
        "--size", choices=tuple(SEEDS), default="cpu", help="cpu: hours on two cores, shows a direction; gpu: one large GPU (default: cpu)"
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="phase-2 seeds; more may be added later (default: cpu 2, gpu 8)")
    parser.add_argument(
        "--variant",
        metavar="NAME:path=value,...",
        action="append",
        default=[],
        help="also train and play the recipe with these values of agent and imagination, and compare (may be given several times)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the results go (default: runs/reproduce-imagination-SIZE)")
    parser.add_argument(
        "--minutes",
        metavar="M",
        type=float,
        help=f"stop at the first checkpoint after so long, with exit code {UNFINISHED}; the same command goes on",
    )
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.set_defaults(act=act, goes_on="; the same command goes on from the last checkpoint")


def act(options: argparse.Namespace) -> int:
    """Reproduces what ``options`` name; 0, or ``UNFINISHED``."""
    seeds = SEEDS[options.size] if options.seeds is None else options.seeds
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one phase-2 seed is needed")
    if options.minutes is not None and not 0 < options.minutes < float("inf"):
        raise UserError(f"--minutes {options.minutes:g}: expected more than 0")
    from dreamer_ray.config_file import load_config
    from dreamer_ray.recipe import Recipe
    from dreamer_ray.reproduce import Reproduction, Variant
    from dreamer_ray.run_folder import locked

    def load(*changes: str) -> Recipe:
        return load_config(Recipe, shipped_recipe(options.result, options.size), [*options.overrides, *changes])

    recipe = load()
    variants = {name: Variant(load(*changes), ", ".join(changes)) for name, changes in named(options.variant).items()}
    folder = (options.out or Path("runs") / f"reproduce-{options.result}-{options.size}").absolute()
    reproduction = Reproduction(recipe, folder, seeds, variants)
    reproduction.check()
    with locked(folder):
        console.copy_to(folder / "run.log")
        if not _finished(reproduction, options.minutes):
            return UNFINISHED
    log.info("finished: %s", folder / "reproduce.html")
    return 0


def _finished(reproduction: "Reproduction", minutes: float | None) -> bool:
    from dreamer_ray.loopback import named_cluster

    if named_cluster():
        from dreamer_ray.distributed.reproduce import reproduce_on_ray as reproduce
    else:
        from dreamer_ray.reproduce import reproduce
    try:
        reproduce(reproduction, Deadline(None if minutes is None else 60 * minutes, time.time))
    except OutOfTimeError as stopped:
        log.info("%s; give the same command again to go on", stopped)
        return False
    return True


def named(given: Sequence[str]) -> dict[str, list[str]]:
    """The values of each variant by its name. Raises ``UserError`` where one is not ``NAME:path=value,...`` or a name comes twice."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, colon, values = text.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9_]+", name) or "=" not in values:
            raise UserError(f"--variant {text}: expected NAME:path=value,..., such as patient:imagination.loss.gamma=0.95")
        if name in found:
            raise UserError(f"--variant {text}: there is another variant {name}")
        found[name] = re.split(r",(?=[A-Za-z_][\w.]*=)", values)
    return found


def shipped_recipe(result: str, size: str) -> Path:
    """The recipe that the package brings, in a clone as in an installed wheel."""
    assert result == "imagination"
    return Path(str(files("dreamer_ray") / "configs" / "crafter" / f"reproduce_{size}.yaml"))
