"""One table of rates: how it is measured, and how a saved one is read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from dreamer_ray.bench.data import data_rates
from dreamer_ray.bench.engine import engine_rates
from dreamer_ray.bench.rates import Machine, Precision, Rate, this_machine
from dreamer_ray.bench.training import training_rates
from dreamer_ray.config import Config, fingerprint
from dreamer_ray.config_file import parse_config
from dreamer_ray.errors import UserError
from dreamer_ray.recipe import Recipe

Kind = Literal["engine", "train", "data"]


class Bench(Config):
    """One table, as it is saved."""

    kind: Kind
    recipe: str
    recipe_fingerprint: str
    """Of all but the cluster section, whose switches are what one compares."""
    machine: Machine
    rates: tuple[Rate, ...]


def bench(kind: Kind, recipe: Recipe, *, worlds: Sequence[int], seconds: float, device: str, report: Callable[[Rate], object]) -> Bench:
    """Measures everything of ``kind``, about ``seconds`` for each figure; ``report`` hears of each line as it is there."""
    lines = {
        "engine": engine_rates(recipe, worlds=worlds, seconds=seconds, device=device),
        "train": training_rates(recipe, seconds=seconds, device=device),
        "data": data_rates(recipe, seconds=seconds),
    }
    dreaming = recipe.cluster.dreaming.precision
    precision: dict[Kind, Precision] = {
        "engine": "bf16" if dreaming == "fp8" else dreaming,  # attention, which is not of eight bits, and products are counted together
        "train": recipe.cluster.tuning.precision,
        "data": "fp32",
    }
    machine, rates = this_machine(seconds, device, precision[kind]), []
    for rate in lines[kind]:  # measured as they are asked for
        report(rate)
        rates.append(rate)
    return Bench(kind=kind, recipe=recipe.name, recipe_fingerprint=_sizes(recipe), machine=machine, rates=tuple(rates))


def read_bench(path: Path, kind: Kind, recipe: Recipe) -> Bench:
    """The table saved at ``path``. Raises ``UserError`` where it cannot be read, or is of another kind or another recipe."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no table that bench saved ({' '.join(str(error).split())})") from error
    saved = parse_config(Bench, values, str(path))
    if saved.kind != kind:
        raise UserError(f"{path}: holds a table of {saved.kind}, not of {kind}")
    if saved.recipe_fingerprint != _sizes(recipe):
        raise UserError(f"{path}: the recipe {saved.recipe} had other values when it was saved; only its cluster section may differ")
    return saved


def _sizes(recipe: Recipe) -> str:
    return fingerprint(recipe.model_dump(mode="json", exclude={"cluster"}))
