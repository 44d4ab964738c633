"""``dreamer-ray submit``: runs a recipe as a job of a cluster, follows its log and ends with its exit code."""

import argparse
import logging
import os
import re
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ray import __version__
from dreamer_ray.errors import UserError

if TYPE_CHECKING:
    from dreamer_ray.distributed.jobs import Dashboard
    from dreamer_ray.distributed.submission import Submission
    from dreamer_ray.recipe import Recipe

log = logging.getLogger("dreamer_ray")

NOTE = """The job runs `python -m dreamer_ray run RECIPE --runs DIR path=value ...` in a copy of the working directory. Torch, Ray and the
other requirements must be installed on every node, in the Python that Ray runs there. A dreamer_ray folder in the working directory (as in
a clone of the repository) goes along and is what runs; without one the package must be installed on every node too."""


def default_address() -> str:
    """RAY_ADDRESS where it is that of a dashboard, else this machine's."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(("http://", "https://")) else "http://127.0.0.1:8265"


def dashboard_address(text: str) -> str:
    """``text`` as the address of a dashboard; http:// may be left out."""
    return (text if "://" in text else f"http://{text}").rstrip("/")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all verbs of jobs have."""
    parser.add_argument(
        "--address",
        metavar="HOST:8265",
        type=dashboard_address,
        default=default_address(),
        help="of the cluster's dashboard, also with https:// (default: %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``submit`` and its options."""
    parser = verbs.add_parser("submit", help="run a recipe as a job of a Ray cluster", description=__doc__, epilog=NOTE)
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file below the working directory")
    parser.add_argument("overrides", metavar="path=value", nargs="*", help="values to use instead of the recipe's")
    parser.add_argument(
        "--runs", metavar="DIR", type=Path, required=True, help="where the results go: DIR/NAME, in a folder that all nodes share; absolute"
    )
    parser.add_argument("--id", metavar="NAME", help="of the job (default: name of the recipe, date and time)")
    parser.add_argument("--working-dir", metavar="DIR", type=Path, default=Path(), help="what is uploaded (default: this folder)")
    parser.add_argument(
        "--exclude", metavar="PATTERN", action="append", default=[], help="left out of it, as in .gitignore (which counts too); repeatable"
    )
    parser.add_argument("--only", metavar="STAGE", help="as for run")
    parser.add_argument("--from", metavar="STAGE", dest="start", help="as for run")
    parser.add_argument("--no-wait", action="store_true", help="end at once; the last line of the output is the name of the job")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the command and submit nothing")
    add_address(parser)
    parser.set_defaults(act=act, goes_on="; nothing was submitted")


def act(options: argparse.Namespace) -> int:
    """Checks, submits and follows the job that ``options`` describe; returns its exit code."""
    from dreamer_ray.config_file import load_config
    from dreamer_ray.recipe import Recipe

    recipe = load_config(Recipe, options.recipe, options.overrides)
    if not options.runs.is_absolute():
        raise UserError(f"--runs {options.runs}: give the absolute path of a folder that all nodes of the cluster share")
    name = options.id or f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--id {name}: expected letters, digits, dots, dashes and underscores")
    from dreamer_ray.distributed.jobs import connect, require_new, require_resources

    submission = _submission(options, recipe, name)
    environment = dict(os.environ)
    dashboard = connect(options.address)
    require_new(dashboard, name)
    require_resources(dashboard, recipe, only=options.only)
    sys.stdout.write(submission.command(options.address, environment, wait=not options.no_wait) + "\n")
    sys.stdout.flush()
    if options.dry_run:
        return 0
    submission.submit(dashboard)
    log.info("job %s -> %s", name, options.runs / recipe.name)
    if options.no_wait:
        sys.stdout.write(f"{name}\n")
        return 0
    return follow_to_end(dashboard, name)


def _submission(options: argparse.Namespace, recipe: "Recipe", name: str) -> "Submission":
    from dreamer_ray.distributed.submission import EXCLUDES, Submission, package_bytes, packed_files
    from dreamer_ray.run import recipe_stages

    excludes, folder = (*EXCLUDES, *options.exclude), options.working_dir.absolute()
    files = packed_files(folder, excludes)
    path = os.path.relpath(options.recipe.absolute(), folder)
    if path not in files:
        raise UserError(
            f"recipe {options.recipe}: not among the {len(files)} files of {folder} that are uploaded; choose --working-dir DIR so that it "
            "is, and look at .gitignore and --exclude"
        )
    size = package_bytes(files)
    code = "its dreamer_ray" if "dreamer_ray/__init__.py" in files else "the dreamer_ray installed there"
    log.info("uploads %d files of %s, %.1f MiB; runs %s", len(files), folder, size / 2**20, code)
    stages = [option for pair in (("--only", options.only), ("--from", options.start)) if pair[1] for option in pair]
    words = ["python", "-m", "dreamer_ray", "run", path, "--runs", str(options.runs), *stages, *options.overrides]
    metadata = {
        "dreamer_ray": __version__,
        "recipe": path,
        "run": str(options.runs / recipe.name),
        "stages": " ".join(stage.name for stage in recipe_stages(recipe)),
    }
    return Submission(name, options.working_dir, tuple(words), metadata, excludes)


def follow_to_end(dashboard: "Dashboard", name: str, *, last_lines: int | None = None) -> int:
    """Shows the log of a job (from its last lines on, or all) until it has ended; returns its exit code. Ctrl-C leaves the job alone."""
    from dreamer_ray.distributed.jobs import NoAnswerError, exit_code, follow

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    there = f"{name} --address {shlex.quote(dashboard.get_address())}"
    try:
        skip = 0
        if last_lines is not None:
            with suppress(NoAnswerError):  # following outlasts that
                dashboard.job(name)  # says it where there is none
            written = dashboard.get_job_logs(name)
            skip = len(written) - len("".join(written.splitlines(keepends=True)[-last_lines:]))
        job = follow(dashboard, name, show, skip=skip)
    except KeyboardInterrupt:
        log.warning("the job goes on; follow it with `dreamer-ray status %s --follow`, end it with `dreamer-ray stop %s`", there, there)
        return 130
    code = exit_code(job)
    if job.driver_exit_code is None and job.message:
        log.warning("job %s: %s", name, job.message)
    log.log(logging.INFO if code == 0 else logging.WARNING, "job %s %s, exit code %d", name, job.status.lower(), code)
    return code
