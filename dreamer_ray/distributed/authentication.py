"""Whether a cluster wants a token: said by whoever goes there, since Ray's own guess depends on what lies in the home directory."""

import os

from dreamer_ray.errors import UserError


def required_mode() -> str:
    """RAY_AUTH_MODE. Raises ``UserError`` where it is not set."""
    if not (mode := os.environ.get("RAY_AUTH_MODE")):
        raise UserError(
            "RAY_AUTH_MODE is not set: RAY_AUTH_MODE=token (with RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH=FILE) for a cluster with token "
            "authentication, RAY_AUTH_MODE=disabled for one without"
        )
    return mode


def refused(where: str, error: Exception) -> UserError:
    """The error of ours for a cluster that does not take the token that it was given, or was given none."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{where}: refused, with RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE')}: {reason}; set RAY_AUTH_MODE=token and the cluster's own "
        "token in RAY_AUTH_TOKEN, or the file that holds it in RAY_AUTH_TOKEN_PATH"
    )
