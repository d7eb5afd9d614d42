"""The database and the MLflow server of a Kubernetes namespace as seen from outside: through forwarded ports."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sweeper.backends.kubernetes_api import KubernetesApi, is_label, reason_of
from sweeper.backends.port_forward import PortForward, closed_at_end
from sweeper.core.errors import BackendError, InputError
from sweeper.core.secrets import register_url_secrets
from sweeper.core.text import first_line
from sweeper.core.urls import CLUSTER, problem_of_database_url

SECRET, KEY = "database", "study"
"""The Secret with the URL of the database of studies, as the manifests name it, and the key in it."""

_REQUEST = {"_request_timeout": (5.0, 10.0)}
"""Options of every request: seconds to connect, and between two pieces of an answer. Somebody waits for it."""

_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "http": 80, "https": 443}


@dataclass(frozen=True)
class Place:
    """A namespace of a cluster, as `k8s://[CONTEXT@]NAMESPACE` names it."""

    namespace: str
    context: str | None = None

    @classmethod
    def of(cls, url: str) -> Place:
        """Read such a URL. The context is all before the last `@`: the name of a context may hold any character.

        Raises:
            InputError: it names no namespace.
        """
        context, at, namespace = url.removeprefix(CLUSTER).rpartition("@")
        if bool(at) > bool(context) or not is_label(namespace):
            what = "names no context before '@'" if at and not context else "names no namespace of Kubernetes"
            raise InputError(f"--storage: {url} {what}; write k8s://NAMESPACE or k8s://CONTEXT@NAMESPACE")
        return cls(namespace, context or None)

    def __str__(self) -> str:
        return f"{CLUSTER}{self.context}@{self.namespace}" if self.context else f"{CLUSTER}{self.namespace}"


class Tunnel:
    """Reaches the Services of a namespace from this machine while it is open; a context manager."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._api = KubernetesApi(place.context, timeout_s=15.0, poll_interval_s=1.0)
        self._stack = ExitStack()
        self._forwards: dict[tuple[str, str, int], PortForward] = {}
        self._names: dict[str, str] = {}

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def problem(self) -> str:
        """Reason for which a last connection was lost or not made; empty if there is none."""
        return next((forward.problem for forward in self._forwards.values() if forward.problem), "")

    def database(self) -> str:
        """Return a URL of the database of studies that the cluster uses, valid while the tunnel is open.

        Its password is registered as a secret.

        Raises:
            InputError: the namespace has no such database, or it is a file in the cluster.
            BackendError: the cluster cannot be reached, or refuses.
        """
        secret = f"the Secret {SECRET} of namespace {self.place.namespace}"
        with self._errors_explained():
            url = self._read_secret(secret)
        register_url_secrets(url)
        if problem := problem_of_database_url(url, secrets=True):
            raise InputError(f"{secret} names a database whose URL {problem}")
        if url.startswith("sqlite"):
            raise InputError(
                f"{secret} names a file in the cluster, and from outside only a database server can be reached"
            )
        return self.reach(url)

    def reach(self, url: str, local_port: int = 0) -> str:
        """Return a URL that works here in the place of one that works in the namespace; any other as it is.

        Args:
            local_port: the port to forward; 0: any free one.

        Raises:
            InputError: the Service has no such port, or leads to no pod.
            BackendError: as `database` does.
        """
        parts = urlsplit(url)
        scheme, _, driver = parts.scheme.partition("+")
        port = parts.port or _DEFAULT_PORTS.get(scheme)
        if port is None or (name := self._service_meant(parts.hostname or "")) is None:
            return url
        with self._errors_explained():
            if (local := self._forwarded(*name, port, local_port)) is None:
                return url
        if scheme == "postgresql" and driver in ("", "psycopg", "psycopg2"):
            # Its client expects the certificate of the server that is named, wherever it connects to.
            query = "&".join(filter(None, (parts.query, f"hostaddr=127.0.0.1&port={local}")))
            return urlunsplit(parts._replace(query=query))
        user, at, server = parts.netloc.rpartition("@")
        self._names[f"//127.0.0.1:{local}"] = f"//{server}"
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{local}"))

    def shown(self, text: str) -> str:
        """Return a text with the names of the servers in the place of forwarded ports."""
        for local, server in self._names.items():
            text = re.sub(rf"{re.escape(local)}(?!\d)", server, text)
        return text

    def _read_secret(self, title: str) -> str:
        namespace = self.place.namespace
        try:
            found = self._api.core.read_namespaced_secret(SECRET, namespace, **_REQUEST)
            return base64.b64decode(found.data[KEY]).decode().strip()
        except self._api.errors.NotFoundException as error:
            where = f"namespace {namespace} has no Secret {SECRET}, which names the database"
            if self._is_namespace_missing():
                where = f"the cluster has no namespace {namespace}"
            raise InputError(f"--storage: {where}. Name the namespace of the sweeps, as in k8s://sweeper") from error
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{title} has no key {KEY} with the URL of a database; see k8s/README.md") from error

    def _is_namespace_missing(self) -> bool:
        """Return whether the namespace is known to be missing; not everyone may ask."""
        try:
            self._api.core.read_namespace(self.place.namespace, **_REQUEST)
        except self._api.errors.ApiException as error:
            return bool(error.status == 404)
        return False

    def _service_meant(self, host: str) -> tuple[str, str] | None:
        """Return the namespace and the name of the Service that a host may be in the cluster; None if it is none."""
        name, *rest = host.rstrip(".").split(".")
        if name and (not rest or rest == [self.place.namespace]):
            return self.place.namespace, name
        return (rest[0], name) if rest[1:2] == ["svc"] else None

    def _forwarded(self, namespace: str, name: str, port: int, local_port: int) -> int | None:
        """Return the local port that leads to a port of a Service; None if there is no such Service."""
        if (known := self._forwards.get((namespace, name, port))) is not None:
            return known.port
        try:
            service = self._api.core.read_namespaced_service(name, namespace, **_REQUEST)
        except self._api.errors.NotFoundException:  # a host of the network
            return None
        open_stream = partial(self._open_stream, service, port)
        with closed_at_end(open_stream()):
            pass  # a right or a pod that is missing is reported now, and not as a lost connection
        forward = self._forwards[namespace, name, port] = PortForward(open_stream, local_port)
        self._stack.enter_context(forward)
        return forward.port

    def _open_stream(self, service: Any, port: int) -> Any:
        """Return a stream to a port of a Service: to one of its pods that are ready now.

        Raises:
            InputError: the Service has no such port, or leads to no pod.
            BackendError: no pod is ready, or the cluster cannot be reached, or refuses.
        """
        from kubernetes.client import ApiClient, CoreV1Api
        from kubernetes.stream import stream

        with self._errors_explained():
            pod, target = self._ready_pod(service, port)
            # A client of its own: `stream` replaces a method of the client while it connects.
            core = CoreV1Api(ApiClient(self._api.core.api_client.configuration))
            forward = core.connect_get_namespaced_pod_portforward
            name, namespace = pod.metadata.name, pod.metadata.namespace
            return stream(forward, name, namespace, ports=str(target), binary=True, _preload_content=False)

    def _ready_pod(self, service: Any, port: int) -> tuple[Any, int]:
        """Return a pod of a Service that is ready, and its port."""
        title, selector = f"Service {service.metadata.name}", service.spec.selector
        known = [found.target_port or found.port for found in service.spec.ports or () if found.port == port]
        if not known or not selector:
            lacks = "selects no pods" if known else f"has no port {port}"
            raise InputError(f"{title} of namespace {service.metadata.namespace} {lacks}, so it cannot be forwarded")
        labels = ",".join(f"{label}={value}" for label, value in selector.items())
        namespace = service.metadata.namespace
        pods = self._api.core.list_namespaced_pod(namespace, label_selector=labels, **_REQUEST).items
        for pod in filter(_is_ready, pods):
            named = {one.name: one.container_port for each in pod.spec.containers for one in each.ports or ()}
            if (target := named.get(known[0], known[0])) and str(target).isdecimal():
                return pod, int(target)
        raise BackendError(
            f"no pod of {title} in namespace {namespace} is ready; see: kubectl -n {namespace} get pods -l {labels}"
        )

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Raise BackendError or InputError in the place of the errors of the client."""
        with self._api.translated_errors():
            try:
                yield
            except self._api.errors.ApiException as error:
                cause: Any = error.__context__  # of the web socket: the client replaces it by an error without a status
                if not error.status and hasattr(cause, "status_code"):
                    error.status, error.body = cause.status_code, cause.resp_body
                if error.status == 403:
                    role = "The Role sweeper-viewer in k8s/base/viewer.yaml allows what is needed"
                    raise BackendError(f"the cluster does not let you look: {reason_of(error)[1]}. {role}") from error
                if not error.status:
                    raise BackendError(f"a port cannot be forwarded: {first_line(error.reason)}") from error
                raise


def _is_ready(pod: Any) -> bool:
    conditions = {one.type: one.status for one in pod.status.conditions or ()}
    return pod.metadata.deletion_timestamp is None and conditions.get("Ready") == "True"
