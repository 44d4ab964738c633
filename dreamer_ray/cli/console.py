"""Where messages go: short ones to the console (stderr), all of them with tracebacks to run.log; and how a run is told to stop."""

import logging
import signal
import sys
from pathlib import Path
from typing import NoReturn

from dreamer_ray.errors import UserError

log = logging.getLogger("dreamer_ray")


class _Brief(logging.Formatter):
    """Without traceback, and with the word "error:" before an error."""

    def format(self, record: logging.LogRecord) -> str:
        message = f"error: {record.getMessage()}" if record.levelno >= logging.ERROR else record.getMessage()
        return f"{self.formatTime(record, '%H:%M:%S')}  {message}"


def show(*, debug: bool) -> None:
    """Sends the package's messages to stderr; with ``debug`` also its debug messages and tracebacks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(levelname)s  %(message)s") if debug else _Brief())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False


def copy_to(path: Path) -> None:
    """Sends the package's messages also to the end of the file ``path``, errors with their tracebacks."""
    try:
        handler = logging.FileHandler(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place with --runs DIR") from error
    handler.setFormatter(logging.Formatter("%(asctime)s  %(levelname)s  %(message)s"))
    logging.raiseExceptions = False  # on a full disk the console says why the run ends, without a traceback of the log file
    log.addHandler(handler)


def stop_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM raise ``KeyboardInterrupt``. To be called again whenever Ray has put handlers of its own there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)
