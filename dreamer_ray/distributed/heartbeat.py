"""The heartbeat of a training worker: says that its steps get on, and ends its process where one takes too long.

fit --after each step--> heartbeat --beat, now and then--> Board <--pulse-- driver

Ray sees processes that do not answer. It does not see a thread that hangs in a file system, on a GPU or for want of its data.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.board import ANSWER_SECONDS

SECONDS_BETWEEN_BEATS = 10.0
STDERR = 2
"""Ray keeps what is written there as the log of the process."""


@contextmanager
def heartbeat(board: Actor, stage: str, rank: int, *, limit: float) -> Iterator[Callable[[int], None]]:
    """Gives what is called with the number of done steps after each; the first ``limit`` begins with the ``with``.

    After so many seconds without a step the board is told and the process ends, so that Ray Train starts its group again.
    """
    ended, newest = threading.Event(), [(0, time.monotonic())]

    def after_step(done: int) -> None:
        newest[0] = done, time.monotonic()

    def watch() -> None:
        while True:
            done, heard = newest[0]
            if time.monotonic() - heard > limit:
                break
            board.beat.remote(rank)
            if ended.wait(min(SECONDS_BETWEEN_BEATS, limit / 2)):
                return
        faulthandler.dump_traceback(STDERR)
        line = f"{stage}: worker {rank} has done no step for cluster.job_seconds = {limit:g}, is taken for hung and ended; where it hung "
        told = board.tell.remote(line + "stands in its log on its node. Raise the key if a step takes so long", f"hung after {done} steps")
        ray.wait([told], timeout=ANSWER_SECONDS)
        os._exit(1)  # nothing milder ends a thread that hangs

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield after_step
    finally:
        ended.set()
