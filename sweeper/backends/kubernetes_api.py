"""Connection to a Kubernetes API server: found through a kubeconfig, its errors translated into one line."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeper.core.errors import BackendError, InputError, SweeperError
from sweeper.core.text import first_line

REQUEST_OPTIONS = {"_request_timeout": (10.0, 60.0)}
"""Options of every request: seconds to connect, and between two pieces of an answer. The client has no limit itself."""

ROLE = "The Role sweeper-submitter in k8s/base/access.yaml allows all that sweeper needs"

_POLLS_PER_RETRY = 10
"""Longest pause between two retries of a read, in polls."""


class KubernetesApi:
    """The cluster of a kubeconfig (KUBECONFIG, ~/.kube/config), or the one that this process runs in.

    Args:
        context: a context of the kubeconfig other than the current one.
        timeout_s: limit of `wait`, and about how long the server may be unavailable for reads that are retried.
        poll_interval_s: seconds between two polls of `wait`.
        retry_reads: retry reads while the server is unavailable. Without it, a server that cannot be reached is
            reported at once.
    """

    def __init__(
        self, context: str | None, *, timeout_s: float, poll_interval_s: float, retry_reads: bool = False
    ) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._poll_interval_s = poll_interval_s
        self._retry_reads = retry_reads

    @cached_property
    def jobs(self) -> Any:
        return self._client.CustomObjectsApi(self._connection)

    @cached_property
    def core(self) -> Any:
        return self._client.CoreV1Api(self._connection)

    @cached_property
    def authorization(self) -> Any:
        return self._client.AuthorizationV1Api(self._connection)

    @property
    def host(self) -> str:
        """Address of the server, for messages."""
        return str(self._connection.configuration.host)

    @property
    def errors(self) -> Any:
        return self._client.exceptions

    def wait(self, is_done: Callable[[], bool], otherwise: str) -> None:
        """Poll until something is done.

        Args:
            otherwise: what is still so if the time runs out, for the message.

        Raises:
            BackendError: it is not done after `timeout_s`.
        """
        deadline = time.monotonic() + self._timeout_s
        while not is_done():
            if time.monotonic() > deadline:
                raise BackendError(
                    f"{otherwise} after {self._timeout_s:.0f} s; repeat the command, or look at it with kubectl"
                )
            time.sleep(self._poll_interval_s)

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise BackendError or InputError in the place of the errors of the client and of the network."""
        from urllib3.exceptions import HTTPError

        try:
            yield
        except self.errors.ApiException as error:
            raise self._translate_api_error(error) from error
        except (HTTPError, OSError) as error:
            raise BackendError(f"the Kubernetes API at {self.host} cannot be reached: {_root_cause(error)}") from error

    def _translate_api_error(self, error: Any) -> SweeperError:
        reason, message = reason_of(error)
        if not error.status:  # the client's form of an error of TLS, in two lines
            return BackendError(f"the Kubernetes API at {self.host} cannot be reached: {message.splitlines()[-1]}")
        if error.status in (400, 422):
            return InputError(f"the cluster rejects the request ({error.status}): {message}")
        if error.status == 401:
            kubeconfig = self._context or "kubeconfig"
            problem = f"does not accept your credentials (401): log in again, or choose another context of {kubeconfig}"
        elif error.status == 403 and "being terminated" in message:
            problem = "is deleting the namespace; wait until it is gone, and create it again"
        elif error.status == 403 and " cannot " not in message:  # a quota, or another rule of the cluster
            problem = f"refuses the request (403): {message}"
        elif error.status == 403:
            problem = f"forbids the request (403): {message}. {ROLE}"
        elif error.status == 404 and not reason:
            problem = "knows no RayJobs (404): install KubeRay, as k8s/README.md describes"
        else:
            problem = f"answers {error.status}: {message}"
        return BackendError(f"the Kubernetes API at {self.host} {problem}")

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
        from yaml import MarkedYAMLError  # the parser that this client uses

        # It logs every retry; the last error is in our message.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        settings = self._client.Configuration()
        settings.retries = self._read_retries() if self._retry_reads else False
        file = os.environ.get("KUBECONFIG")  # the package reads the variable only once, when it is imported
        try:
            return config.new_client_from_config(file, self._context, client_configuration=settings)
        except config.ConfigException as error:
            try:
                if self._context is not None or file:
                    raise
                config.load_incluster_config(client_configuration=settings)
                return self._client.ApiClient(settings)
            except config.ConfigException:
                raise InputError(_kubeconfig_problem(file, first_line(error))) from error
        except (OSError, ValueError, MarkedYAMLError) as error:
            raise InputError(_kubeconfig_problem(file, first_line(error))) from error
        except (LookupError, TypeError, AttributeError) as error:  # the client does not check what it reads
            raise InputError(_kubeconfig_problem(file, "it is YAML of another kind")) from error

    def _read_retries(self) -> Any:
        """Return retries that together wait about `timeout_s`: after 0, 2, 4, 8, 10, 10, ... polls."""
        from urllib3 import Retry

        longest = _POLLS_PER_RETRY * self._poll_interval_s
        return Retry(
            total=max(1, round(self._timeout_s / longest)),
            backoff_factor=self._poll_interval_s,
            backoff_max=longest,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods={"GET"},
            raise_on_status=False,  # the last answer says more than "too many 503 error responses"
        )


def _kubeconfig_problem(file: str | None, reason: str) -> str:
    """Return why a kubeconfig leads to no cluster.

    Args:
        file: the value of KUBECONFIG, which may name several files.
        reason: what the client says about it.
    """
    files = [Path(part) for part in (file or "~/.kube/config").split(os.pathsep) if part]
    if any(part.expanduser().exists() for part in files):
        return (
            f"the kubeconfig {file or files[0]} cannot be used: {reason}. See `kubectl config view`, choose another "
            "context with --context, or set KUBECONFIG to another file"
        )
    missing = f"KUBECONFIG is {file}, and there is no such file" if file else f"there is no {files[0]}"
    return f"no Kubernetes cluster is configured here: {missing}. Set KUBECONFIG to the file that names your cluster"


def is_label(text: str) -> bool:
    """Return whether a text is a name as Kubernetes allows it for a namespace."""
    is_allowed = text.isascii() and text.replace("-", "").isalnum() and text == text.lower()
    return is_allowed and len(text) <= 63 and text.strip("-") == text


def reason_of(error: Any) -> tuple[str, str]:
    """Return the API server's reason for an error, and its message; the reason is empty if something else answered."""
    try:
        answer = json.loads(error.body)
        return str(answer.get("reason", "")), str(answer["message"])
    except (TypeError, ValueError, LookupError, AttributeError):
        return "", str(error.reason)


def _root_cause(error: BaseException) -> str:
    """Return the first line of the innermost reason of an error of the network."""
    reason = getattr(error, "reason", None)
    while isinstance(reason, BaseException):
        error, reason = reason, getattr(reason, "reason", None)
    return first_line(error)
