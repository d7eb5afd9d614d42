"""The cluster that `--storage k8s://NAMESPACE` names: reached while a verb runs; what is other for its sweeps."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from sweeper.cli import options
from sweeper.core.errors import StorageError, SweeperError, TrackingError
from sweeper.core.urls import CLUSTER

if TYPE_CHECKING:
    from sweeper.backends.tunnel import Tunnel

_tunnel: Tunnel | None = None
"""The way to the cluster; None if the running verb reads no cluster's sweeps. A process runs one verb."""


def reaching(verb: Callable[..., int | None]) -> Callable[..., int | None]:
    """Let a verb read the sweeps of a cluster: for `k8s://NAMESPACE` it gets a URL that works here while it runs."""
    storage = inspect.signature(verb, eval_str=True).parameters.get("storage")
    if storage is None or storage.annotation != options.Storage:  # it runs a sweep, or asks no database
        return verb

    @wraps(verb)
    def run_verb(**arguments: Any) -> int | None:
        if not arguments["storage"].startswith(CLUSTER):
            return verb(**arguments)
        with opened(arguments["storage"]) as url:
            return verb(**{**arguments, "storage": url})

    return run_verb


@contextmanager
def opened(asked: str) -> Iterator[str]:
    """Reach the cluster that a URL names for the block; yield a URL of its database that works here.

    Raises:
        InputError: the URL names no cluster or no namespace with a database, or a driver is missing here.
        BackendError: the cluster cannot be reached, or refuses.
    """
    global _tunnel
    from sweeper.backends.tunnel import Place, Tunnel
    from sweeper.study.database_url import check_database_url

    with Tunnel(Place.of(asked)) as tunnel:
        url = tunnel.database()
        check_database_url(url)
        _tunnel = tunnel
        try:
            yield url
        except SweeperError as error:
            is_lost = tunnel.problem and isinstance(error, StorageError | TrackingError)
            because = f" ({tunnel.problem})" if is_lost else ""
            error.args = (f"{shown(str(error))}{because}",)
            raise
        finally:
            _tunnel = None


def asked() -> str | None:
    """Return the URL of the cluster whose sweeps the running verb reads; None if it reads no cluster's."""
    return None if _tunnel is None else str(_tunnel.place)


def storage_option() -> str | None:
    """Return the option of further commands that names the cluster; None if the running verb reads no cluster's sweeps.

    It is empty if SWEEPER_STORAGE names the cluster.
    """
    cluster = asked()
    if cluster is None or cluster == os.environ.get("SWEEPER_STORAGE"):
        return cluster and ""
    return f" --storage {shlex.quote(cluster)}"


def namespace_options() -> str:
    """Return the options that name the cluster for verbs that talk to Kubernetes, such as `logs`."""
    if _tunnel is None:
        return ""
    context = f" --context {shlex.quote(_tunnel.place.context)}" if _tunnel.place.context else ""
    return f" --namespace {_tunnel.place.namespace}{context}"


def local(uri: str, port: int | None = None) -> str:
    """Return the address of an MLflow store as it works here: that of a forwarded port for a Service of the cluster.

    Args:
        port: the port to forward; None: any free one.
    """
    return uri if _tunnel is None else _tunnel.reach(uri, port or 0)


def is_forwarded(uri: str) -> bool:
    """Return whether an address works only as long as this process runs."""
    return shown(uri) != uri


def shown(text: str) -> str:
    """Return a text with the names of the cluster's servers in the place of forwarded ports."""
    return text if _tunnel is None else _tunnel.shown(text)
