"""``dreamer-ray bench``: how fast a recipe's sizes dream, train or read data on this machine, beside what the machine can do."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ray.errors import UserError

if TYPE_CHECKING:
    from dreamer_ray.bench.rates import Machine, Rate
    from dreamer_ray.bench.table import Bench

log = logging.getLogger("dreamer_ray")

IDLE = 0.7
"""Load of a machine above which a warning is given."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``bench`` and its options."""
    parser = verbs.add_parser("bench", help="measure the speed of this machine with a recipe's sizes", description=__doc__)
    parser.add_argument("kind", choices=("engine", "train", "data"), help="dreamed frames, training steps, or recording and reading")
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file such as configs/crafter/tiny.yaml")
    parser.add_argument("overrides", metavar="path=value", nargs="*", help="values to use instead of the recipe's")
    parser.add_argument(
        "--worlds", metavar="N,N", type=_counts, default=[1, 16], help="engine: how many worlds are dreamed at once (default: 1,16)"
    )
    parser.add_argument("--seconds", metavar="S", type=_seconds, default=1.0, help="time for each figure (default: 1)")
    parser.add_argument("--threads", metavar="N", type=_count, default=os.cpu_count() or 1, help="of PyTorch (default: all cores)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda (default: cpu)")
    parser.add_argument("--save", metavar="FILE", type=Path, help="write the table to a JSON file")
    parser.add_argument("--compare", metavar="FILE", type=Path, help="show each rate over that of a table saved before")
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.set_defaults(act=act, goes_on="")


def act(options: argparse.Namespace) -> None:
    """Measures, prints and saves the table that ``options`` name."""
    import torch

    from dreamer_ray.bench.table import bench, read_bench
    from dreamer_ray.config_file import load_config
    from dreamer_ray.recipe import Recipe

    recipe = load_config(Recipe, options.recipe, options.overrides)
    before = read_bench(options.compare, options.kind, recipe) if options.compare else None
    try:
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without the device
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {options.device}: cannot be used ({reason}); leave the option out to measure on the CPU") from error
    if options.save and not options.save.absolute().parent.is_dir():
        raise UserError(f"--save {options.save}: there is no folder {options.save.absolute().parent}")
    if (load := os.getloadavg()[0]) > IDLE:
        log.warning("other work runs on this machine (load %.1f): rates and shares will vary; an idle machine measures better", load)
    torch.set_num_threads(options.threads)
    found = bench(
        options.kind,
        recipe,
        worlds=options.worlds,
        seconds=options.seconds,
        device=options.device,
        report=lambda rate: log.info("%s: %.4g %s/s", rate.name, rate.per_second, rate.unit),
    )
    sys.stdout.write(table(found, before))
    if options.save:
        try:
            options.save.write_text(found.model_dump_json(indent=1))
        except OSError as error:
            raise UserError(f"--save {options.save}: cannot be written ({error.strerror})") from error


def table(found: "Bench", before: "Bench | None" = None) -> str:
    """The lines of ``found`` with what they reach of the machine's own speeds, and the ratios to ``before``."""
    lines = [f"{found.kind} of {found.recipe}: {_of(found.machine)}"]
    earlier = {rate.name: rate for rate in before.rates} if before else {}
    if before:
        lines.append(f"compared with: {_of(before.machine)}")
    width = max(len(rate.name) for rate in found.rates) + 2
    for rate in found.rates:
        ratio = _ratio(rate, earlier.get(rate.name)) if before else ""
        lines.append(f"{rate.name:<{width}}{rate.per_second:>10,.1f} {rate.unit}/s  {ratio}{_reached(rate, found.machine)}".rstrip())
    return "\n".join(lines) + "\n"


def _ratio(rate: "Rate", earlier: "Rate | None") -> str:
    return "(not measured before)" if earlier is None else f"{rate.per_second / earlier.per_second:.2f} x before"


def _of(machine: "Machine") -> str:
    return (
        f"{machine.name} ({machine.device}), {machine.threads} thread{'s' if machine.threads > 1 else ''}, torch {machine.torch}; "
        f"{machine.precision} products {machine.operations_per_second / 1e9:,.0f} GFLOP/s, "
        f"copies {machine.bytes_per_second / 1e9:,.1f} GB/s"
    )


def _reached(rate: "Rate", machine: "Machine") -> str:
    parts = []
    if rate.operations_per_second is not None:
        share = rate.operations_per_second / machine.operations_per_second
        parts.append(f"{rate.operations_per_second / 1e9:,.1f} GFLOP/s ({share:.0%})")
    if rate.bytes_per_second is not None:
        parts.append(f"{rate.bytes_per_second / 1e9:,.1f} GB/s ({rate.bytes_per_second / machine.bytes_per_second:.0%})")
    parts += [f"{part} {share:.0%}" for part, share in rate.shares.items()]
    return "".join(f"  {part}" for part in parts)


def _count(text: str) -> int:
    if not text.isdecimal() or (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 on")
    return value


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected seconds, more than 0")
    return value
