"""The end of a run for people and for machines: one self-contained HTML page, the same figures as JSON, and a table for the console."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from dreamer_ray.evaluation import figures
from dreamer_ray.evaluation.effects import LEAST_SEEDS, Effect
from dreamer_ray.evaluation.intervals import Interval
from dreamer_ray.progress import duration

STRIP_FRAMES, SHOWN_SIDE = 8, 288
"""Frames below a video, and how large its smaller pictures are shown, in pixels."""

Frames = UInt8[np.ndarray, "t y x 3"]


@dataclass(frozen=True)
class StageTime:
    """What a stage cost."""

    name: str
    seconds: float
    steps: int
    rate: float
    """``unit`` a second."""
    unit: str


@dataclass(frozen=True)
class Dream:
    """A held-out window and what the model made of its beginning and its actions."""

    caption: str
    truth: Frames
    dream: Frames
    context: int = 0
    """How many of the first frames are facts that the model was given."""


@dataclass(frozen=True)
class Quality:
    """A figure on held-out episodes or in play, beside that of a trivial predictor or random play."""

    metric: str
    model: float
    baseline: str
    baseline_value: float
    target: str | None = None
    """In words, such as "6 dB above"."""
    met: bool | None = None


@dataclass(frozen=True)
class ActionShares:
    """How often each named action occurs: in the recorded play and under each policy."""

    names: Sequence[str]
    series: dict[str, Sequence[float]]


@dataclass(frozen=True)
class Score:
    """A task or a count, with what each variant of the player reached."""

    name: str
    variants: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """A difference between two variants in the same worlds."""

    name: str
    difference: Interval
    method: str


@dataclass(frozen=True)
class Report:
    """All that the page shows; an empty part is left out of it."""

    title: str
    recipe: str
    """The resolved recipe as YAML."""
    environment: dict[str, str]
    """Machine, versions and the command, by name."""
    stages: Sequence[StageTime] = ()
    curves: dict[str, dict[str, Sequence[tuple[int, float]]]] = field(default_factory=dict)
    """Stage -> metric -> (step, value)."""
    originals: Frames | None = None
    reconstructions: Frames | None = None
    dreams: Sequence[Dream] = ()
    frames_per_second: int = 4
    quality: Sequence[Quality] = ()
    actions: ActionShares | None = None
    success: Sequence[Score] = ()
    """Shares of episodes in which a task was achieved."""
    scores: Sequence[Score] = ()
    """Figures an episode, such as the number of achievements."""
    comparisons: Sequence[Comparison] = ()
    effects: Sequence[Effect] = ()
    """Of training from several seeds; shown as charts."""
    figures_file: str = "summary.json"
    """What lies beside the page with the same figures."""
    intervals: tuple[str, str] = ("Wilson", "Student's t")
    """How those of ``success`` and of ``scores`` were made."""
    rounds: Mapping[str, Sequence[tuple[int, Interval]]] = field(default_factory=dict)
    """What was reached in rounds of play during training: task or figure -> (step, value)."""
    notes: Sequence[str] = ()


def write_report(folder: Path, report: Report) -> None:
    """Writes ``report.html`` (no other file and no network is needed to show it) and ``summary.json`` into ``folder``.

    Each file is replaced at once: an interrupted write leaves the earlier one whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.html", render(report))
    _replace(folder / "summary.json", json.dumps(summary(report), indent=1, allow_nan=False) + "\n")


def summary(report: Report) -> dict[str, Any]:
    """The figures of the page without its pictures, as JSON knows them; a number that is not finite becomes None."""
    return _plain(report)


def text_table(report: Report) -> str:
    """The success table for the console: a line for each task, for each variant its rate, its interval and the number of episodes.

    Where nothing was played, the held-out figures beside their baselines.
    """
    if not report.success:
        held_out = [[row.metric, _figure(row.model), f"{_figure(row.baseline_value)} ({row.baseline})"] for row in report.quality]
        return "\n".join(_aligned([["held-out figure", "model", "baseline"], *held_out]))
    variants = _variants(report.success)
    heads = ["task", *(f"{variant} ({_episodes(report.success, variant)})" for variant in variants)]
    rows = [[score.name, *(str(score.variants.get(variant, "-")) for variant in variants)] for score in report.success]
    return "\n".join([*_aligned([heads, *rows]), "Share of episodes [95% interval]."])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def render(report: Report) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "duration": duration, "bounds": _bounds, "words": lambda name: name.replace("_", " ")}
    return environment.get_template("report.html.j2").render(
        report=report,
        least_seeds=LEAST_SEEDS,
        seconds=sum(stage.seconds for stage in report.stages),
        targets=[row.met for row in report.quality if row.met is not None],
        curves={
            stage: {metric: Markup(figures.curve_chart(points)) for metric, points in metrics.items()}
            for stage, metrics in report.curves.items()
        },
        rounds={name: Markup(figures.interval_curve(points)) for name, points in report.rounds.items()},
        effects={effect: Markup(figures.difference_chart(_seed_rows(effect))) for effect in report.effects},
        pictures=_pictures(report),
        dreams=[_shown(dream, report.frames_per_second) for dream in report.dreams],
        actions=report.actions and Markup(figures.bar_chart(report.actions.names, report.actions.series)),
        success=report.success and Markup(figures.interval_chart({score.name: score.variants for score in report.success})),
        variants={variant: _episodes(report.success or report.scores, variant) for variant in _variants([*report.success, *report.scores])},
    )


def _seed_rows(effect: Effect) -> dict[str, Interval]:
    return {f"seed {seed}": found for seed, found in effect.within.items()} | {"all seeds": effect.across}


def _pictures(report: Report) -> str | None:
    if report.originals is None or report.reconstructions is None:
        return None
    return figures.mosaic([report.originals, report.reconstructions])


def _shown(dream: Dream, frames_per_second: int) -> dict[str, str]:
    scale = max(1, SHOWN_SIDE // max(dream.truth.shape[1:3]))
    frames = figures.side_by_side(dream.truth, dream.dream, context=dream.context, scale=scale)
    chosen = np.unique(np.linspace(dream.context, len(dream.truth) - 1, STRIP_FRAMES).round().astype(int))
    return {
        "caption": dream.caption,
        "video": figures.video(frames, frames_per_second),
        "strip": figures.mosaic([dream.truth[chosen], dream.dream[chosen]]),
    }


def _variants(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(variant for score in scores for variant in score.variants))


def _episodes(scores: Sequence[Score], variant: str) -> str:
    counts = sorted({score.variants[variant].n for score in scores if variant in score.variants})
    return "n = " + (f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}")


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _bounds(found: Interval) -> str:
    return "-" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if not isinstance(getattr(value, f.name), np.ndarray)}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
