"""What must stand in the environment before Ray is imported, so that a local Ray listens on 127.0.0.1 alone."""

import os

LOOPBACK_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""No statistics are sent; every port binds to the loopback interface; so closed, no token is needed."""


def named_cluster() -> str | None:
    """The address in RAY_ADDRESS, or None where a Ray of our own is to be started."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def bind_ray_to_loopback() -> None:
    """Sets these variables unless a cluster is named by RAY_ADDRESS. To be called before the first import of Ray, which reads them then."""
    if not named_cluster():
        os.environ.update({name: os.environ.get(name, value) for name, value in LOOPBACK_ENVIRONMENT.items()})
