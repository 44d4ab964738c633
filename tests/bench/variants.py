"""Variants of a recipe beside the recipe: held-out figures, the mean paired difference over seeds of training and its 95% t interval.

    python tests/bench/variants.py RECIPE [key=value ...] [--runs DIR] [--out DIR] [--seeds N] [--steps N]
        [--variants NAME ...] [--json FILE]

What of the run DIR/NAME comes before the dynamics is done once, if it is not there. Then for every seed the recipe and each variant train
the dynamics (variants of imagination: on the recipe's dynamics and agent of that seed) from the same initial weights, on the same batches.
``--steps`` are those of the dynamics. A variant is one of those below or ``key=value,key=value``. What is finished is never done again:
the same command goes on, also with more seeds or variants.
"""

import argparse
import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

BASE = "base"
PREPARED = ("record", "tokenizer", "encode")
TRAINED = {"dynamics": ("dynamics",), "imagination": ("dynamics", "agent", "imagination")}
"""What is trained for a variant, the last by the variant's values, all before it by those of the recipe."""
SEED_STEP = 1000
BETTER = {"error_over_copy": -1, "action_following": 1, "ladder_events": 1, "tasks_achieved": 1}
"""Whether more of a figure is better or less, by the beginning of its name."""
HELD_OUT = ("evaluation.windows", "evaluation.dream_frames", "evaluation.pictures", "evaluation.sampling_steps")
PLAYED = ("evaluation.worlds", "evaluation.length", "evaluation.worlds_per_call", "evaluation.seed")


def variants_of(recipe) -> dict[str, list[str]]:
    """What can be named, with the values that it has instead of those of ``recipe``."""
    found = {
        "velocity": ["dynamics.forcing.weighting=velocity"],
        "optimal_transport": ["dynamics.forcing.pairing=optimal_transport"],
        "ema_teacher": ["dynamics.forcing.teacher=ema"],
        "muon": ["dynamics.fit.optimizer.kind=muon"],
        "bootstrap_eighth": ["dynamics.forcing.bootstrap_fraction=0.125"],
        "bootstrap_half": ["dynamics.forcing.bootstrap_fraction=0.5"],
        "standardize_other": [f"dynamics.model.standardize={str(not recipe.dynamics.model.standardize).lower()}"],
    }
    if recipe.imagination is not None:
        found["slow_value"] = ["imagination.loss.slow_value=0.98"]
        found["horizon_double"] = [f"imagination.horizon={2 * recipe.imagination.horizon}"]
    return found


@dataclass(frozen=True)
class Job:
    """One training and its figures: ``variant`` at seed ``seed``."""

    variant: str
    overrides: tuple[str, ...]
    seed: int
    kind: str
    """``dynamics`` or ``imagination``."""

    def folder(self, out: Path) -> Path:
        """Its run folder."""
        return out / re.sub(r"[^\w.=-]", "_", self.variant) / f"seed-{self.seed}"

    @property
    def figures(self) -> str:
        """Name of the stage that measures."""
        return f"{self.kind}_figures"


def chosen(names: Sequence[str], recipe) -> dict[str, list[str]]:
    """Overrides by variant."""
    known = variants_of(recipe)
    unknown = [name for name in names if name not in known and "=" not in name]
    if unknown:
        raise SystemExit(f"--variants {' '.join(unknown)}: there are {', '.join(known)}, or key=value,key=value")
    found = {name: known.get(name) or name.split(",") for name in names or known}
    wrong = [key for keys in found.values() for key in keys if key.split(".")[0] not in TRAINED]
    if wrong:
        raise SystemExit(f"{', '.join(wrong)}: only {' and '.join(TRAINED)} are trained for a variant; see dreamer-ray reproduce --variant")
    return found


def jobs_of(variants: Mapping[str, Sequence[str]], seeds: int) -> list[Job]:
    """Seed by seed the recipe, then each variant of it."""
    kinds = {name: "imagination" if all(key.startswith("imagination.") for key in keys) else "dynamics" for name, keys in variants.items()}
    found = []
    for seed in range(seeds):
        found += [Job(BASE, (), seed, kind) for kind in TRAINED if kind in kinds.values()]
        found += [Job(name, tuple(keys), seed, kinds[name]) for name, keys in variants.items()]
    return found


def stages_of(recipe, job: Job) -> list[Any]:
    """What is done for a job, in order."""
    from dreamer_ray.run import Stage, recipe_stages

    wanted = (*PREPARED, *TRAINED[job.kind])
    stages = [stage for stage in recipe_stages(recipe) if stage.name in wanted]
    inputs, sections = {
        "dynamics": (("record", "tokenizer", "dynamics"), HELD_OUT),
        "imagination": (("tokenizer", "agent", "imagination"), PLAYED),
    }[job.kind]
    return [*stages, Stage(job.figures, inputs, sections)]


def prepare(recipe, run: Path, doing: Mapping[str, Any]) -> None:
    """The stages before the dynamics, where they are not done."""
    from dreamer_ray.run import execute, plan, recipe_stages
    from dreamer_ray.run_folder import locked
    from dreamer_ray.stages import check_inputs

    with locked(run):
        decided = plan([stage for stage in recipe_stages(recipe) if stage.name in PREPARED], recipe, run)
        if decided.work:
            execute(decided, doing, check_inputs)


def do(job: Job, options: argparse.Namespace, run: Path, doing: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a job, trained and measured where that is not done; what it shares with others is linked."""
    from dreamer_ray.run import execute, plan
    from dreamer_ray.stages import check_inputs

    recipe, folder = recipe_of(options, job.seed, job.overrides), job.folder(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    base = Job(BASE, (), job.seed, job.kind).folder(options.out)
    before = {} if job.variant == BASE else dict.fromkeys(TRAINED[job.kind][:-1], base)
    for stage, origin in (dict.fromkeys(PREPARED, run) | before).items():
        if not (folder / stage).is_symlink():
            (folder / stage).symlink_to((origin / stage).resolve())
    decided = plan(stages_of(recipe, job), recipe, folder)
    return execute(decided, doing, check_inputs)[job.figures] if decided.work else figures_of(job, options.out) or {}


def recipe_of(options: argparse.Namespace, seed: int, overrides: Sequence[str]):
    """The recipe with the values of a variant, its weights, batches and dreams drawn by other seeds; variants share those of a seed."""
    from dreamer_ray.config_file import load_config, parse_config
    from dreamer_ray.recipe import Recipe

    steps = [f"dynamics.fit.steps={options.steps}"] if options.steps else []
    values = load_config(Recipe, options.recipe, [*options.overrides, *steps, *overrides]).model_dump(mode="json")
    for section, part in (("dynamics", "batches"), ("agent", "batches"), ("imagination", "contexts")):
        if values[section] is not None:
            for drawn in (part, "fit"):
                values[section][drawn]["seed"] += SEED_STEP * seed
    return parse_config(Recipe, values, f"seed {seed}")


def figures_of(job: Job, out: Path) -> dict[str, float] | None:
    """What was measured of a job, None before."""
    from dreamer_ray.run_folder import read_record

    record = read_record(job.folder(out) / job.figures)
    return None if record is None or record.fingerprint is None else record.figures


def held_out(context) -> dict[str, float]:
    """Errors of dreams of held-out windows beside copying, and how much the actions matter: one frame ahead and at the end."""
    from dreamer_ray.measure import measure

    found = measure(context.recipe.model_copy(update={"agent": None, "imagination": None}), context.run).figures
    names = [f"{name}_at_{t}" for name in ("error_over_copy", "action_following") for t in (1, context.recipe.evaluation.dream_frames)]
    return {name: found[name] for name in dict.fromkeys(names) if name in found}


def played(spread, context) -> dict[str, float]:
    """Of fresh worlds in which the agent acts, the same for all: events of the ladder, and tasks of it that were achieved."""
    from dreamer_ray.closed_loop import matches, play_match
    from dreamer_ray.domain import domain_of

    section, rungs = context.recipe.evaluation, domain_of(context.recipe).rungs.values()
    worlds = matches({"imagination": range(section.seed, section.seed + section.worlds)}, section.worlds_per_call)
    counts = [e.counts for _, found in spread(partial(play_match, context.recipe, context.run), worlds) for e in found]
    return {
        "ladder_events": sum(sum(count[place] for place in rungs) for count in counts) / len(counts),
        "tasks_achieved": sum(sum(count[place] > 0 for place in rungs) for count in counts) / len(counts),
    }


def compared(variants: Mapping[str, Sequence[str]], out: Path, seeds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """By variant and figure the values of both at the seeds that both have, and the paired difference."""
    from dreamer_ray.evaluation.intervals import paired_difference

    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in variants}
    jobs = {(job.variant, job.seed, job.kind): figures_of(job, out) for job in jobs_of(variants, seeds)}
    for (name, seed, kind), figures in jobs.items():
        before = jobs[BASE, seed, kind]
        for figure, value in (figures or {}).items() if name != BASE and before else ():
            values = found[name].setdefault(figure, {"seeds": [], "base": [], "variant": []})
            values["seeds"].append(seed)
            values["base"].append(before[figure])
            values["variant"].append(value)
    for values in (values for figures in found.values() for values in figures.values()):
        interval = asdict(paired_difference(values["variant"], values["base"]))
        values["difference"] = {key: None if math.isnan(number) else number for key, number in interval.items()}
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A line for each variant and figure."""
    lines = [f"{'variant':24} {'figure':24} {'n':>2} {'base':>8} {'variant':>8} {'difference':>10}  95% interval"]
    for name, figures in found.items():
        for figure, values in figures.items():
            difference, means = values["difference"], [sum(values[key]) / len(values[key]) for key in ("base", "variant")]
            bounds, word = "(one seed)", ""
            if difference["low"] is not None:
                bounds = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
                better = next(sign for beginning, sign in BETTER.items() if figure.startswith(beginning))
                word = verdict(better * difference["low"], better * difference["high"])
            numbers = " ".join(f"{number:8.4f}" for number in means)
            lines.append(f"{name:24} {figure:24} {difference['n']:2} {numbers} {difference['value']:+10.4f}  {bounds}{word}")
    return lines


def verdict(one: float, other: float) -> str:
    """What an interval of a gain says, its bounds in any order."""
    return " better" if min(one, other) > 0 else " worse" if max(one, other) < 0 else ""


def main() -> None:
    """Does what is missing, tells after every job how far it is, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, help="default: RUNS/NAME-variants")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, help="of the dynamics; default: the recipe's")
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from dreamer_ray.cli import console
    from dreamer_ray.deadline import Deadline
    from dreamer_ray.in_process import executors, processes
    from dreamer_ray.progress import duration
    from dreamer_ray.run_folder import locked

    console.show(debug=False)
    log, recipe = logging.getLogger("dreamer_ray"), recipe_of(options, 0, ())
    run = (options.runs / recipe.name).absolute()
    options.out = (options.out or options.runs / f"{recipe.name}-variants").absolute()
    variants = chosen(options.variants, recipe)
    jobs = jobs_of(variants, options.seeds)
    missing = [job for job in jobs if figures_of(job, options.out) is None]
    with locked(options.out), processes(recipe.cluster.replicas, Deadline()) as spread:
        doing = executors(spread, Deadline()) | {"dynamics_figures": held_out, "imagination_figures": partial(played, spread)}
        prepare(recipe, run, doing)
        begun = time.monotonic()
        for job in jobs:
            do(job, options, run, doing)
            if job in missing:
                done = missing.index(job) + 1
                left = duration((time.monotonic() - begun) / done * (len(missing) - done))
                log.info("variants      %d/%d trainings  seed %d  %s  ETA %s", done, len(missing), job.seed, job.variant, left)
    found = compared(variants, options.out, options.seeds)
    print("\n".join(table(found)))
    if options.json:
        changed = {"recipe": recipe.model_dump(mode="json"), "overrides": variants, "compared": found}
        options.json.write_text(json.dumps(changed, indent=1))


if __name__ == "__main__":
    main()
