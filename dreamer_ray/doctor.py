"""The doctor's visit to a run folder or a checkpoint in one: the stages that it has become a patient, and the findings a page."""

import logging
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from dreamer_ray.config_file import load_config
from dreamer_ray.data.shards import open_shards
from dreamer_ray.domain import Domain, domain_of
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.evaluation.checkups.returns import Discount
from dreamer_ray.evaluation.checkups.windows import Recordings
from dreamer_ray.evaluation.diagnosis import Finding
from dreamer_ray.evaluation.doctor import CHECKS, Extent, Patient, Sizes, examine
from dreamer_ray.evaluation.findings_page import MARKS, page
from dreamer_ray.phases.imagination_training import ImaginationLossConfig
from dreamer_ray.progress import Progress
from dreamer_ray.recipe import FIRST_DOCTOR_WORLD, Recipe
from dreamer_ray.run_folder import read_record
from dreamer_ray.stages import acting_agent, latents, trained
from dreamer_ray.training.checkpoint import Checkpoint, latest_checkpoint, open_checkpoint
from dreamer_ray.training.restore import restore_dynamics, restore_tokenizer

log = logging.getLogger("dreamer_ray")

STAGES = ("tokenizer", "dynamics", "agent", "imagination")
HORIZON = 15
"""Steps of dreams where the recipe trains none."""


@dataclass(frozen=True)
class Visit:
    """What was found in a run, and how the page says what was looked at."""

    output: Path
    """Where its page belongs: beside the recipe of the run, that of a checkpoint under a name of its own."""
    recipe: Recipe
    about: str
    findings: list[Finding]

    def page(self) -> str:
        """As HTML."""
        return page(self.recipe.name, self.about, self.findings)


def visit(place: Path, extent: Extent, *, stage: str | None, seed: int) -> Visit:
    """Examines the run in folder ``place`` as it was after ``stage`` (the last one that it has), or the checkpoint in that folder.

    Raises ``UserError`` where it is neither, or has not that stage, and ``RunError`` where it has no tokenizer yet.
    """
    run, stage, checkpoint = located(place, stage)
    recipe = recipe_of(run)
    patient, reached = admit(recipe, run, stage=stage, checkpoint=checkpoint, seed=seed)
    model = f"the model after the stage {reached}" if checkpoint is None else f"the model at step {checkpoint.step} of the stage {reached}"
    progress, done = Progress("doctor", len(CHECKS), "checks"), 0
    log.info("%s; %d held-out episodes", model, len(patient.recordings.shards.lengths))

    def tell(findings: list[Finding]) -> None:
        nonlocal done
        done += len(findings)
        for finding in findings:
            log.debug("%s: %s %s", finding.check.name, MARKS[finding.status], finding.says)
        progress.update(done, {})

    findings = examine(patient, extent, seed=seed, on_findings=tell)
    about = f"{model[0].upper()}{model[1:]}, on {len(patient.recordings.shards.lengths)} held-out episodes, seed {seed}."
    output = run / ("doctor.html" if checkpoint is None else f"doctor-{reached}-{checkpoint.step}.html")
    return Visit(output, recipe, about, findings)


def located(place: Path, stage: str | None) -> tuple[Path, str | None, Checkpoint | None]:
    """The run folder of ``place``; where that is a checkpoint, RUN/STAGE/checkpoints/step-N, its stage and itself."""
    place = place.absolute()
    if place.parent.name != "checkpoints":
        return place, stage, None
    run, of = place.parents[2], place.parents[1].name
    if of not in STAGES:
        raise UserError(f"checkpoint {place}: of the stage {of}; checkpoints of {', '.join(STAGES)} can be examined")
    if stage not in (None, of):
        raise UserError(f"--stage {stage}: {place} is a checkpoint of the stage {of}; leave --stage out")
    return run, of, open_checkpoint(place)


def recipe_of(run: Path) -> Recipe:
    """The recipe with which the run was made."""
    path = run / "recipe.json"
    if not path.is_file():
        raise UserError(f"run folder {run}: has no recipe.json, so it is not the folder of a run; give a folder such as runs/crafter-tiny")
    return load_config(Recipe, path)


def admit(recipe: Recipe, run: Path, *, stage: str | None, seed: int, checkpoint: Checkpoint | None = None) -> tuple[Patient, str]:
    """The parts that the run has, at most those after ``stage``, and the name of the stage after which they are so.

    ``checkpoint`` is one of ``stage`` to take instead of that with which it ended.
    """
    reached = _reached(recipe, run, stage, ended=checkpoint is None)
    last = checkpoint or trained(run, reached)
    later = {name: _absence(recipe, run, name, reached) for name in STAGES[STAGES.index(reached) + 1 :]}
    shards = open_shards(run / "record" / "heldout")
    domain = domain_of(recipe, shards.schema)
    device = recipe.cluster.replica_device if torch.cuda.is_available() else "cpu"
    agent = acting_agent(run, reached, last).to(device) if reached in ("agent", "imagination") else None
    dynamics = restore_dynamics(last).to(device) if reached == "dynamics" else None
    patient = Patient(
        recordings=Recordings(shards, domain.ladder, seed, latents(run, "heldout") if reached != "tokenizer" else None),
        sizes=_sizes(recipe),
        tile=domain.tile,
        tokenizer=restore_tokenizer(last if reached == "tokenizer" else trained(run, "tokenizer")).to(device),
        dynamics=dynamics if agent is None else agent.dynamics,
        agent=agent,
        cloned=acting_agent(run, "agent").to(device) if reached == "imagination" else None,
        worlds=domain.worlds,
        choices=domain.countable,
        seed=FIRST_DOCTOR_WORLD,
        missing=later | _no_worlds(domain),
    )
    return patient, reached


def _reached(recipe: Recipe, run: Path, stage: str | None, *, ended: bool) -> str:
    """The last stage, at most ``stage``, that has ended (``stage`` itself only if ``ended``) and rests on what is there of those before."""
    wanted = STAGES if stage is None else STAGES[: STAGES.index(stage) + 1]
    found = list(takewhile(lambda name: _current(run, name, ended=ended or name != stage), wanted))
    if not found:
        raise RunError(f"run folder {run}: its tokenizer is not trained yet, and there is nothing to examine; run it first")
    if not ended and found[-1] != stage:
        raise UserError(
            f"run folder {run}: the stage {stage} of the checkpoint was begun with other results of the stages before it than are there "
            "now, or one of these has not ended; run goes on with it"
        )
    if stage is not None and found[-1] != stage:
        raise UserError(f"--stage {stage}: {_absence(recipe, run, stage, found[-1])} Leave --stage out to examine what there is.")
    return found[-1]


def _ended(run: Path, stage: str) -> bool:
    record = read_record(run / stage)
    return record is not None and record.fingerprint is not None


def _current(run: Path, stage: str, *, ended: bool = True) -> bool:
    """Whether ``stage`` has ended, or only begun, with the very results of earlier stages that are there now."""
    record = read_record(run / stage)
    if record is None or record.damage or (ended and record.fingerprint is None):
        return False
    parents = {name: read_record(run / name) for name in record.parents}
    return all(_current(run, name) and found and found.fingerprint == record.parents[name] for name, found in parents.items())


def _absence(recipe: Recipe, run: Path, stage: str, reached: str) -> str:
    section = {"agent": recipe.agent, "imagination": recipe.imagination}
    if stage in section and section[stage] is None:
        return f"The recipe has no section {stage}."
    if _ended(run, stage) and not _current(run, stage):
        return f"The stage {stage} ended with other results of the stages before it than are there now; run goes on with it."
    if _ended(run, stage):
        return f"Only a model of the stage {reached} was asked for (--stage, or one of its checkpoints)."
    begun = (
        "has begun and not ended" if latest_checkpoint(run / stage / "checkpoints") or (run / stage).exists() else "has not been run yet"
    )
    return f"The stage {stage} {begun}."


def _no_worlds(domain: Domain) -> dict[str, str]:
    return (
        {} if domain.worlds else {"worlds": "There are recordings but no world to play in, so what dreams pay cannot be held against it."}
    )


def _sizes(recipe: Recipe) -> Sizes:
    dreams, dynamics = recipe.imagination, recipe.dynamics
    loss = dreams.loss if dreams else ImaginationLossConfig()
    return Sizes(
        context=dynamics.model.transformer.context,
        trained=max(dynamics.batches.length, dynamics.batches.long_length or 0),
        steps=recipe.evaluation.sampling_steps,
        dream_frames=recipe.evaluation.dream_frames,
        clip=recipe.agent.batches.length if recipe.agent else 0,
        start=dreams.contexts.length if dreams else max(1, dynamics.model.transformer.context // 2),
        lookahead=dreams.contexts.lookahead if dreams else 0,
        relevant=dreams.contexts.relevant_fraction if dreams else 0.0,
        ladder=bool(dreams and dreams.prompts == "ladder"),
        dream_steps=dreams.sampling_steps if dreams else recipe.evaluation.sampling_steps,
        horizon=dreams.horizon if dreams else HORIZON,
        episode=recipe.evaluation.length,
        discount=Discount(loss.gamma, loss.lam),
    )
