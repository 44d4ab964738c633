"""Errors that crossed a process: Ray hands them over wrapped, with that process's traceback; here they are themselves again."""

import errno
from textwrap import shorten

from ray.exceptions import RayError, RayTaskError

from dreamer_ray.errors import DreamerError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT)
RETRY_ADVICE = "\nFailed to apply UDF transform"
"""What Ray Data appends to the message of any error in its tasks begins so."""


def plain(error: BaseException) -> DreamerError | None:
    """The error of ours inside ``error``, or one of ours for a full disk; None where it is neither."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DreamerError) and not isinstance(inner, RayError):
            return type(inner)(str(inner).partition(RETRY_ADVICE)[0])
        if isinstance(inner, OSError) and inner.errno in FULL:
            place = inner.filename or "the run folder"
            return RunError(f"{place}: not written ({inner.strerror}); make room and run again without --from: what is finished is kept")
        inner = getattr(inner, "cause", None) or inner.__cause__
    return None


def in_a_line(error: BaseException) -> str:
    """The kind and the words of an error, without Ray's traceback."""
    inner: BaseException = plain(error) or (error.cause if isinstance(error, RayTaskError) else error)
    said = next((line for line in reversed(str(inner).splitlines()) if line.strip()), "")
    return f"{type(inner).__name__}: {shorten(said, 200)}"
