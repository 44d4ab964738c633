"""The report stage: everything that a run has left in its folder, as one page, one JSON file and one table."""

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dreamer_ray.envs.crafter import ACTIONS, LADDER, TASKS
from dreamer_ray.errors import RunError
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.intervals import Interval, mean, paired_difference, success_rate
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
    "agent_scratch": "cloning, no pretraining",
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
    return Report(
        title=recipe.name,
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        environment=_environment(),
        stages=_stages(run),
        curves=curves,
        originals=arrays["originals"],
        reconstructions=arrays["reconstructions"],
        dreams=_dreams(arrays, recipe.dynamics.model.transformer.context - 1),
        quality=quality_rows(measured.figures, scratch=recipe.agent.scratch) + closed_loop_rows(episodes),
        actions=_actions(arrays),
        success=[_task(task, episodes) for task in LADDER] + [_task(task, episodes) for task in TASKS if task not in LADDER],
        scores=_scores(episodes),
        comparisons=_comparisons(episodes) + _first_and_last(rounds),
        rounds=_round_curves(rounds),
        notes=_notes(recipe),
    )


def quality_rows(figures: dict[str, float], *, scratch: bool) -> list[Quality]:
    """Each held-out figure beside its trivial baseline, with the targets of the tiny recipe."""
    last = max(int(name.rsplit("_", 1)[1]) for name in figures if name.startswith("dream_psnr_at_"))

    def row(metric: str, model: str, baseline: str, value: float, target: str | None = None, *, met: bool | None = None) -> Quality:
        return Quality(metric, figures[model], baseline, value, target, met)

    psnr, entropy = figures["reconstruction_psnr"], figures["base_rate_cross_entropy_agent"]
    mean_frame, blocks = figures["mean_frame_psnr"], figures["block_average_psnr"]
    reconstruction = "reconstruction, PSNR in dB"
    rows = [
        row(reconstruction, "reconstruction_psnr", "mean frame", mean_frame, "6 dB above", met=psnr >= mean_frame + 6),
        row(reconstruction, "reconstruction_psnr", "block averages, as many numbers", blocks, "3.5 dB above", met=psnr >= blocks + 3.5),
        row("share of saturated latents", "saturated", "none", 0.0, "below 0.3", met=figures["saturated"] < 0.3),
    ]
    for at in sorted({1, last}):
        target = ("at most 0.95", figures[f"error_over_copy_at_{at}"] <= 0.95) if at == 8 else (None, None)
        name = f"{at} frame{'s' if at > 1 else ''} ahead"
        rows += [
            row(f"dream, {name}, PSNR in dB", f"dream_psnr_at_{at}", "copy of the last frame", figures[f"copy_psnr_at_{at}"]),
            row(f"dream, {name}, error over copying", f"error_over_copy_at_{at}", "copy of the last frame", 1.0, target[0], met=target[1]),
            row(f"the same against reconstructions, {name}", f"error_over_copy_in_reconstruction_at_{at}", "copied reconstruction", 1.0),
            row(f"error over copying on changed tiles, {name}", f"error_over_copy_on_changed_tiles_at_{at}", "copy of the last frame", 1.0),
            row(
                f"the same against reconstructions, on changed tiles, {name}",
                f"error_over_copy_in_reconstruction_on_changed_tiles_at_{at}",
                "copied reconstruction",
                1.0,
            ),
        ]
        following = figures[f"action_following_at_{at}"]
        goal = ("at least 1.08", following >= 1.08) if at == 1 else (None, None)
        rows.append(
            row(f"error under other actions over error, {name}", f"action_following_at_{at}", "actions ignored", 1.0, goal[0], met=goal[1])
        )
    gain, reward = figures["action_log_prob_agent"] - figures["marginal_log_prob_agent"], figures["reward_cross_entropy_agent"]
    marginal = figures["marginal_log_prob_agent"]
    rows.append(
        row("log-probability of recorded actions, nats", "action_log_prob_agent", "marginal", marginal, "0.4 above", met=gain >= 0.4)
    )
    if scratch:
        rows.append(row("the same without pretrained dynamics", "action_log_prob_agent_scratch", "marginal", marginal))
    rows.append(row("the same after imagination", "action_log_prob_imagination", "marginal", marginal))
    rows.append(
        row("reward, cross-entropy in nats", "reward_cross_entropy_agent", "base rate", entropy, "at most half", met=reward <= entropy / 2)
    )
    return rows


def closed_loop_rows(episodes: Episodes) -> list[Quality]:
    """What the agent reaches in the environment, with the targets of the tiny recipe."""
    rows = []
    for task, target in (("collect_wood", 0.6), ("place_table", 0.2)):
        shares = {v: _task(task, episodes).variants[VARIANTS[v]].value for v in ("random", "agent")}
        name = f"behaviour cloning, share of episodes with {task}"
        rows.append(Quality(name, shares["agent"], "random play", shares["random"], f"at least {target:g}", shares["agent"] >= target))
    gain = _paired(episodes, ("collect_wood",))
    name = "wood an episode, after imagination minus behaviour cloning"
    return [*rows, Quality(name, gain.value, "no gain", 0.0, "not below beyond the interval", gain.high >= 0)]


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


def _dreams(arrays: dict[str, np.ndarray], context: int) -> list[Dream]:
    pairs = zip(arrays["dream_truth"], arrays["dream"], strict=True)
    caption = f"Held-out window, dreamed on from {context} real frames under the recorded actions."
    return [Dream(caption, truth, dreamed, context=min(SHOWN_CONTEXT, context)) for truth, dreamed in pairs]


def _actions(arrays: dict[str, np.ndarray]) -> ActionShares:
    series = {"recorded": "policy_data"} | {VARIANTS[variant]: f"policy_{variant}" for variant in VARIANTS if f"policy_{variant}" in arrays}
    return ActionShares(list(ACTIONS), {name: arrays[key].tolist() for name, key in series.items()})


def _task(task: str, episodes: Episodes) -> Score:
    index = TASKS.index(task)
    return Score(
        task,
        {
            VARIANTS[v]: success_rate(sum(played.counts[index] > 0 for played in all_played), len(all_played))
            for v, all_played in episodes.items()
        },
    )


def _scores(episodes: Episodes) -> list[Score]:
    wood = TASKS.index("collect_wood")
    per_episode = {
        "ladder tasks an episode": lambda played: sum(played.counts[TASKS.index(task)] > 0 for task in LADDER),
        "achievements an episode": lambda played: sum(count > 0 for count in played.counts),
        "wood an episode": lambda played: played.counts[wood],
        "steps an episode": lambda played: played.steps,
    }
    return [
        Score(name, {VARIANTS[v]: mean([float(figure(played)) for played in all_played]) for v, all_played in episodes.items()})
        for name, figure in per_episode.items()
    ]


def _comparisons(episodes: Episodes) -> list[Comparison]:
    return [
        Comparison(f"{name} an episode: after imagination - behaviour cloning", _paired(episodes, tasks), "paired t, the same worlds")
        for name, tasks in (("wood", ("collect_wood",)), ("ladder events", LADDER))
    ]


def _first_and_last(rounds: Sequence[Round]) -> list[Comparison]:
    shared = sorted(rounds[0].worlds.keys() & rounds[-1].worlds.keys()) if rounds else []
    if len(rounds) < 2 or not shared:
        return []
    last, first = ([float(played.worlds[seed]) for seed in shared] for played in (rounds[-1], rounds[0]))
    name = f"ladder events an episode in training: version {rounds[-1].version} - version {rounds[0].version}"
    return [Comparison(name, paired_difference(last, first), "paired t, the same worlds")]


def _round_curves(rounds: Sequence[Round]) -> Mapping[str, Sequence[tuple[int, Interval]]]:
    achieved = [task for task in LADDER if any(played.success[task].value for played in rounds)]
    curves = {task: [(played.version, played.success[task]) for played in rounds] for task in achieved}
    return ({"ladder events an episode": [(played.version, played.ladder_events) for played in rounds]} if rounds else {}) | curves


def _paired(episodes: Episodes, tasks: tuple[str, ...]) -> Interval:
    counts = {v: [float(sum(played.counts[TASKS.index(t)] for t in tasks)) for played in episodes[v]] for v in ("imagination", "agent")}
    return paired_difference(counts["imagination"], counts["agent"])


def _notes(recipe: Recipe) -> list[str]:
    return [
        (
            f"Episodes of {recipe.evaluation.length} steps in fresh worlds, the same for all variants; actions are sampled; "
            "the prompt is the lowest task of the ladder that the episode has not achieved yet."
        ),
        "wake_up and place_plant come by themselves in random play; they say nothing about skill.",
    ]


def _environment() -> dict[str, str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "crafter", "numpy"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": " ".join(["dreamer-ray", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, {memory:.0f} GiB, {torch.cuda.device_count()} GPUs, {platform.machine()}",
        "versions": f"Python {platform.python_version()}, {packages}",
    }
