"""``dreamer-ray status``: the jobs of a cluster, or what one of them is doing, from any shell that reaches its dashboard."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from dreamer_ray.cli.submit import add_address, follow_to_end
from dreamer_ray.errors import UserError
from dreamer_ray.progress import duration

if TYPE_CHECKING:
    from dreamer_ray.distributed.job_status import ActorGroup, JobReport, JobState, ProgressState, RoundState, StageState

LINES_FIRST = 10
"""Of what was said before, when following begins."""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``status`` and its options."""
    parser = verbs.add_parser("status", help="show the jobs of a Ray cluster, or what one of them is doing", description=__doc__)
    parser.add_argument("job", metavar="JOB", nargs="?", help="the name that submit gave (default: a list of all)")
    parser.add_argument("--follow", action="store_true", help="show the log of JOB until it ends, and end with its exit code")
    parser.add_argument("--json", action="store_true", help="for machines")
    add_address(parser)
    parser.set_defaults(act=act, goes_on="")


def act(options: argparse.Namespace) -> int:
    """Shows what ``options`` ask for."""
    if options.follow and (options.json or not options.job):
        raise UserError("--follow: shows the log of one JOB, which must be named; it cannot be had with --json")
    from dreamer_ray.distributed.jobs import connect, jobs, report

    dashboard = connect(options.address)
    if options.follow:
        return follow_to_end(dashboard, options.job, last_lines=LINES_FIRST)
    if options.job:
        found = report(dashboard, options.job)
        text, values = described(found), asdict(found)
    else:
        all_jobs = jobs(dashboard)
        text, values = listed(all_jobs, options.address), [asdict(job) for job in all_jobs]
    sys.stdout.write(json.dumps(values, indent=1) + "\n" if options.json else text)
    return 0


def listed(jobs: Sequence["JobState"], address: str) -> str:
    """A table of jobs."""
    if not jobs:
        return f"no job of dreamer_ray at {address}\n"
    width = max(len(job.name) for job in jobs) + 2
    lines = [f"{'job':<{width}}{'state':<11}{'submitted':<18}{'for':>9}  {'run'}"]
    for job in jobs:
        began = datetime.fromtimestamp(job.began).astimezone()
        lines.append(f"{job.name:<{width}}{job.status:<11}{began:%Y-%m-%d %H:%M}  {duration(job.seconds):>9}  {job.run}")
    return "\n".join(lines) + "\n"


def described(report: "JobReport") -> str:
    """The lines about one job."""
    job = report.job
    ended = "" if job.exit_code is None else f", exit code {job.exit_code}"
    lines = [f"{'job':<10}{job.name}  {job.status} {duration(job.seconds)}{ended}"]
    if job.run:
        lines.append(f"{'run':<10}{job.recipe} -> {job.run}")
    if report.error and job.exit_code:
        lines.append(f"{'error':<10}{report.error}")
    elif job.message and (job.exit_code or job.status == "PENDING"):
        lines.append(f"{'message':<10}{job.message.splitlines()[0]}")
    lines += [f"{title:<10}{text}" for title, text in _stage_lines(report.stages, live=job.exit_code is None)]
    if report.progress:
        lines.append(f"{'progress':<10}{_progress(report.progress)}")
    if report.round:
        lines.append(f"{'played':<10}{_round(report.round)}")
    if report.actors:
        lines += ["", *_table(report.actors)]
    return "\n".join(lines) + "\n"


def _stage_lines(stages: Sequence["StageState"], *, live: bool) -> list[tuple[str, str]]:
    words = {"running": "running" if live else "cut off", "waiting": "waiting" if live else "not begun"}
    shown = [
        f"{stage.name:<14}{words.get(stage.state, stage.state)}{'' if stage.seconds is None else ' in ' + duration(stage.seconds)}"
        for stage in stages
    ]
    return [("stages" if number == 0 else "", text) for number, text in enumerate(shown)]


def _progress(newest: "ProgressState") -> str:
    parts = [f"{newest.stage} {newest.done}/{newest.total} {newest.unit}"]
    if newest.per_second is not None:
        parts.append(f"{newest.per_second:.3g} {newest.unit}/s")
    if newest.eta_seconds is not None:
        parts.append(f"ETA {duration(newest.eta_seconds)}")
    return "  ".join(parts + [f"{name} {value:.4g}" for name, value in newest.figures.items()])


def _round(newest: "RoundState") -> str:
    figures = [f"{name} {value:.4g}" for name, value in newest.figures.items()]
    return "  ".join([f"version {newest.version} in {newest.worlds} worlds", *figures])


def _table(actors: Sequence["ActorGroup"]) -> list[str]:
    width = max(len(group.name) for group in actors) + 2
    rows = [f"{'actors':<{width}}{'alive':>8}{'pending':>9}{'restarting':>12}{'restarts':>10}"]
    return rows + [f"{g.name:<{width}}{g.alive:>8}{g.pending:>9}{g.restarting:>12}{g.restarts:>10}" for g in actors]
