"""Entry of ``dreamer-ray``: parses, calls the verb, and turns every way to end into one message and an exit code."""

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import NoReturn

from dreamer_ray import __version__
from dreamer_ray.cli import bench, console, doctor, ingest, inspect, record_env, reproduce, run, status, stop, submit
from dreamer_ray.errors import DreamerError

log = logging.getLogger("dreamer_ray")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Exit codes: 0 done, 2 a mistake of the user, 1 a failure, 130 stopped by Ctrl-C or SIGTERM; or that of the job that was followed."""
    parser = argparse.ArgumentParser(prog="dreamer-ray", description="Dreamer 4 on Ray: recorded play in, an agent improved in dreams out.")
    parser.add_argument("--version", action="version", version=f"dreamer-ray {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in (run, ingest, record_env, inspect, doctor, bench, reproduce, submit, status, stop):
        verb.add_parser(verbs)
    options, rest = parser.parse_known_args(arguments)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {' '.join(unknown)}")
    if rest and "overrides" not in options:
        parser.error(f"unknown argument {' '.join(rest)}")
    if rest:
        options.overrides += rest  # argparse takes path=value only before the options, people write it behind them too
    console.show(debug=options.debug)
    console.stop_on_signals()
    sys.excepthook = partial(_crashed, options.debug)
    try:
        code = options.act(options)
    except DreamerError as error:
        log.error("%s", error, exc_info=error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit):  # the latter is how Ray Train answers Ctrl-C
        log.warning("stopped%s", options.goes_on)
        sys.exit(128 + signal.SIGINT)
    sys.exit(code or 0)


def _crashed(debug: bool, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The message for an exception that nobody foresaw; the interpreter then exits with 1."""
    frames = [frame for frame in traceback.extract_tb(trace) if "dreamer_ray" in frame.filename] or traceback.extract_tb(trace)
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "an unknown place"
    remedy = "" if debug else "; run again with --debug to see where it came from (run.log in the run folder has it too)"
    first_line = (str(error).strip().splitlines() or [""])[0]
    log.error("unexpected %s: %s (%s)%s", kind.__name__, first_line, place, remedy, exc_info=(kind, error, trace))
