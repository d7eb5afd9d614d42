"""Authentication with Ray: a new Ray serves only its sweep, and a cluster that is joined must require a token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sweeper.core.errors import OpenClusterError
from sweeper.core.urls import is_loopback
from sweeper.driver.ray_internals import discover_address, listen_on_loopback_only, reload_auth_token

CONNECT_TIMEOUT_S = 5.0
"""Time that a cluster has to answer a request without a token."""


def refuse_open_cluster(address: str | None) -> None:
    """Refuse to join a cluster on another machine that accepts requests without a token.

    The check sends, without a token, the first request of every client. The settings of this client prove nothing: a
    cluster that requires no token ignores one.

    Raises:
        OpenClusterError: the cluster answered.
    """
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    if asked == "local" or os.environ.get("RAY_USE_TLS") == "1":  # with TLS, both sides have to authenticate
        return
    found = discover_address() if asked == "auto" else asked.rpartition("://")[2]
    if found and not is_loopback(found) and _accepts_without_token(found):
        raise OpenClusterError(asked)


def _accepts_without_token(address: str) -> bool:
    """Return whether the cluster answers a request without a token. An unreachable cluster counts as closed."""
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
    """Make Ray authenticate with the token in the environment, if there is one.

    Ray alone would also need RAY_AUTH_MODE=token. A cluster that requires no token ignores it.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        reload_auth_token()


@contextmanager
def private_ray_auth() -> Iterator[None]:
    """Make the Ray that is started in the block reachable by this process and its workers only.

    It requires a token, whatever RAY_AUTH_MODE is, because other users of this machine can reach its ports; and it
    listens on the loopback address only.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Ray would write a token that everyone can read into the home directory; this one is never written to disk.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    enable_token_auth()
    with listen_on_loopback_only():
        yield
