"""The board: one small actor that hears how far a stage is; the driver reads it and prints progress.

workers --report(done, figures)--> Board <--read-- driver's watcher --> console, run.log
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayActorError

from dreamer_ray.deadline import OutOfTimeError
from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import here
from dreamer_ray.distributed.failures import in_a_line, plain
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.progress import Progress
from dreamer_ray.training.checkpoint import latest_checkpoint

log = logging.getLogger("dreamer_ray")

ANSWER_SECONDS, LOST_SECONDS = 30.0, 600.0
"""After so long a board is asked again; how long one that is lost may need to start again."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Board:
    """The newest state of the running stage, on the node of the driver.

    One that was lost starts again knowing nothing of it; what it is told may be told twice.
    """

    def __init__(self, done: int) -> None:
        self.done, self.figures, self.failure = done, {}, None
        self.replicas: list[Actor] | None = None
        self.lines: list[str] = []
        self.topics: set[str] = set()
        self.beats: dict[int, int] = {}

    def tell(self, line: str, topic: str = "") -> None:
        """Takes a warning for the user; of each ``topic`` the first one."""
        if not topic or topic not in self.topics:
            self.lines.append(line)
        self.topics.add(topic)

    def told(self) -> list[str]:
        """The warnings since the last call of this."""
        told, self.lines = self.lines, []
        return told

    def beat(self, rank: int) -> None:
        """A learner gets on."""
        self.beats[rank] = self.beats.get(rank, 0) + 1

    def pulse(self) -> dict[int, int]:
        """How often each learner has said that it gets on."""
        return self.beats

    def report(self, done: int, figures: dict[str, float]) -> None:
        """Takes the number of finished units and the newest figures."""
        self.done, self.figures = max(done, self.done), figures

    def fail(self, message: str, exit_code: int) -> None:
        """Takes an error that no retry can mend; the first one stays."""
        self.failure = self.failure or (message, exit_code)

    def read(self) -> tuple[int, dict[str, float]]:
        """How far the stage is."""
        return self.done, self.figures

    def enlist(self, replicas: list[Actor]) -> None:
        """Takes the replicas that are in the pool now."""
        self.replicas = replicas

    def enlisted(self) -> list[Actor] | None:
        """The replicas in the pool, None while nobody has said."""
        return self.replicas

    def failed(self) -> tuple[str, int] | None:
        """The error that ended the stage, if any."""
        return self.failure

    def __repr__(self) -> str:
        return "Board"


@contextmanager
def watched(progress: Progress, checkpoints: Path) -> Iterator[Actor]:
    """A board whose state is shown through ``progress`` every two seconds while the ``with`` lasts; it begins with the last checkpoint."""
    begun = latest_checkpoint(checkpoints)
    board: Actor = Board.options(name=f"board-{progress.stage}", scheduling_strategy=here()).remote(0 if begun is None else begun.step)
    ended = threading.Event()

    def watch() -> None:
        told: list[ObjectRef] = []
        while not ended.wait(2):
            told = _said(told or [board.told.remote()])
            with suppress(RayActorError):  # a lost board is told of where its results are read
                done, _ = ray.wait([state := board.read.remote()], timeout=2)
                if done:
                    progress.update(*ray.get(state))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield board
        progress.update(*answer(board.read.remote))
    finally:
        ended.set()
        watcher.join()
        _said([board.told.remote()])
        ray.kill(board)


def _said(told: list[ObjectRef]) -> list[ObjectRef]:
    """Logs what the board was told, where it answers soon; otherwise the reference of its answer, for later."""
    if not ray.wait(told, timeout=2)[0]:
        return told
    with suppress(RayActorError):
        for line in ray.get(told[0]):
            log.warning("%s", line)
    return []


def answer(ask: Callable[[], ObjectRef]) -> Any:
    """What the board answers; one that is lost is waited for while it starts again. Raises ``RunError`` where it does not."""
    given_up = time.monotonic() + LOST_SECONDS
    while True:
        try:
            return ray.get(ask(), timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError) as error:
            if time.monotonic() > given_up:
                raise RunError(f"the board of the run has not answered for {LOST_SECONDS:.0f} s ({in_a_line(error)})") from error
            log.warning("the board of the run is lost (%s); waiting for it to start again", in_a_line(error))
            time.sleep(1)


def raise_failure(board: Actor) -> None:
    """Raises again here the error that a worker wrote on the board, if any."""
    failure = answer(board.failed.remote)
    if failure is not None:
        message, exit_code = failure
        raise {kind.exit_code: kind for kind in (UserError, OutOfTimeError)}.get(exit_code, RunError)(message)


def note_failure(board: Actor, error: BaseException) -> None:
    """Writes an error of ours on the board and waits until it stands there; raises ``error`` again where it is none of ours."""
    if (ours := plain(error)) is None:
        raise error
    message, exit_code = str(ours), ours.exit_code
    answer(lambda: board.fail.remote(message, exit_code))
