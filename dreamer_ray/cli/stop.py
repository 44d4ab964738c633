"""``dreamer-ray stop``: ends a job of a cluster, running or still waiting."""

import argparse
import logging

from dreamer_ray.cli.submit import add_address

log = logging.getLogger("dreamer_ray")


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the verb ``stop`` and its options."""
    parser = verbs.add_parser("stop", help="end a job of a Ray cluster", description=__doc__)
    parser.add_argument("job", metavar="JOB", help="the name that submit gave")
    parser.add_argument("--seconds", metavar="S", type=float, default=120.0, help="how long it may take (default: 120)")
    add_address(parser)
    parser.set_defaults(act=act, goes_on="; the job may still be ending: look with `dreamer-ray status`")


def act(options: argparse.Namespace) -> None:
    """Ends the job that ``options`` name."""
    from dreamer_ray.distributed.jobs import connect, stop

    dashboard = connect(options.address)
    before = dashboard.job(options.job)
    after = stop(dashboard, options.job, seconds=options.seconds)
    if before.status.is_terminal():
        log.info("job %s has ended already: %s", options.job, before.status)
    elif after.driver_exit_code is not None:
        log.info("job %s ended by itself meanwhile: %s", options.job, after.status)
    elif before.status == "PENDING":
        log.info("job %s stopped before it began (Ray may list it as FAILED)", options.job)
    else:
        log.info("job %s stopped; submitted again with the same --runs it goes on from its last checkpoint", options.job)
