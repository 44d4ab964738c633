"""The doctor's findings for people and for machines: one self-contained HTML page, a short list for the terminal, JSON."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dreamer_ray.evaluation.diagnosis import Finding

WORDS = {"sick": "to be mended", "healthy": "healthy", "unknown": "could not be told"}
MARKS = {"sick": "SICK", "healthy": "healthy", "unknown": "unknown"}


def page(title: str, about: str, findings: Sequence[Finding]) -> str:
    """The HTML of a page that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("doctor.html.j2").render(title=title, about=about, findings=findings, words=WORDS)


def picture(uri: str, alternative: str) -> Markup:
    """An image of a data URI as HTML."""
    return Markup('<img src="{}" alt="{}">').format(uri, alternative)


def text(findings: Sequence[Finding]) -> str:
    """A line a question with its answer, and under what is sick what to change."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.status]:<8} {finding.check.part:<12} {finding.check.question} {finding.says}")
        if finding.status == "sick":
            lines.append(f"{'':<21} -> {finding.check.remedy}")
    counts = [f"{sum(finding.status == status for finding in findings)} {words}" for status, words in WORDS.items()]
    return "\n".join([*lines, ", ".join(counts)]) + "\n"


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings without their pictures; a number that is not finite is None."""
    return [
        {
            "name": finding.check.name,
            "part": finding.check.part,
            "question": finding.check.question,
            "status": finding.status,
            "says": finding.says,
            "threshold": finding.check.threshold,
            "remedy": finding.check.remedy if finding.status == "sick" else None,
            "recipe_keys": list(finding.check.keys) if finding.status == "sick" else [],
            "figures": {name: value if math.isfinite(value) else None for name, value in finding.figures.items()},
        }
        for finding in findings
    ]
