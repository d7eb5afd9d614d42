"""A small Kubernetes API server, for tests: RayJobs, ConfigMaps and pods with their logs, on 127.0.0.1.

It checks who may do what (401, 403), what exists (404, 409) and, given KubeRay's CustomResourceDefinitions, what is
valid (422). It has no operator: `on_change` is called with each RayJob that is written, and can act as one.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.k8s.crd import Crd

Object = dict[str, Any]

_PATH = re.compile(
    r"/(?:api/v1|apis/ray\.io/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>rayjobs|configmaps|pods)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class FakeKubernetes:
    """A server that runs for the time of a `with` block; `crd` is that of RayJobs, `rules` are those of a Role."""

    token = "a-token-for-tests"

    def __init__(
        self,
        *,
        crd: Crd | None = None,
        rules: Sequence[Mapping[str, list[str]]] | None = None,
        on_change: Callable[[Object], None] = lambda job: None,
        has_kuberay: bool = True,
    ) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.logs: dict[str, list[str]] = {}
        self.drops: list[int] = []  # bytes after which the next connections that read a log are cut
        self.refusals: list[int] = []  # status codes of the next answers
        self.asked: list[tuple[str, str]] = []
        self.crd, self.rules, self.on_change, self.has_kuberay = crd, rules, on_change, has_kuberay
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> FakeKubernetes:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def write_kubeconfig(self, path: Path, token: str | None = None) -> None:
        """Write a kubeconfig that names this server and a user with this token."""
        path.write_text(
            "{apiVersion: v1, kind: Config, current-context: fake, "
            f"clusters: [{{name: fake, cluster: {{server: 'http://127.0.0.1:{self._server.server_port}'}}}}], "
            f"users: [{{name: someone, user: {{token: {token or self.token}}}}}], "
            "contexts: [{name: fake, context: {cluster: fake, user: someone}}]}"
        )

    def add_pod(self, name: str, job: str, phase: str = "Running") -> Object:
        """Add a pod that submits a RayJob."""
        created = f"2026-01-01T00:00:{len(self.logs):02}Z"
        meta = {"name": name, "labels": {"batch.kubernetes.io/job-name": job}, "creationTimestamp": created}
        self.logs[name] = []
        return self.objects.setdefault(("pods", name), {"metadata": meta, "status": {"phase": phase}})

    def allows(self, verb: str, kind: str) -> bool:
        wanted = {"apiGroups": "ray.io" if kind == "rayjobs" else "", "resources": kind, "verbs": verb}
        return self.rules is None or any(all(wanted[key] in rule[key] for key in wanted) for rule in self.rules)

    def collect(self, uid: str) -> None:
        """Delete an object and everything that it owns, like the garbage collector."""
        for key, item in list(self.objects.items()):
            meta = item["metadata"]
            if uid in (meta.get("uid"), *(owner["uid"] for owner in meta.get("ownerReferences", []))):
                del self.objects[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: FakeKubernetes

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        found = _PATH.fullmatch(url.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.cluster.refusals:
            return self._refuse(self.cluster.refusals.pop(0), "ServiceUnavailable", "try again")
        if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            return self._refuse(401, "Unauthorized", "Unauthorized")
        if found is None or (found["kind"] == "rayjobs" and not self.cluster.has_kuberay):
            return self._send(404, "404 page not found\n")
        kind, name = found["kind"], found["name"] or body.get("metadata", {}).get("name", "")
        resource = f"{kind}/log" if found["log"] else kind
        verb = "list" if self.command == "GET" and not found["name"] else _VERBS[self.command]
        with nullcontext() if found["log"] else self.cluster.lock:
            self._handle(verb, kind, name, resource, body, url.query)

    do_POST = do_PATCH = do_DELETE = do_GET

    def _handle(self, verb: str, kind: str, name: str, resource: str, body: Object, query: str) -> None:
        is_there = (kind, name) in self.cluster.objects
        applies = "apply" in self.headers.get("Content-Type", "")
        for wanted in [verb, "create"] if applies and not is_there else [verb]:
            self.cluster.asked.append((wanted, resource))
            if not self.cluster.allows(wanted, resource):
                message = f'{resource} "{name}" is forbidden: User "someone" cannot {wanted} resource "{resource}"'
                return self._refuse(403, "Forbidden", message)
        if verb == "list":
            return self._list_pods(parse_qs(query)["labelSelector"][0])
        if not (is_there or applies or verb == "create"):
            return self._refuse(404, "NotFound", f'{kind} "{name}" not found')
        if is_there and verb == "create":
            return self._refuse(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if resource == "pods/log":
            return self._log(name, follow="follow=true" in query.lower())
        if verb == "get":
            return self._send(200, self.cluster.objects[kind, name])
        (self._delete if verb == "delete" else self._write)(kind, name, body)

    def _delete(self, kind: str, name: str, options: Object) -> None:
        item = self.cluster.objects[kind, name]
        if options.get("propagationPolicy") == "Foreground":  # it is deleted after what it owns, otherwise before
            item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            del self.cluster.objects[kind, name]
        threading.Timer(0.1, self.cluster.collect, (item["metadata"]["uid"],)).start()
        self._send(200, item)

    def _write(self, kind: str, name: str, body: Object) -> None:
        before = self.cluster.objects.get((kind, name))
        item = _merged(before or {"metadata": {"uid": str(uuid.uuid4())}}, body)
        if kind == "rayjobs" and self.cluster.crd and (faults := self.cluster.crd.faults(item)):
            return self._refuse(422, "Invalid", f'RayJob.ray.io "{name}" is invalid: {"; ".join(faults)}')
        self.cluster.objects[kind, name] = item
        if kind == "rayjobs":
            self.cluster.on_change(item)
        self._send(200 if before else 201, item)

    def _list_pods(self, selector: str) -> None:
        pods = [item for (kind, _), item in self.cluster.objects.items() if kind == "pods"]
        items = [pod for pod in pods if selector in map("=".join, pod["metadata"]["labels"].items())]
        self._send(200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})

    def _log(self, pod: str, *, follow: bool) -> None:
        """Send lines with their times; with `follow`, wait for further lines until the pod ends."""
        room = self.cluster.drops.pop(0) if self.cluster.drops else None
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            has_ended = self.cluster.objects[("pods", pod)]["status"]["phase"] in ("Succeeded", "Failed")
            for line in self.cluster.logs[pod][sent:]:
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

    def _refuse(self, code: int, reason: str, message: str) -> None:
        self._send(code, {"apiVersion": "v1", "kind": "Status", "code": code, "reason": reason, "message": message})

    def _send(self, code: int, answer: Object | str) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _merged(before: Any, patch: Any) -> Any:
    """Apply a JSON merge patch; an apply by the only field manager has the same result."""
    if not isinstance(before, dict) or not isinstance(patch, dict):
        return patch
    both = {**before, **{key: _merged(before.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in both.items() if value is not None}
