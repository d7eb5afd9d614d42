"""The connection to a Kubernetes API server: found in a kubeconfig, patient, and its refusals told in one line."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from sweeper.core.errors import BackendError, InputError, SweeperError

T = TypeVar("T")


REQUEST_TIMEOUT_S = {"_request_timeout": (10.0, 60.0)}
"""Of every request: seconds to connect, and from one piece of an answer to the next. By default there is no limit."""


class KubernetesApi:
    """The cluster of a kubeconfig (KUBECONFIG, ~/.kube/config), or the one that this process runs in.

    Args:
        context: a context of the kubeconfig other than the current one.
        patience: seconds that what is awaited may take.
        look: seconds between two looks.
    """

    def __init__(self, context: str | None, *, patience: float, look: float) -> None:
        self._context = context
        self._patience = patience
        self.look = look

    @cached_property
    def jobs(self) -> Any:
        return self._client.CustomObjectsApi(self._connection)

    @cached_property
    def core(self) -> Any:
        return self._client.CoreV1Api(self._connection)

    @property
    def errors(self) -> Any:
        return self._client.exceptions

    def wait(self, is_done: Callable[[], bool], otherwise: str) -> None:
        """Look until something is done.

        Raises:
            BackendError: it is not, in time.
        """
        deadline = time.monotonic() + self._patience
        while not is_done():
            if time.monotonic() > deadline:
                raise BackendError(f"{otherwise} after {self._patience:.0f} s; ask again, or look with kubectl")
            time.sleep(self.look)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer of an API server that may be away for a while."""
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._patience
        with self.explained():
            while True:
                try:
                    return question()
                except (HTTPError, OSError, self.errors.ServiceException):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(self.look)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tells what the API server has against a request, or that there is none."""
        from urllib3.exceptions import HTTPError

        try:
            yield
        except self.errors.ApiException as error:
            raise self._explain(error) from error
        except (HTTPError, OSError) as error:
            raise BackendError(f"the Kubernetes API at {self._host} cannot be reached: {_cause(error)}") from error

    def _explain(self, error: Any) -> SweeperError:
        reason, message = reason_of(error)
        if error.status in (400, 422):
            return InputError(f"the cluster refuses what was asked ({error.status}): {message}")
        if error.status == 401:
            told = (
                f"does not know you (401): log in again, or choose another context of {self._context or 'kubeconfig'}"
            )
        elif error.status == 403:
            told = (
                f"forbids it (403): {message}. The role sweeper-submitter of k8s/base/access.yaml allows all it takes"
            )
        elif error.status == 404 and not reason:
            told = "knows no RayJobs (404): install KubeRay, as k8s/README.md says"
        else:
            told = f"answers {error.status}: {message}"
        return BackendError(f"the Kubernetes API at {self._host} {told}")

    @property
    def _host(self) -> str:
        return str(self._connection.configuration.host)

    @cached_property
    def _client(self) -> Any:
        try:
            import kubernetes
        except ImportError as error:
            raise InputError("KubeRay needs: pip install 'sweeper[k8s]'") from error
        return kubernetes.client

    @cached_property
    def _connection(self) -> Any:
        from kubernetes import config

        client = self._client
        logging.getLogger("urllib3.connectionpool").setLevel(
            logging.ERROR
        )  # it tells of every attempt; we, of the last
        file = os.environ.get("KUBECONFIG")  # which the package reads only once, when it is imported
        try:
            return config.new_client_from_config(file, self._context)
        except config.ConfigException as error:
            try:
                if self._context is not None:
                    raise
                settings = client.Configuration()
                config.load_incluster_config(client_configuration=settings)
                return client.ApiClient(settings)
            except config.ConfigException:
                raise InputError(f"no Kubernetes cluster is known here ({_cause(error)}); set KUBECONFIG") from error


def reason_of(error: Any) -> tuple[str, str]:
    """The API server's word for what went wrong, and its message; no word, if its API did not answer."""
    try:
        answer = json.loads(error.body)
        return str(answer.get("reason", "")), str(answer["message"])
    except (TypeError, ValueError, LookupError, AttributeError):
        return "", str(error.reason)


def _cause(error: BaseException) -> str:
    """The innermost reason of an error of the network, in one line."""
    reason = getattr(error, "reason", None)
    while isinstance(reason, BaseException):
        error, reason = reason, getattr(reason, "reason", None)
    return (str(error).splitlines() or [type(error).__name__])[0]
