"""The head of a cluster: whether it answers, and the end of a run that has lost it.

Without its head a cluster can neither begin nor end anything. Ray ends the process a minute later, with a line of its own; shortly
before that the run says here what has happened and what to do.

thread in the driver --knocks--> head; where it is silent too long: one message, and the process ends
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from dreamer_ray.errors import RunError

log = logging.getLogger("dreamer_ray")

KNOCK_SECONDS = 15
SECONDS_BETWEEN_KNOCKS = 2.0
RAY_WAITS = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long it waits for a lost head, 60 s unless it is set (as where a head can come back)."""


def knock(address: str) -> bool:
    """Whether ``address`` is a HOST:PORT, where something listens. Raises ``OSError`` where nothing does; Ray itself would try for a
    quarter of an hour."""
    host, _, port = address.rpartition(":")
    if there := bool(host and port.isdigit()):
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    return there


@contextmanager
def head_required() -> Iterator[None]:
    """While the ``with`` lasts, ends the process with one message and the exit code of ``RunError`` where the head is lost.

    From a thread, and at once: whatever the main thread does then waits for the head, also what it would do to end in peace.
    """
    address, patience = ray.get_runtime_context().gcs_address, 0.8 * float(os.environ.get(RAY_WAITS, "60"))
    ended = threading.Event()

    def watch() -> None:
        heard = time.monotonic()
        while not ended.wait(SECONDS_BETWEEN_KNOCKS):
            try:
                knock(address)
                heard = time.monotonic()
            except OSError as error:
                if time.monotonic() - heard > patience:
                    log.error(
                        "the head of the Ray cluster at %s is lost: no answer for %.0f s (%s). Start the same command again, without "
                        "--from, as soon as there is a cluster: finished stages are kept, this one goes on from its last checkpoint",
                        *(address, patience, error),
                    )
                    os._exit(RunError.exit_code)

    watcher = threading.Thread(target=watch, name="head", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
