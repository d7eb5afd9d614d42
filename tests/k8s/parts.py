"""The parts of a cluster that tests play beside a real API server: KubeRay's operator, and a node with its pods."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.k8s.control_plane import ControlPlane

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
ACCESS: dict[str, Object] = {
    document["kind"]: document
    for document in yaml.safe_load_all((ROOT / "k8s" / "base" / "access.yaml").read_text())
    if document["kind"].startswith("Role")
}
"""The Role `sweeper-submitter` of the manifests, and its RoleBinding."""

RULES: list[Object] = ACCESS["Role"]["rules"]

Right = tuple[str, str]
"""A verb, and the resource that it is for."""

RIGHTS: list[Right] = [(verb, kind) for rule in RULES for kind in rule["resources"] for verb in rule["verbs"]]

NODE = "node-1"
RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
WORKLOADS = {"group": "kueue.x-k8s.io", "version": "v1beta2", "plural": "workloads"}
_MERGE = "application/merge-patch+json"


def rules_without(right: Right) -> list[Object]:
    """Return the rules of the Role without one right."""
    verb, kind = right
    rules = [
        rule | {"verbs": [other for other in rule["verbs"] if other != verb or kind not in rule["resources"]]}
        for rule in RULES
    ]
    return [rule for rule in rules if rule["verbs"]]


class Kubelet:
    """A node's server, from which the API server fetches the logs of pods, over TLS.

    Attributes:
        logs: the lines of each pod, by namespace and pod. A pod that is missing has no container yet.
        ended: pods whose log ends.
        drops: bytes after which the next connections are cut.
        refusals: status codes of the next answers.
    """

    def __init__(self, certificate: Path) -> None:
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.ended: set[tuple[str, str]] = set()
        self.drops: list[int] = []
        self.refusals: list[int] = []
        handler = type("Handler", (_LogHandler,), {"kubelet": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port

    def __enter__(self) -> Kubelet:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _LogHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kubelet: Kubelet

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        _, _, namespace, pod, _ = url.path.split("/")  # /containerLogs/NAMESPACE/POD/CONTAINER
        if self.kubelet.refusals:
            return self._refuse(self.kubelet.refusals.pop(0), "the node is not ready")
        if (namespace, pod) not in self.kubelet.logs:
            return self._refuse(400, f'container in pod "{pod}" is waiting to start: ContainerCreating')
        query = parse_qs(url.query)
        assert query["timestamps"] == ["true"]
        self._send_lines((namespace, pod), follow=query.get("follow") == ["true"])

    def _send_lines(self, pod: tuple[str, str], *, follow: bool) -> None:
        """Send lines with their times; with `follow`, wait for further lines until the pod ends."""
        room = self.kubelet.drops.pop(0) if self.kubelet.drops else None
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            has_ended = pod in self.kubelet.ended
            for line in self.kubelet.logs[pod][sent:]:
                data = f"2026-01-01T00:00:00.{sent:09}Z {line}\n".encode()[:room]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                sent += 1
                room = None if room is None else room - len(data)
                if room == 0:
                    self.close_connection = True
                    return
            if has_ended or not follow:
                self.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.05)

    def _refuse(self, code: int, message: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(message)))
        self.end_headers()
        self.wfile.write(message.encode())

    def log_message(self, *_: object) -> None: ...


class Namespace:
    """A namespace of one test, read and written with all rights, as the operator, the scheduler and kubelets do."""

    def __init__(self, plane: ControlPlane, kubelet: Kubelet, name: str, rules: list[Object]) -> None:
        from kubernetes import client

        self.plane, self.kubelet, self.name = plane, kubelet, name
        connection = plane.client()
        self.core, self.objects = client.CoreV1Api(connection), client.CustomObjectsApi(connection)
        roles = client.RbacAuthorizationV1Api(connection)
        self.core.create_namespace({"metadata": {"name": name}})
        roles.create_namespaced_role(name, ACCESS["Role"] | {"rules": rules})
        roles.create_namespaced_role_binding(name, ACCESS["RoleBinding"])

    def job(self, name: str = "lstm") -> Object:
        found: Object = self.objects.get_namespaced_custom_object(**RAYJOBS, namespace=self.name, name=name)
        return found

    def names(self) -> list[str]:
        """Return the names of everything that submissions have left here: RayJobs, and ConfigMaps."""
        jobs = self.objects.list_namespaced_custom_object(**RAYJOBS, namespace=self.name)["items"]
        configs = self.core.list_namespaced_config_map(self.name).items
        found = [f"RayJob {job['metadata']['name']}" for job in jobs]
        return found + [f"ConfigMap {config.metadata.name}" for config in configs]

    def create_job(self, job: Object) -> None:
        self.objects.create_namespaced_custom_object(**RAYJOBS, namespace=self.name, body=job)

    def patch_job(self, patch: Object, name: str = "lstm") -> None:
        which = {**RAYJOBS, "namespace": self.name, "name": name}
        self.objects.patch_namespaced_custom_object(**which, body=patch, _content_type=_MERGE)

    def delete_job(self, name: str = "lstm") -> None:
        self.objects.delete_namespaced_custom_object(**RAYJOBS, namespace=self.name, name=name)

    def set_phase(self, phase: str, name: str = "lstm", **status: Any) -> None:
        """Record the state of a RayJob, as the operator does."""
        which = {**RAYJOBS, "namespace": self.name, "name": name}
        patch = {"status": {"jobDeploymentStatus": phase, **status}}
        self.objects.patch_namespaced_custom_object_status(**which, body=patch, _content_type=_MERGE)

    def add_pod(self, name: str, *, spec: Object | None = None, status: Object | None = None, **meta: Any) -> None:
        """Add a pod on the node, by default one that submits the RayJob `lstm` and runs; its log is empty."""
        self.kubelet.logs[self.name, name] = []
        containers = [{"name": "ray-job-submitter", "image": "sweeper:1"}]
        pod = {
            "metadata": {"name": name, "labels": {"batch.kubernetes.io/job-name": "lstm"}, **meta},
            "spec": {"nodeName": NODE, "containers": containers, **(spec or {})},
        }
        self.core.create_namespaced_pod(self.name, pod)
        self.set_pod_status(name, status or {"phase": "Running"})

    def set_pod_status(self, name: str, status: Object) -> None:
        """Record the state of a pod, as the scheduler and the kubelet do."""
        self.core.patch_namespaced_pod_status(name, self.name, {"status": status})

    def end_pod(self, name: str, phase: str = "Succeeded") -> None:
        self.set_pod_status(name, {"phase": phase})
        self.kubelet.ended.add((self.name, name))

    def remove_pod(self, name: str) -> None:
        """Remove a pod that is being deleted, as the kubelet does once its containers have ended."""
        self.core.delete_namespaced_pod(name, self.name, grace_period_seconds=0)

    def write_log(self, pod: str, *lines: str) -> None:
        self.kubelet.logs[self.name, pod] += lines

    def add_event(self, reason: str, message: str, *, about: tuple[str, str]) -> None:
        """Add a warning, as controllers and kubelets do.

        Args:
            about: kind and name of what it is about.
        """
        moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        thing = {"kind": about[0], "name": about[1], "namespace": self.name}
        event = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": moment, "count": 1}
        meta = {"metadata": {"generateName": f"{about[1]}."}, "involvedObject": thing}
        self.core.create_namespaced_event(self.name, event | meta)

    def set_workload(self, *conditions: Object, name: str = "lstm") -> None:
        """Give a RayJob a Workload in these conditions, as Kueue does; or replace that."""
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": name, "uid": self.job(name)["metadata"]["uid"]}
        body: Object = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "spec": {"active": True}}
        body |= {
            "metadata": {"name": f"rayjob-{name}", "ownerReferences": [owner]},
            "status": {"conditions": conditions},
        }
        which = {**WORKLOADS, "namespace": self.name}
        if any(item["metadata"]["name"] == f"rayjob-{name}" for item in self.workloads()):
            self.objects.delete_namespaced_custom_object(**which, name=f"rayjob-{name}")
        self.objects.create_namespaced_custom_object(**which, body=body)

    def workloads(self) -> list[Object]:
        found: list[Object] = self.objects.list_namespaced_custom_object(**WORKLOADS, namespace=self.name)["items"]
        return found

    def requests(self) -> set[Right]:
        """Return what the user has requested here so far, from the audit log of the API server."""
        return {
            (request["verb"], "/".join(filter(None, (thing["resource"], thing.get("subresource")))))
            for request in self.plane.requests_of("someone")
            if (thing := request.get("objectRef", {})).get("namespace") == self.name
        }

    @contextmanager
    def operator(self, act: Callable[[Object], str | None], name: str = "lstm") -> Iterator[None]:
        """Play the operator for the time of a `with` block: `act` returns the next state of a RayJob."""
        is_over = threading.Event()

        def reconcile() -> None:
            while not is_over.wait(0.05):
                jobs = self.objects.list_namespaced_custom_object(**RAYJOBS, namespace=self.name)["items"]
                for job in (job for job in jobs if job["metadata"]["name"] == name):
                    phase = act(job)
                    if phase is not None and phase != job.get("status", {}).get("jobDeploymentStatus"):
                        self.set_phase(phase, name)

        thread = threading.Thread(target=reconcile)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def wait_until(is_so: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {timeout_s:.0f} s"
        time.sleep(0.05)


def add_node(plane: ControlPlane, kubelet: Kubelet) -> None:
    """Register the node whose pods run on this machine."""
    from kubernetes import client

    core = client.CoreV1Api(plane.client())
    core.create_node({"metadata": {"name": NODE}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
    }
    core.patch_node_status(NODE, {"status": status})
