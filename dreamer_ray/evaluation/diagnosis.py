"""What a check-up says of one part of a model: a question, an answer in plain words, its figures, and which recipe key to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from dreamer_ray.evaluation.intervals import Interval

Status = Literal["healthy", "sick", "unknown"]


@dataclass(frozen=True)
class Exhibit:
    """A chart or a picture for the page."""

    caption: str
    html: str


@dataclass(frozen=True)
class Check:
    """One question, and what stands fixed before anything is measured."""

    name: str
    part: str
    question: str
    disease: str
    """The same as a statement, where the answer is bad."""
    threshold: str
    """From where on the answer is bad, and why from there on."""
    remedy: str
    keys: tuple[str, ...]
    """Of the recipe, those that the remedy changes."""
    rests_on: tuple[str, ...] = ()
    """Names of checks whose disease would spoil the figures of this one."""

    def healthy(self, says: str, figures: Mapping[str, float]) -> "Finding":
        """The figures keep the threshold; sick where one of them is not a number, as behind weights or states that overflowed."""
        broken = [name for name, value in figures.items() if math.isnan(value)]
        if broken:
            return self.sick(f"{says} Not a number: {', '.join(broken)}.", figures)
        return Finding(self, "healthy", says, figures)

    def sick(self, says: str, figures: Mapping[str, float]) -> "Finding":
        """The figures are beyond the threshold."""
        return Finding(self, "sick", says, figures)

    def unknown(self, why: str, figures: Mapping[str, float] | None = None) -> "Finding":
        """Nothing could be measured, or nothing that decides."""
        return Finding(self, "unknown", why, figures or {})


@dataclass(frozen=True)
class Finding:
    """The answer to the question of ``check``."""

    check: Check
    status: Status
    says: str
    figures: Mapping[str, float] = field(default_factory=dict)
    exhibits: tuple[Exhibit, ...] = ()
    rests_on: tuple[str, ...] | None = None
    """Where these very figures rest on less than the check does."""

    def showing(self, *exhibits: Exhibit) -> "Finding":
        """The same with charts and pictures."""
        return replace(self, exhibits=(*self.exhibits, *exhibits))


def judge_ratio(check: Check, ratio: Interval, least: float, says: str, figures: Mapping[str, float]) -> Finding:
    """Sick where the whole interval of ``ratio`` is below ``least``, healthy where it is above 1 and ``ratio`` is not below."""
    if ratio.high < least:
        return check.sick(says, figures)
    if ratio.value < least or not ratio.low > 1:
        return check.unknown(f"{says} The windows differ too much from each other to be sure of it; more are needed.", figures)
    return check.healthy(says, figures)


def settled(findings: Sequence[Finding]) -> list[Finding]:
    """The findings in which a disease is blamed once: what it may have caused elsewhere is unknown, and says on what it hangs."""
    sick = {finding.check.name: finding.check for finding in findings if finding.status == "sick"}
    return [_settled(finding, [sick[name] for name in _bases(finding) if name in sick]) for finding in findings]


def _bases(finding: Finding) -> tuple[str, ...]:
    return finding.check.rests_on if finding.rests_on is None else finding.rests_on


def _settled(finding: Finding, causes: Sequence[Check]) -> Finding:
    if finding.status != "sick" or not causes:
        return finding
    named = " and ".join(cause.disease for cause in causes)
    return replace(finding, status="unknown", says=f"{finding.says} That may only follow from another finding: {named}. Mend that first.")
