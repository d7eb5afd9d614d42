"""Who else may reach the Ray that a sweep runs on: nobody, where it is our own; else it must ask for its token."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from sweeper.core.errors import InputError

_PATIENCE = 5.0
"""Seconds that a cluster has to answer."""


def refuse_open_cluster(address: str | None) -> None:
    """Refuse to join a cluster elsewhere that obeys whoever reaches it.

    It is asked, without a token, what each of its clients asks first. What its client has set proves nothing: a
    cluster that checks no tokens ignores the one it is given.

    Raises:
        InputError: it answered.
    """
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    if asked == "local" or os.environ.get("RAY_USE_TLS") == "1":  # with TLS both sides prove who they are
        return
    found = _found_by_ray() if asked == "auto" else asked.rpartition("://")[2]
    if found and not is_loopback(found) and _lets_anyone_in(found):
        raise InputError(
            f"the Ray cluster at {asked} runs what anyone who reaches it sends: it asks for no token. Start it with "
            "RAY_AUTH_MODE=token (https://docs.ray.io/en/latest/ray-security/token-auth.html), or say --insecure"
        )


def _found_by_ray() -> str | None:
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto")  # type: ignore[no-any-return]


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        found = {ipaddress.ip_address(place[4][0]) for place in socket.getaddrinfo(host, None)}
    except OSError:  # it cannot be reached, which Ray will say
        return True
    return all(place.is_loopback for place in found)


def _lets_anyone_in(address: str) -> bool:
    """Whether Ray answers who brings no token; one that cannot be reached lets nobody in."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=_PATIENCE)
        except grpc.RpcError as error:
            closed = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return error.code() not in closed
    return True


def show_token() -> None:
    """Have Ray prove with its token who this process is, if the environment holds one.

    By itself it does so only where RAY_AUTH_MODE says so too; a cluster that asks for none does not mind.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # which reads the environment again: Ray did when it was imported
        AuthenticationTokenLoader.instance().reset_cache()  # this process may have been at another cluster before


@contextmanager
def ours_alone() -> Iterator[None]:
    """Make the Ray that is started in the block one that only this process and its workers can talk to.

    It asks for a token even if the environment says otherwise, for other users of this machine reach its ports too, and
    it listens on the loopback address only, as it does on macOS and Windows by itself.
    """
    from ray._private import ray_constants

    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray would leave a token readable by everyone in the home directory; one of our own never meets the disk.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    show_token()
    joins_clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joins_clusters
