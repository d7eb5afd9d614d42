"""The first contact with Ray: whether a cluster answers and requires a token; a new Ray serves only its sweep."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from sweeper.core.errors import BackendError, OpenClusterError
from sweeper.core.urls import is_loopback
from sweeper.driver.ray_internals import auth_token, listen_on_loopback_only, reload_auth_token, resolve_address

T = TypeVar("T")


CONNECT_TIMEOUT_S = 5.0
"""Time that a cluster has to accept a connection, and then to answer a request without a token."""


CHECK_TIMEOUT_S = 15.0
"""Time for both, and for the lookup of the host's name."""


def cluster_address(address: str | None) -> str | None:
    """Return the address of the cluster to join, by default the one in RAY_ADDRESS; None for a Ray of our own."""
    asked = address or os.environ.get("RAY_ADDRESS")
    return None if asked in (None, "", "local") else asked


def check_cluster(address: str | None, *, insecure: bool = False) -> None:
    """Check that a cluster answers, and that it requires a token if it is on another machine.

    Ray alone would wait for 13 minutes where nothing answers, and obey no signal meanwhile. The check sends the first
    request of every client, first without a token. The settings of this client prove nothing: a cluster that requires
    no token ignores one. With TLS, only the connection is checked.

    Args:
        insecure: accept a cluster on another machine that requires no token.

    Raises:
        BackendError: no Ray answers at the address, or it does not accept the token.
        OpenClusterError: the cluster answered without a token.
    """
    asked = cluster_address(address)
    if asked is None:
        return
    found = resolve_address(asked)
    if found is None:
        raise BackendError(
            "No Ray cluster was found on this machine, which the address auto means. Start one with `ray start`, name "
            "another with --address HOST:PORT, or leave the address out"
        )
    try:
        is_open = _ask_network(partial(_is_open, found))
        if not is_open and not _uses_tls():
            enable_token_auth()
            _ask_network(partial(_check_token, found, auth_token(is_optional=asked == "auto")))
    except (_RefusedError, TimeoutError) as error:
        taken = "" if asked in (found, "auto") else f" (which Ray takes for {found})"
        reason = str(error) or f"nothing answers at {found} (timed out)"
        raise BackendError(f"The Ray cluster at {asked}{taken} cannot be used: {reason}") from error
    if is_open and not insecure and not is_loopback(found if asked == "auto" else asked):
        raise OpenClusterError(asked)


class _RefusedError(Exception):
    """The reason why a cluster cannot be used, and a remedy."""


def in_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Begin a call in a thread of this name, which the process does not wait for when it exits; return its answer."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer


def _ask_network(ask: Callable[[], T]) -> T:
    """Return the answer of the network to a question.

    The lookup of a host's name has no time limit, and Python handles no signal in the thread that waits for it.

    Raises:
        TimeoutError: there was no answer within `CHECK_TIMEOUT_S`.
    """
    return in_thread(ask, "sweeper-connect").result(timeout=CHECK_TIMEOUT_S)


def _is_open(address: str) -> bool:
    """Return whether a cluster answers a request without a token."""
    place = urlsplit(f"ray://{address}")
    remedy = "Check the address (--address or RAY_ADDRESS), and that the cluster runs"
    try:
        socket.create_connection((str(place.hostname), int(place.port or 0)), CONNECT_TIMEOUT_S).close()
    except socket.gaierror as error:
        raise _RefusedError(f"the host {place.hostname} is not known ({error.strerror}). {remedy}") from error
    except OSError as error:
        raise _RefusedError(f"nothing answers at {address} ({error.strerror or error}). {remedy}") from error
    if _uses_tls():
        return False
    code = _request(address, None)
    if code == "DEADLINE_EXCEEDED":
        raise _RefusedError(f"{address} accepts a connection, but answers no request (timed out). {remedy}")
    if code not in ("OK", "UNAUTHENTICATED"):
        raise _RefusedError(f"what answers at {address} is not the head of a Ray cluster. {remedy}")
    return code == "OK"


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS") == "1"  # then both sides have to authenticate


def _check_token(address: str, token: str | None) -> None:
    """Check that a cluster accepts this token. Ray would send a wrong one again for half a minute."""
    if not token:
        raise _RefusedError(
            "it requires a token. Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file with the token"
        )
    if _request(address, token) == "UNAUTHENTICATED":
        raise _RefusedError("it does not accept the token. Correct RAY_AUTH_TOKEN, or the file in RAY_AUTH_TOKEN_PATH")


def _request(address: str, token: str | None) -> str:
    """Send the first request of every client; return the name of gRPC's status."""
    import grpc

    # Ray's own clients ignore the proxies in the environment too.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=CONNECT_TIMEOUT_S, metadata=[("authorization", f"Bearer {token}")] if token else [])
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


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
    if not (os.environ.get("RAY_AUTH_TOKEN_PATH") or os.environ.get("RAY_AUTH_TOKEN")):
        # Ray would write a token that everyone can read into the home directory; this one is never written to disk.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    enable_token_auth()
    with listen_on_loopback_only():
        yield
