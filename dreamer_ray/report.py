"""The report stage: everything that a run has left in its folder, as one page, one JSON file and one table."""

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dreamer_ray.data.shards import Manifest, open_shards
from dreamer_ray.domain import Domain, domain_of
from dreamer_ray.errors import RunError
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.intervals import Interval, mean, paired_difference, success_rate
from dreamer_ray.evaluation.quality import quality_rows
from dreamer_ray.evaluation.report import ActionShares, Comparison, Dream, Quality, Report, Score, StageTime, text_table, write_report
from dreamer_ray.evaluation.rounds import Round, read_rounds
from dreamer_ray.measure import SHOWN_CONTEXT, Measurements
from dreamer_ray.recipe import Recipe
from dreamer_ray.run import StageContext
from dreamer_ray.run_folder import read_record
from dreamer_ray.training.metrics import read_curves

log = logging.getLogger("dreamer_ray")

VARIANTS = {
    "random": "random play",
    "agent_scratch": "cloning, no world model",
    "agent": "behaviour cloning",
    "imagination": "after imagination",
}
UNITS = {"record": "frames", "encode": "frames", "imagination": "updates"}
RATES = ("steps_per_second", "data_wait")

Episodes = dict[str, list[EpisodeResult]]


def save_evaluation(folder: Path, measured: Measurements, episodes: Episodes) -> None:
    """Writes what the evaluate stage has found into its folder. Raises ``RunError`` where the disk is full."""
    try:
        save_file({name: array.contiguous() for name, array in measured.arrays.items()}, folder / "arrays.safetensors")
    except SafetensorError as error:
        raise RunError(f"{folder}: not written ({error}); make room and run again without --from: what was played is kept") from error
    results = {variant: [asdict(episode) for episode in played] for variant, played in episodes.items()}
    (folder / "results.json").write_text(json.dumps({"figures": measured.figures, "episodes": results}))


def report(context: StageContext) -> dict[str, Any]:
    """Writes ``report.html`` and ``summary.json`` into the run folder and shows the table of success."""
    folder = context.run / "evaluate"
    results = json.loads((folder / "results.json").read_text())
    episodes = {variant: [EpisodeResult(**played) for played in all_played] for variant, all_played in results["episodes"].items()}
    measured = Measurements(results["figures"], load_file(folder / "arrays.safetensors"))
    page = build_report(context.recipe, context.run, measured, episodes)
    write_report(context.run, page)
    for line in text_table(page).splitlines():
        log.info("%s", line)
    return {"report": str(context.run / "report.html")}


def build_report(recipe: Recipe, run: Path, measured: Measurements, episodes: Episodes) -> Report:
    """The report of the run in folder ``run``."""
    names = {stage: read_curves(run / stage) for stage in ("tokenizer", "dynamics", "agent", "agent_scratch", "imagination")}
    curves: dict[str, dict[str, Sequence[tuple[int, float]]]] = {
        stage: {name: points for name, points in found.items() if name not in RATES} for stage, found in names.items() if found
    }
    arrays, rounds = {name: array.numpy() for name, array in measured.arrays.items()}, read_rounds(run / "imagination")
    manifest = open_shards(run / "record" / "heldout").manifest
    domain = domain_of(recipe, manifest.shard_schema)
    return Report(
        title=recipe.name,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        environment=environment(),
        stages=_stages(run),
        curves=curves,
        originals=arrays["originals"],
        reconstructions=arrays["reconstructions"],
        dreams=_dreams(arrays, recipe.dynamics.model.transformer.context - 1, domain),
        quality=held_out_rows(measured.figures, domain) + (closed_loop_rows(episodes, domain) if episodes else []),
        actions=_actions(arrays, domain),
        success=[_task(task, episodes, domain) for task in dict.fromkeys([*domain.ladder, *domain.tasks])] if episodes else [],
        scores=_scores(episodes, domain),
        comparisons=_comparisons(episodes, domain) + _first_and_last(rounds),
        rounds=_round_curves(rounds, domain),
        notes=_played_notes(recipe) if episodes else _unplayed_notes(recipe, domain, manifest),
    )


def held_out_rows(figures: dict[str, float], domain: Domain) -> list[Quality]:
    """Each held-out figure beside its trivial baseline, with the targets of the tiny recipe where the domain is held to any."""
    rows = quality_rows(figures)
    return rows if domain.targets else [replace(row, target=None, met=None) for row in rows]


def closed_loop_rows(episodes: Episodes, domain: Domain) -> list[Quality]:
    """What the agent reaches in the environment, with the domain's targets."""
    rows = []
    for task, target in domain.targets.items():
        shares = {v: _task(task, episodes, domain).variants[VARIANTS[v]].value for v in ("random", "agent")}
        name = f"behaviour cloning, share of episodes with {task}"
        rows.append(Quality(name, shares["agent"], "random play", shares["random"], f"at least {target:g}", shares["agent"] >= target))
    if "imagination" not in episodes:
        return rows
    gain, target = _paired(episodes, domain.ladder[:1], domain), "not below beyond the interval" if domain.targets else None
    name = f"{_first_rung(domain)} an episode, after imagination minus behaviour cloning"
    return [*rows, Quality(name, gain.value, "no gain", 0.0, target, gain.high >= 0 if target else None)]


def _stages(run: Path) -> list[StageTime]:
    times = []
    for stage in ("record", "tokenizer", "encode", "dynamics", "agent", "agent_scratch", "imagination", "evaluate"):
        record = read_record(run / stage)
        if record is None:
            continue
        steps = record.figures.get("frames") or record.figures.get("episodes") or record.figures.get("steps") or 0
        unit = UNITS.get(stage, "episodes" if stage == "evaluate" else "steps")
        times.append(StageTime(stage, record.seconds, int(steps), steps / record.seconds if record.seconds else 0.0, unit))
    return times


def _dreams(arrays: dict[str, np.ndarray], context: int, domain: Domain) -> list[Dream]:
    pairs = zip(arrays["dream_truth"], arrays["dream"], strict=True)
    under = " under the recorded actions" if domain.action_space else ""
    caption = f"Held-out window, dreamed on from {context} real frames{under}."
    return [Dream(caption, truth, dreamed, context=min(SHOWN_CONTEXT, context)) for truth, dreamed in pairs]


def _actions(arrays: dict[str, np.ndarray], domain: Domain) -> ActionShares | None:
    if "policy_data" not in arrays:
        return None
    series = {"recorded": "policy_data"} | {VARIANTS[variant]: f"policy_{variant}" for variant in VARIANTS if f"policy_{variant}" in arrays}
    names = [name for words in domain.countable.values() for name in words]
    return ActionShares(names, {name: arrays[key].tolist() for name, key in series.items()})


def _first_rung(domain: Domain) -> str:
    """What the first task of the ladder gives."""
    return domain.ladder[0].removeprefix("collect_")


def _task(task: str, episodes: Episodes, domain: Domain) -> Score:
    index = domain.tasks.index(task)
    return Score(
        task,
        {
            VARIANTS[v]: success_rate(sum(played.counts[index] > 0 for played in all_played), len(all_played))
            for v, all_played in episodes.items()
        },
    )


def _scores(episodes: Episodes, domain: Domain) -> list[Score]:
    if not episodes:
        return []
    places = [*domain.rungs.values()]
    per_episode = {
        "ladder tasks an episode": lambda played: sum(played.counts[place] > 0 for place in places),
        "achievements an episode": lambda played: sum(count > 0 for count in played.counts),
        f"{_first_rung(domain)} an episode": lambda played: played.counts[places[0]],
        "steps an episode": lambda played: played.steps,
    }
    return [
        Score(name, {VARIANTS[v]: mean([float(figure(played)) for played in all_played]) for v, all_played in episodes.items()})
        for name, figure in per_episode.items()
    ]


def _comparisons(episodes: Episodes, domain: Domain) -> list[Comparison]:
    if "imagination" not in episodes:
        return []
    return [
        Comparison(
            f"{name} an episode: after imagination - behaviour cloning", _paired(episodes, tasks, domain), "paired t, the same worlds"
        )
        for name, tasks in ((_first_rung(domain), domain.ladder[:1]), ("ladder events", domain.ladder))
    ]


def _first_and_last(rounds: Sequence[Round]) -> list[Comparison]:
    shared = sorted(rounds[0].worlds.keys() & rounds[-1].worlds.keys()) if rounds else []
    if len(rounds) < 2 or not shared:
        return []
    last, first = ([float(played.worlds[seed]) for seed in shared] for played in (rounds[-1], rounds[0]))
    name = f"ladder events an episode in training: version {rounds[-1].version} - version {rounds[0].version}"
    return [Comparison(name, paired_difference(last, first), "paired t, the same worlds")]


def _round_curves(rounds: Sequence[Round], domain: Domain) -> Mapping[str, Sequence[tuple[int, Interval]]]:
    achieved = [task for task in domain.ladder if any(played.success[task].value for played in rounds)]
    curves = {task: [(played.version, played.success[task]) for played in rounds] for task in achieved}
    return ({"ladder events an episode": [(played.version, played.ladder_events) for played in rounds]} if rounds else {}) | curves


def _paired(episodes: Episodes, tasks: tuple[str, ...], domain: Domain) -> Interval:
    places = [domain.rungs[task] for task in tasks]
    counts = {v: [float(sum(played.counts[place] for place in places)) for played in episodes[v]] for v in ("imagination", "agent")}
    return paired_difference(counts["imagination"], counts["agent"])


def _played_notes(recipe: Recipe) -> list[str]:
    notes = [
        (
            f"Episodes of {recipe.evaluation.length} steps in fresh worlds, the same for all variants; actions are sampled; "
            "the prompt is the lowest task of the ladder that the episode has not achieved yet."
        )
    ]
    by_themselves = "wake_up and place_plant come by themselves in random play; they say nothing about skill."
    return [*notes, by_themselves] if recipe.data.crafter else notes


def _unplayed_notes(recipe: Recipe, domain: Domain, heldout: Manifest) -> list[str]:
    """Why nobody played, and on what the figures stand instead."""
    why = "the recipe has no agent" if recipe.agent is None else "the data are recordings, and there is no world to play in"
    notes = [f"Nothing was played: {why}. All figures are of held-out recordings, and dreams go on from them."]
    if not domain.action_space:
        notes.append("No action was recorded: what is dreamed is the video, which nobody can steer.")
    return [*notes, *heldout.origin.notes]


def environment() -> dict[str, str]:
    """The command, the machine and the versions of what matters and is installed."""
    installed = {found.name: found.version for found in distributions()}
    packages = ", ".join(f"{name} {installed[name]}" for name in ("torch", "ray", "crafter", "numpy") if name in installed)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [f", {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return {
        "command": " ".join(["dreamer-ray", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, {memory:.0f} GiB, {len(gpus)} GPUs{''.join(gpus)}, {platform.machine()}",
        "versions": f"Python {platform.python_version()}, {packages}",
    }
