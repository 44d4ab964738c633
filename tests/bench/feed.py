"""What the data pipeline costs a training step: batches that Ray Data loads meanwhile, against the same batches held in memory.

    python tests/bench/feed.py RECIPE [key=value ...] --runs DIR [--stages tokenizer dynamics] [--steps 320] [--repeats 5] [--json FILE]

The run DIR/NAME of the recipe must have finished what comes before the stages. Both kinds take turns in the same process, with the stage's
own ``fit`` and the recipe's threads; ratios are of medians, without the first steps. Run it on an idle machine.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WANTED = 1.15
"""Time of a step over that of a preloaded one, at most."""


def seconds(recipe, run: Path, stage: str, batches: Callable[[int], Iterator[Any]], *, steps: int) -> float:
    """Of a step, the median over the parts of a run of ``fit`` but the first."""
    import torch

    from dreamer_ray.stages import supervised
    from dreamer_ray.training.loop import Place, fit

    torch.set_num_threads(recipe.cluster.threads)
    job, rates = supervised(stage, recipe, run), []
    config = job.fit.model_copy(update={"steps": steps, "log_every": max(1, steps // 20), "checkpoint_every": steps})
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "checkpoints", lambda _, figures: rates.append(figures["steps_per_second"]))
        fit(job.phase, batches, config, place=place, made_by=job.made_by)
    torch.set_num_threads(1)
    return 1 / statistics.median(rates[1:])


def measure(recipe, run: Path, stage: str, *, steps: int, repeats: int) -> dict[str, list[float]]:
    """Seconds a step, by kind."""
    from dreamer_ray.distributed.batches import stream
    from dreamer_ray.stages import feed

    source, found = feed(stage, recipe, run), {"pipeline": [], "preloaded": []}
    held = [source.load(step, rank=0, world=1) for step in range(steps)]
    kinds = {"pipeline": stream(stage, recipe, run, steps=steps, rank=0, world=1), "preloaded": lambda start: iter(held[start:])}
    for repeat in range(repeats):
        for kind, batches in kinds.items():
            found[kind].append(seconds(recipe, run, stage, batches, steps=steps))
        print(f"{stage} {repeat + 1}/{repeats}: " + "  ".join(f"{kind} {values[-1] * 1e3:.1f} ms" for kind, values in found.items()))
    return found


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--stages", nargs="+", default=["tokenizer", "dynamics"])
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from dreamer_ray.config_file import load_config
    from dreamer_ray.loopback import bind_ray_to_loopback
    from dreamer_ray.recipe import Recipe

    bind_ray_to_loopback()
    from dreamer_ray.distributed.cluster import cluster

    recipe, found = load_config(Recipe, options.recipe, options.overrides), {}
    with cluster(recipe, options.stages):
        for stage in options.stages:
            run = (options.runs / recipe.name).absolute()
            found[stage] = measure(recipe, run, stage, steps=options.steps, repeats=options.repeats)
    ratios = {stage: statistics.median(times["pipeline"]) / statistics.median(times["preloaded"]) for stage, times in found.items()}
    for stage, ratio in ratios.items():
        print(f"{stage}: a step fed by the pipeline takes {ratio:.3f} of one fed from memory (wanted at most {WANTED})")
    if options.json:
        options.json.write_text(json.dumps({"seconds": found, "ratios": ratios}, indent=1))
    if missed := [stage for stage, ratio in ratios.items() if ratio > WANTED]:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
