"""``dreamer-ray doctor``: what is wrong with the model of a run, part by part, and which key of its recipe to change."""

import argparse
import json
import logging
import sys
from pathlib import Path

from dreamer_ray.errors import UserError

log = logging.getLogger("dreamer_ray")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``doctor`` and its options."""
    parser = verbs.add_parser("doctor", help="say what is wrong with the model of a run, and what to change", description=__doc__)
    parser.add_argument(
        "place",
        metavar="RUN",
        type=Path,
        help="the folder of a run, with whatever stages it has so far, or a checkpoint: RUN/STAGE/checkpoints/step-N",
    )
    parser.add_argument(
        "--stage",
        choices=("tokenizer", "dynamics", "agent", "imagination"),
        help="examine the model as it was after this (default: the last)",
    )
    parser.add_argument("--quick", action="store_true", help="look at about a third as much: faster, and less sure")
    parser.add_argument(
        "--output",
        metavar="FILE.html",
        type=Path,
        help="where the page goes (default: doctor.html in the run folder, doctor-STAGE-STEP.html of a checkpoint)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings for machines")
    parser.add_argument("--seed", metavar="N", type=_number, default=0, help="of all draws (default: 0)")
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.set_defaults(act=act, goes_on="; the run was not changed")


def act(options: argparse.Namespace) -> None:
    """Examines the run, prints the findings and writes the page."""
    from dreamer_ray.doctor import visit
    from dreamer_ray.evaluation.doctor import QUICK, Extent
    from dreamer_ray.evaluation.findings_page import as_json, text

    if options.output is not None and not options.output.absolute().parent.is_dir():
        raise UserError(f"--output {options.output}: there is no folder {options.output.absolute().parent}")
    found = visit(options.place, QUICK if options.quick else Extent(), stage=options.stage, seed=options.seed)
    sys.stdout.write(json.dumps(as_json(found.findings), indent=1) + "\n" if options.json else text(found.findings))
    output: Path = options.output or found.output
    try:
        output.write_text(found.page(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another place with --output FILE.html") from error
    log.info("%s: the same with charts and pictures", output)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text}: expected a number")
    return int(text)
