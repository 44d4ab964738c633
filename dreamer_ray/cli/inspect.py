"""``dreamer-ray inspect``: what is in a data set, whatever its format: hours, pictures, actions, tasks, what is bad."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dreamer_ray.errors import UserError

if TYPE_CHECKING:
    from dreamer_ray.data.recognition import Found

log = logging.getLogger("dreamer_ray")

KINDS = ("vpt", "minerl", "lerobot", "minari", "videos", "shards", "latents", "run")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``inspect`` and its options."""
    parser = verbs.add_parser("inspect", help="show what is in a data set", description=__doc__)
    parser.add_argument(
        "path", metavar="PATH", help="a folder or file of recordings, of shards or latents, of a run; or an id with --kind minari"
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="values of the source as in a recipe, such as camera=observation.images.top or fps=20",
    )
    parser.add_argument("--kind", choices=KINDS, help="what PATH is (default: by what lies there)")
    parser.add_argument(
        "--recordings",
        metavar="N",
        type=_number,
        help="read so many, spread evenly (default: 20; 2 of those that must be fetched from elsewhere)",
    )
    parser.add_argument("--decode", action="store_true", help="decode all of their pictures, not only the first of each: finds damage")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--sheet", metavar="FILE.png", type=Path, help="write pictures of several recordings")
    parser.add_argument("--clip", metavar="FILE.mp4", type=Path, help="write a part of a recording with the actions drawn on it")
    parser.add_argument("--recording", metavar="NAME", help="of the clip (default: the first one)")
    parser.add_argument("--start", metavar="FRAME", type=_number, default=0, help="of the clip (default: 0)")
    parser.add_argument("--frames", metavar="N", type=_count, default=200, help="of the clip (default: 200)")
    parser.add_argument("--debug", action="store_true", help="show debug messages and tracebacks")
    parser.set_defaults(act=act, goes_on="; nothing was changed")


def act(options: argparse.Namespace) -> None:
    """Shows and writes what ``options`` ask for."""
    from dreamer_ray.cli.inspect_text import described
    from dreamer_ray.data.inspection import report
    from dreamer_ray.data.recognition import found_at
    from dreamer_ray.data.showing import write_clip, write_sheet

    _check(options)
    parts = list(found_at(options.path, options.kind, _values(options.overrides)))
    reports = [(name, report(found, recordings=options.recordings, decode=options.decode)) for name, found in parts]
    if options.json:
        sys.stdout.write(json.dumps([{"part": name} | asdict(part) for name, part in reports], indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(described(part, name, decoded=options.decode) for name, part in reports))
    if options.sheet:
        name, found = parts[0]
        sheet = write_sheet(found, options.sheet)
        log.info("%s: %d pictures of %d recordings of %s", options.sheet, sheet.pictures, sheet.recordings, name or found.path)
    if options.clip:
        found = _with_recording([found for _, found in parts], options.recording)
        name, count = write_clip(found, options.clip, recording=options.recording, start=options.start, frames=options.frames)
        log.info("%s: %d frames of %s from frame %d on", options.clip, count, name, options.start)


def _check(options: argparse.Namespace) -> None:
    for name, suffix in (("sheet", ".png"), ("clip", ".mp4")):
        path = getattr(options, name)
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UserError(f"--{name} {path}: expected the name of a {suffix} file")
        if not path.absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: there is no folder {path.absolute().parent}")
    if options.recording and not options.clip:
        raise UserError(f"--recording {options.recording}: chooses what --clip FILE.mp4 shows, which is missing")


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise UserError(f"{override!r}: expected key=value, such as camera=observation.images.top")
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{override!r}: the value is not valid YAML") from error
    return values


def _with_recording(found: "Sequence[Found]", name: str | None) -> "Found":
    """The part of a run in which a recording lies; the first where none of them knows it, which then says so."""
    return next((part for part in found if name in {recording.name for recording in part.source.index()}), found[0])


def _count(text: str) -> int:
    if (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 on")
    return value


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text}: expected a number")
    return int(text)
