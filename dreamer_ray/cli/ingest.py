"""``dreamer-ray ingest``: brings the recordings of a recipe into shards, as ``dreamer-ray run --only record`` does."""

import argparse

from dreamer_ray.cli import run


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``ingest`` and its options."""
    parser = verbs.add_parser("ingest", help="bring the recordings of a recipe into shards", description=__doc__)
    run.add_arguments(parser)
    parser.set_defaults(only="record", goes_on="; the same command goes on with the recordings that are not done")
