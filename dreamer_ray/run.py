"""A run: the graph of a recipe's stages, what of it is still to do (decide), and doing it with executors that are handed in (act)."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dreamer_ray.config import Config, fingerprint
from dreamer_ray.data.recordings import WITHOUT_EFFECT
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.progress import duration
from dreamer_ray.recipe import Recipe
from dreamer_ray.run_folder import FORMAT, Record, discard, read_record, seconds_of_killed, sweep, write_json

log = logging.getLogger("dreamer_ray")


@dataclass(frozen=True)
class Stage:
    """One node of the graph; its results lie in the folder of its name."""

    name: str
    inputs: tuple[str, ...] = ()
    """The stages whose results it reads, all of them."""
    sections: tuple[str, ...] = ()
    """Dotted paths of the recipe on which its result depends, besides those of its inputs."""
    free: tuple[str, ...] = ()
    """Patterns of dotted paths below ``sections`` on which it does not depend."""
    kept: str | None = None
    """Pattern of the files that are left to its executor where it is done again: such as say themselves what they are made from."""


def recipe_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in the order in which they are done."""
    below = "data.crafter" if recipe.data.recordings is None else "data.recordings"
    record, ladder = Stage("record", (), ("data",), free=(f"{below}.ladder",)), (f"{below}.ladder",)
    if recipe.data.recordings is not None:
        record = replace(record, free=tuple(f"{below}.{key}" for key in WITHOUT_EFFECT), kept="*.parquet")
    agent = (*(f"agent.{key}" for key in ("model", "finetuning", "batches", "fit")), *ladder)
    stages = [
        record,
        Stage("tokenizer", ("record",), ("tokenizer", *(ladder if recipe.tokenizer.batches.relevant_fraction else ()))),
        Stage("encode", ("record", "tokenizer")),
        Stage("dynamics", ("encode",), ("dynamics", *(ladder if recipe.dynamics.batches.relevant_fraction else ()))),
    ]
    if recipe.agent is not None:
        stages.append(Stage("agent", ("encode", "dynamics"), agent))
        if recipe.agent.scratch:
            stages.append(Stage("agent_scratch", ("encode",), ("dynamics.model", *agent)))
    if recipe.imagination is not None:
        stages.append(Stage("imagination", ("encode", "agent"), ("imagination",)))
    stages.append(Stage("evaluate", tuple(stage.name for stage in stages), ("evaluation", *ladder)))
    stages.append(Stage("report", tuple(stage.name for stage in stages)))
    return tuple(stages)


def refuse_itself(recipe: Recipe, run_folder: Path) -> None:
    """Raises ``UserError`` where a source is a set of the run itself, which doing ``record`` again would take away."""
    for number, entry in enumerate(recipe.data.recordings.entries() if recipe.data.recordings else ()):
        if entry.source.kind == "shards" and Path(entry.source.path).resolve().is_relative_to(run_folder.resolve()):
            raise UserError(f"sources[{number}]: {entry.source.path} is of this run itself; give this run another name=")


Action = Literal["skip", "resume", "run"]


@dataclass(frozen=True)
class Decision:
    """What is to happen to a stage: nothing, going on, or doing it from its beginning; and why."""

    stage: Stage
    action: Action
    reason: str


@dataclass(frozen=True)
class Plan:
    """Decisions for one run folder, in order."""

    recipe: Recipe
    folder: Path
    decisions: tuple[Decision, ...]

    @property
    def work(self) -> tuple[Decision, ...]:
        """The decisions that are not to skip."""
        return tuple(decision for decision in self.decisions if decision.action != "skip")


@dataclass(frozen=True)
class StageContext:
    """All that an executor is told: it reads the folders of its inputs, writes into its own and returns figures for the manifest."""

    recipe: Recipe
    run: Path
    stage: str

    @property
    def folder(self) -> Path:
        """The folder of this stage."""
        return self.run / self.stage


Executor = Callable[[StageContext], dict[str, Any]]


def plan(stages: Sequence[Stage], recipe: Recipe, run_folder: Path, *, only: str | None = None, start: str | None = None) -> Plan:
    """Reads what is there and decides. ``only`` leaves out all other stages; ``start`` does that stage and all that follow from it again.

    With ``start`` and without ``only`` stages that come later are done again as well where the recipe has other values for them now.

    Raises ``UserError`` where a stage is unknown, its inputs are missing, its records are damaged, or the recipe has changed since.
    """
    records = {stage.name: read_record(run_folder / stage.name) for stage in stages}
    return Plan(recipe, run_folder, tuple(decide(stages, recipe, records, only=only, start=start)))


def decide(
    stages: Sequence[Stage], recipe: Config, records: Mapping[str, Record | None], *, only: str | None = None, start: str | None = None
) -> list[Decision]:
    """The pure part of ``plan``: from stages, values and records to decisions."""
    names = [stage.name for stage in stages]
    for option, name in (("--only", only), ("--from", start)):
        if name is not None and name not in names:
            raise UserError(f"{option} {name}: no such stage; this recipe has {', '.join(names)}")
    if only and start and only != start:
        raise UserError(f"--only {only} --from {start}: name the same stage in both, to do it again alone, or leave one out")
    again = {only} & _following(stages, start) if only else _following(stages, start)
    later = set(names[names.index(start) :]) if start and not only else set()
    decisions: dict[str, Decision] = {}
    for stage in stages:
        if only is None or only in _following(stages, stage.name):
            redone = f"--from {start}" if stage.name in again else _outdated(stage, records, decisions)
            decisions[stage.name] = _decide(stage, recipe, records[stage.name], redone, changeable=stage.name in later)
    if only is None:
        return list(decisions.values())
    missing = [name for name, decision in decisions.items() if decision.action != "skip" and name != only]
    if missing:
        raise UserError(f"--only {only}: it builds on {', '.join(missing)}, not done yet; leave --only out to do all that is missing")
    return [decisions[only]]


def _following(stages: Sequence[Stage], start: str | None) -> set[str]:
    """``start`` and every stage that reads its results, directly or not."""
    found = {start} if start else set()
    for stage in stages:
        if found & set(stage.inputs):
            found.add(stage.name)
    return found


def _outdated(stage: Stage, records: Mapping[str, Record | None], decisions: Mapping[str, Decision]) -> str | None:
    """Why what is there of a stage no longer fits its inputs, or None."""
    record = records[stage.name]
    if record is None or record.damage:
        return None
    now = {name: _result(records[name]) if decisions[name].action == "skip" else None for name in stage.inputs}
    parents = record.parents
    changed = sorted(name for name in parents.keys() | now.keys() if parents.get(name, "none") != now.get(name, "none"))
    return f"its inputs have changed: {', '.join(changed)}" if changed else None


def _result(record: Record | None) -> str | None:
    return record.fingerprint if record else None


def _decide(stage: Stage, recipe: Config, record: Record | None, redone: str | None, *, changeable: bool) -> Decision:
    if record is None:
        return Decision(stage, "run", "not there yet")
    if redone:
        return Decision(stage, "run", redone)
    if record.damage:
        raise UserError(f"stage {stage.name}: {record.damage}; do it again with --from {stage.name}")
    recorded = {path: values for path, values in record.sections.items() if path in stage.sections}
    found = _differences(_completed(recorded, recipe), sections(stage, recipe))
    changes = [line for path, line in found.items() if not any(fnmatchcase(path, free) for free in stage.free)]
    if changes and changeable:
        return Decision(stage, "run", "; ".join(changes))
    if changes:
        cheap = " (files of it that come out the same are not made again)" if stage.kept else ""
        raise UserError(
            f"stage {stage.name} was made with other values: {'; '.join(changes)}. Do it and what follows again with --from {stage.name}"
            f"{cheap}, or keep what is there: give this run another name=, or set the values back"
        )
    return Decision(stage, "skip", "done") if record.fingerprint else Decision(stage, "resume", "was cut off")


def sections(stage: Stage, recipe: Config) -> dict[str, Any]:
    """The values of the recipe on which ``stage`` depends, by dotted path of the section."""
    values = recipe.model_dump(mode="json")
    return {path: reduce(lambda part, key: part[key], path.split("."), values) for path in stage.sections}


def _completed(old: Mapping[str, Any], recipe: Config) -> dict[str, Any]:
    """Recorded sections with the defaults of keys that there were none of then."""
    found = dict(old)
    for path, values in old.items():
        part: Any = reduce(lambda part, key: getattr(part, key, None), path.split("."), recipe)
        if isinstance(part, Config):
            with suppress(ValidationError):
                found[path] = type(part).model_validate_json(json.dumps(values)).model_dump(mode="json")
    return found


def _differences(old: Any, new: Any, path: str = "") -> dict[str, str]:
    """A line for each value that changed, by its dotted path; entries of lists of sections, such as sources, have their number in it."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and all(isinstance(part, dict) for part in (*old, *new)):
        old, new = (dict(enumerate(parts)) for parts in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        found = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return {} if old == new else {path: f"{path} was {json.dumps(old)}, now {json.dumps(new)}"}


InputCheck = Callable[[Path, Sequence[str]], None]
"""Raises an error where results of some stages of the run in a folder are damaged."""


def execute(plan: Plan, executors: Mapping[str, Executor], check: InputCheck = lambda *_: None) -> dict[str, dict[str, Any]]:
    """Does the work of ``plan`` in order and returns the figures of all its stages by name; hold ``locked`` meanwhile.

    Where a finished stage is to be done again ``check`` sees its inputs first, so that a damaged one costs no result.
    """
    sweep(plan.folder)
    write_json(plan.folder / "recipe.json", plan.recipe.model_dump(mode="json"))
    figures = {}
    for decision in plan.decisions:
        name = decision.stage.name
        log.info("%-13s %s (%s)", name, decision.action, decision.reason)
        if decision.action != "skip":
            if (plan.folder / name / "manifest.json").exists():
                check(plan.folder, decision.stage.inputs)
            seconds = _perform(plan, decision, executors[name])
            log.info("%-13s done in %s", name, duration(seconds))
        record = read_record(plan.folder / name)
        assert record is not None
        figures[name] = record.figures
    return figures


def _perform(plan: Plan, decision: Decision, executor: Executor) -> float:
    stage, folder = decision.stage, plan.folder / decision.stage.name
    if decision.action == "run":
        discard(folder, kept=stage.kept)
    before = read_record(folder)
    worked = before.seconds + seconds_of_killed(folder) if before else 0.0
    parents = {name: _result(read_record(plan.folder / name)) for name in stage.inputs}
    claim = {"format": FORMAT, "stage": stage.name, "sections": sections(stage, plan.recipe), "parents": parents}
    claim["fingerprint"] = fingerprint(claim["sections"])
    begun = time.monotonic()
    write_json(folder / "started.json", claim | {"seconds": worked})
    try:
        figures = executor(StageContext(plan.recipe, plan.folder, stage.name))
    finally:
        worked += time.monotonic() - begun
        with suppress(RunError):  # the reason for stopping matters more than the time worked
            write_json(folder / "started.json", claim | {"seconds": worked})
    finished = datetime.now(UTC).isoformat()
    write_json(folder / "manifest.json", claim | {"seconds": worked, "finished_at": finished, "figures": figures})
    return worked
