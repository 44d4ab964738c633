"""What a reproduction has found: every world's outcome as JSON, the effects with their intervals, one page and lines for the console."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dreamer_ray.domain import Domain
from dreamer_ray.evaluation.effects import LEAST_SEEDS, Effect, effect, figure, rate, steps_to_success
from dreamer_ray.evaluation.episodes import EpisodeResult
from dreamer_ray.evaluation.intervals import Interval
from dreamer_ray.evaluation.quality import quality_rows
from dreamer_ray.evaluation.report import Comparison, Quality, Report, Score, render, summary, text_table
from dreamer_ray.recipe import Recipe
from dreamer_ray.report import environment
from dreamer_ray.run_folder import write_json

FORMAT = 1
NAMES = {"random": "random play", "agent_scratch": "BC, no world model", "agent": "WM+BC", "imagination": "after imagination"}
"""The variants of Fig. 4 of the paper, in its order."""
PAIRS = (("imagination", "agent"), ("agent", "agent_scratch"))
PRIMARY = "ladder tasks an episode"
"""The figure by which the claim is judged, chosen before anything was played: how many tasks of the ladder an episode achieves."""


@dataclass(frozen=True)
class Compared:
    """What was played by a variant of the recipe, after imagination."""

    changes: str
    episodes: Mapping[int, Sequence[EpisodeResult]]
    """By phase-2 seed, in the order of the worlds, which are those of ``Outcomes``."""


@dataclass(frozen=True)
class Outcomes:
    """All that was played."""

    episodes: Mapping[str, Mapping[int, Sequence[EpisodeResult]]]
    """By variant and phase-2 seed, in the order of the worlds; those of random play, which has no seed, under 0."""
    limit: int
    """Steps of an episode at most."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """Figures of tokenizer and dynamics on held-out episodes."""
    distances: Mapping[str, Any] = field(default_factory=dict)
    """Of dreamed videos, as ``measure.video_distances`` names them, or ``missing``: why there are none."""
    training: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """By seed, the last logged figures of imagination training."""
    compared: Mapping[str, Compared] = field(default_factory=dict)
    """By its name, what a variant of the recipe did."""

    def values(self, variant: str, of: Callable[[EpisodeResult], float]) -> dict[int, list[float]]:
        """A figure of every episode of a player."""
        return _values(self.episodes[variant], of)


def _values(episodes: Mapping[int, Sequence[EpisodeResult]], of: Callable[[EpisodeResult], float]) -> dict[int, list[float]]:
    return {seed: [float(of(episode)) for episode in played] for seed, played in episodes.items()}


def figures(domain: Domain, limit: int) -> dict[str, Callable[[EpisodeResult], float]]:
    """What is counted in every episode, by name; more is better but for steps."""
    places = list(domain.rungs.values())
    found: dict[str, Callable[[EpisodeResult], float]] = {
        PRIMARY: lambda played: sum(played.counts[place] > 0 for place in places),
        "ladder events an episode": lambda played: sum(played.counts[place] for place in places),
    }
    for task, place in domain.rungs.items():
        found[f"share of episodes with {task}"] = lambda played, place=place: played.counts[place] > 0
        found[f"steps until {task}, {limit} where never"] = lambda played, place=place: _steps(played, place, limit)
    return found


def _steps(played: EpisodeResult, place: int, limit: int) -> int:
    return played.first_step[place] if played.first_step[place] > 0 else limit


def effects(outcomes: Outcomes, domain: Domain) -> list[Effect]:
    """Of imagination training, of the world model and of variants, on every figure in which any episode differs from another."""
    played, improved = outcomes.episodes, outcomes.episodes["imagination"]
    pairs = [(f"{NAMES[after]} - {NAMES[before]}", played[after], played[before]) for after, before in PAIRS if before in played]
    for name, variant in outcomes.compared.items():
        if variant.episodes:
            base = {seed: improved[seed] for seed in variant.episodes}
            pairs.append((f"variant {name} - as it is, both after imagination", variant.episodes, base))
    found = []
    for words, after, before in pairs:
        for name, of in figures(domain, outcomes.limit).items():
            values = _values(after, of), _values(before, of)
            if len({value for player in values for seed in player.values() for value in seed}) > 1 or name == PRIMARY:
                found.append(effect(f"{words}: {name}", *values))
    return found


def verdict(found: Effect) -> str:
    """One line for people."""
    seeds, across = len(found.within), found.across
    shown = f"{found.name}: {across.value:+.3f}"
    if seeds == 1:
        (within,) = found.within.values()
        return f"{shown} [{within.low:+.3f}, {within.high:+.3f}] over {within.n} worlds; one phase-2 seed shows a direction, no more"
    shown += f" [{across.low:+.3f}, {across.high:+.3f}] over {seeds} phase-2 seeds"
    return f"{shown}: {found.shown}" if seeds >= LEAST_SEEDS else f"{shown}; fewer than {LEAST_SEEDS} show a direction, no more"


def write_results(folder: Path, recipe: Recipe, domain: Domain, outcomes: Outcomes) -> list[str]:
    """Writes ``reproduce.json`` and ``reproduce.html`` into ``folder``, and gives the lines for the console."""
    found = effects(outcomes, domain)
    page = build_page(recipe, domain, outcomes, found)
    episodes = {variant: _plain(by_seed) for variant, by_seed in outcomes.episodes.items()}
    variants = {name: {"changes": each.changes, "episodes": _plain(each.episodes)} for name, each in outcomes.compared.items()}
    shown = summary(page)
    values = {
        "format": FORMAT,
        "environment": page.environment,
        "recipe": recipe.model_dump(mode="json"),
        "tasks": list(domain.tasks),
        "ladder": list(domain.ladder),
        "step_limit": outcomes.limit,
        "primary": PRIMARY,
        "effects": [_effect(each) for each in found],
        "success": shown["success"],
        "scores": shown["scores"],
        "held_out": dict(outcomes.held_out),
        "video_distances": dict(outcomes.distances),
        "imagination": {str(seed): dict(last) for seed, last in outcomes.training.items()},
        "episodes": episodes,
        "variants": variants,
    }
    write_json(folder / "reproduce.json", values)
    partial = folder / ".reproduce.html.partial"
    partial.write_text(render(page), encoding="utf-8")
    partial.replace(folder / "reproduce.html")
    return [*text_table(page).splitlines(), *(verdict(each) for each in found if PRIMARY in each.name)]


def _plain(by_seed: Mapping[int, Sequence[EpisodeResult]]) -> dict[str, list[dict[str, Any]]]:
    return {str(seed): [asdict(each) for each in played] for seed, played in by_seed.items()}


def _effect(found: Effect) -> dict[str, Any]:
    """Within each seed the t interval, and beside it that of the bootstrap."""
    within = {str(seed): _bounds(each) | {"bootstrap": _bounds(found.redrawn[seed])} for seed, each in found.within.items()}
    return {"name": found.name, "shown": found.shown, "across_seeds": _bounds(found.across), "within_seeds": within}


def _bounds(interval: Interval) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in asdict(interval).items()}


def build_page(recipe: Recipe, domain: Domain, outcomes: Outcomes, found: Sequence[Effect]) -> Report:
    """The page: success and steps by task, the effects, and on what they stand."""
    wider = "the wider of two: over phase-2 seeds by Student's t, over worlds by {}"
    return Report(
        title=f"Does imagination training help? {recipe.name}",
        figures_file="reproduce.json",
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        environment=environment(),
        success=[_success(task, outcomes, domain) for task in domain.ladder],
        scores=_scores(outcomes, domain),
        effects=[each for each in found if PRIMARY in each.name],
        comparisons=[Comparison(each.name, each.across, "t over phase-2 seeds") for each in found if len(each.within) > 1],
        intervals=(wider.format("Wilson"), f"{wider.format('Student')}; of steps to success over seeds alone"),
        quality=_quality(outcomes),
        notes=_notes(outcomes),
    )


def _success(task: str, outcomes: Outcomes, domain: Domain) -> Score:
    place = domain.rungs[task]
    return Score(task, {NAMES[v]: rate(outcomes.values(v, lambda played: played.counts[place] > 0)) for v in outcomes.episodes})


def _scores(outcomes: Outcomes, domain: Domain) -> list[Score]:
    counted = [
        Score(name, {NAMES[variant]: figure(outcomes.values(variant, of)) for variant in outcomes.episodes})
        for name, of in figures(domain, outcomes.limit).items()
        if name.endswith("an episode")
    ]
    for task, place in domain.rungs.items():
        by_variant = {
            NAMES[variant]: steps_to_success({seed: [each.first_step[place] for each in played] for seed, played in by_seed.items()})
            for variant, by_seed in outcomes.episodes.items()
        }
        if any(by_variant.values()):
            counted.append(Score(f"steps until {task}, where achieved", {name: found for name, found in by_variant.items() if found}))
    return counted


def _quality(outcomes: Outcomes) -> list[Quality]:
    rows, distances = quality_rows(outcomes.held_out) if outcomes.held_out else [], outcomes.distances
    rows = [replace(row, target=None, met=None) for row in rows]  # the targets are those of another recipe
    if "dream" not in distances:
        return rows
    still = distances["still"]
    basis = f"n = {still['n']}, {still['dimension']} dimensions, {still['network']}"
    for name, words in (("dream", "dreamed"), ("reconstruction", "reconstructed")):
        metric = f"Frechet video distance of {words} to true windows ({basis})"
        rows.append(Quality(metric, distances[name]["value"], "last frame held still", still["value"]))
    return rows


def _notes(outcomes: Outcomes) -> list[str]:
    seeds, worlds = sorted(outcomes.episodes["agent"]), len(outcomes.episodes["random"][0])
    first = outcomes.episodes["random"][0][0].seed
    notes = [
        (
            f"{worlds} fresh worlds (seeds from {first:,} on, kept for reproductions: no recording, evaluation or round of training has "
            "them; a choice of settings by this page would use them up), the same for all; actions are sampled; "
            f"an episode ends after {outcomes.limit} steps; the prompt moves up the ladder."
        ),
        (
            f"Phase 1 was trained once; cloning and imagination training once for each of {len(seeds)} phase-2 seeds ({_listed(seeds)}). "
            "Intervals of effects are over these seeds; phase 1 and the worlds are the same for all, and others may give another effect."
        ),
        f"The claim is judged by {PRIMARY}; the other figures stand beside it for what they say about why.",
    ]
    if len(seeds) < LEAST_SEEDS:
        notes.insert(0, f"{len(seeds)} phase-2 seed{'s' * (len(seeds) > 1)}: this shows a direction, no more. {LEAST_SEEDS} are the least.")
    notes += [
        f"Variant {name}: {each.changes}; phase-2 seeds {_listed(sorted(each.episodes))}." for name, each in outcomes.compared.items()
    ]
    if outcomes.compared:
        notes.append(
            "A variant that is chosen by these worlds has had its choice in them: they say less of it than of the recipe as it is."
        )
    if "missing" in outcomes.distances:
        notes.append(f"No Frechet video distance: {outcomes.distances['missing']}.")
    return [*notes, *(_moved(outcomes.training) if outcomes.training else [])]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _moved(training: Mapping[int, Mapping[str, float]]) -> list[str]:
    kl = [max(0.0, last["kl"]) for last in training.values() if "kl" in last]
    return [f"Imagination training ended {min(kl):.3f} to {max(kl):.3f} nats from the cloned policy (KL)."] if kl else []
