"""The board: one small actor that hears how far a stage is; the driver reads it and prints progress.

workers --report(done, figures)--> Board <--read-- driver's watcher --> console, run.log
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray.exceptions import RayActorError

from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.cluster import here
from dreamer_ray.distributed.failures import plain
from dreamer_ray.errors import RunError, UserError
from dreamer_ray.progress import Progress
from dreamer_ray.training.checkpoint import latest_checkpoint


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Board:
    """The newest state of the running stage, on the node of the driver.

    One that was lost starts again knowing nothing of it; what it is told may be told twice.
    """

    def __init__(self, done: int) -> None:
        self.done, self.figures, self.failure = done, {}, None
        self.replicas: list[Actor] | None = None

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
        while not ended.wait(2):
            with suppress(RayActorError):  # a lost board is told of where its results are read
                done, _ = ray.wait([state := board.read.remote()], timeout=2)
                if done:
                    progress.update(*ray.get(state))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield board
        progress.update(*ray.get(board.read.remote(), timeout=30))
    finally:
        ended.set()
        watcher.join()
        ray.kill(board)


def raise_failure(board: Actor) -> None:
    """Raises again here the error that a worker wrote on the board, if any."""
    failure = ray.get(board.failed.remote(), timeout=30)
    if failure is not None:
        message, exit_code = failure
        raise UserError(message) if exit_code == UserError.exit_code else RunError(message)


def note_failure(board: Actor, error: BaseException) -> None:
    """Writes an error of ours on the board and waits until it stands there; raises ``error`` again where it is none of ours."""
    if (ours := plain(error)) is None:
        raise error
    ray.get(board.fail.remote(str(ours), ours.exit_code), timeout=30)
