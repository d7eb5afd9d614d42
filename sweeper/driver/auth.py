"""Who else may reach the Ray that a sweep runs on: nobody, where it is our own; else it must ask for its token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sweeper.core.errors import OpenClusterError
from sweeper.core.urls import is_loopback

CONNECT_TIMEOUT_S = 5.0
"""Seconds that a cluster has to answer."""


def refuse_open_cluster(address: str | None) -> None:
    """Refuse to join a cluster elsewhere that obeys whoever reaches it.

    It is asked, without a token, what each of its clients asks first. What its client has set proves nothing: a
    cluster that checks no tokens ignores the one it is given.

    Raises:
        OpenClusterError: it answered.
    """
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    if asked == "local" or os.environ.get("RAY_USE_TLS") == "1":  # with TLS both sides prove who they are
        return
    found = _discover_address() if asked == "auto" else asked.rpartition("://")[2]
    if found and not is_loopback(found) and _accepts_without_token(found):
        raise OpenClusterError(asked)


def _discover_address() -> str | None:
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto")  # type: ignore[no-any-return]


def _accepts_without_token(address: str) -> bool:
    """Whether Ray answers who brings no token; one that cannot be reached lets nobody in."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=CONNECT_TIMEOUT_S)
        except grpc.RpcError as error:
            closed = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return error.code() not in closed
    return True


def enable_token_auth() -> None:
    """Have Ray prove with its token who this process is, if the environment holds one.

    By itself it does so only where RAY_AUTH_MODE says so too; a cluster that asks for none does not mind.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # which reads the environment again: Ray did when it was imported
        AuthenticationTokenLoader.instance().reset_cache()  # this process may have been at another cluster before


@contextmanager
def private_ray_auth() -> Iterator[None]:
    """Make the Ray that is started in the block one that only this process and its workers can talk to.

    It asks for a token even if the environment says otherwise, for other users of this machine reach its ports too, and
    it listens on the loopback address only, as it does on macOS and Windows by itself.
    """
    from ray._private import ray_constants

    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray would leave a token readable by everyone in the home directory; one of our own never meets the disk.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    enable_token_auth()
    joins_clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joins_clusters
