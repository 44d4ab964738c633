"""The two kinds of error that reach a user: a mistake that the user can mend, and a run that failed."""


class DreamerError(Exception):
    """Base of all errors that are shown as one message without a traceback."""

    exit_code = 1


class UserError(DreamerError):
    """A mistake of the user (recipe, path, data); the message names the value, the place and the remedy. Exit code 2."""

    exit_code = 2


class RunError(DreamerError):
    """A run that could not go on (disk full, NaN loss, lost worker); the message says what is kept. Exit code 1."""
