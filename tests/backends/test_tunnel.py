"""A look at a cluster's sweeps, as far as it needs no cluster: its URL, and the way of the bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweeper.backends.port_forward import PortForward
from sweeper.backends.tunnel import Place, Tunnel
from sweeper.core.errors import BackendError, InputError
from sweeper.core.secrets import redact
from tests.backends.node import Node

ARN = "arn:aws:eks:eu-west-1:123456789012:cluster/lab"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("k8s://sweeper", Place("sweeper")),
        ("k8s://lab@sweeper-2", Place("sweeper-2", "lab")),
        ("k8s://admin@kubernetes@sweeper", Place("sweeper", "admin@kubernetes")),
        (f"k8s://{ARN}@sweeper", Place("sweeper", ARN)),
    ],
)
def test_url_names_a_namespace_and_any_context(url: str, place: Place) -> None:
    assert Place.of(url) == place and str(place) == url


@pytest.mark.parametrize("url", ["k8s://", "k8s://lab@", "k8s://@sweeper", "k8s://Foo", "k8s://a/b", "k8s://-a"])
def test_url_without_a_namespace_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="write k8s://NAMESPACE or k8s://CONTEXT@NAMESPACE"):
        Place.of(url)


def test_context_is_not_masked_as_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", f"k8s://{ARN}@sweeper")
    assert redact(f"sweeper list --storage k8s://{ARN}@sweeper") == f"sweeper list --storage k8s://{ARN}@sweeper"
    assert redact("postgresql://ada:secret@db/sweeps") == "postgresql://ada:***@db/sweeps"


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("postgres", ("sweeper", "postgres")),
        ("postgres.sweeper", ("sweeper", "postgres")),
        ("pg-rw.databases.svc", ("databases", "pg-rw")),
        ("pg-rw.databases.svc.cluster.local.", ("databases", "pg-rw")),
        ("db.example.org", None),
        ("10.0.0.7", None),
        ("", None),
    ],
)
def test_names_of_the_cluster_are_told_from_others(host: str, service: tuple[str, str] | None) -> None:
    assert Tunnel(Place("sweeper"))._service_meant(host) == service


def test_server_outside_the_cluster_is_reached_directly() -> None:
    url = "postgresql+psycopg://ada@db.example.org/sweeps"
    assert Tunnel(Place("sweeper")).reach(url) == url


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def forward(node: Node) -> Iterator[PortForward]:
    with PortForward(node.open_stream) as forward:
        yield forward


def connect(forward: PortForward) -> socket.socket:
    return socket.create_connection(("127.0.0.1", forward.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65_536):
        found += data
    return found


def wait_for(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_pod_says_last_arrives(node: Node, forward: PortForward) -> None:
    node.serve = lambda connection: connection.sendall(b"FATAL: no such user")
    for _ in range(50):
        with closing(connect(forward)) as connection:
            assert read_all(connection) == b"FATAL: no such user"


def test_many_bytes_go_both_ways_unchanged(node: Node, forward: PortForward) -> None:
    content = bytes(range(256)) * 20_000

    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65_536):
            connection.sendall(data)

    node.serve = echo
    with closing(connect(forward)) as connection:
        threading.Thread(target=connection.sendall, args=(content,), daemon=True).start()
        found = b""
        while len(found) < len(content):
            found += connection.recv(65_536)
    assert found == content


def test_connections_do_not_wait_for_each_other(node: Node, forward: PortForward) -> None:
    node.serve = lambda connection: connection.sendall(connection.recv(10))
    with closing(connect(forward)) as idle, closing(connect(forward)) as busy:
        busy.sendall(b"hello")
        assert read_all(busy) == b"hello"
        idle.sendall(b"later")
        assert read_all(idle) == b"later"


def test_error_of_the_node_is_kept_as_the_problem(node: Node, forward: PortForward) -> None:
    node.error = b"connection refused"
    with closing(connect(forward)) as connection:
        assert read_all(connection) == b""
    wait_for(lambda: forward.problem == "connection refused")
    node.error, node.serve = b"", lambda connection: connection.sendall(b"up again")
    with closing(connect(forward)) as connection:
        assert read_all(connection) == b"up again"
    assert forward.problem == ""


def test_stream_that_cannot_be_opened_closes_the_connection() -> None:
    def fail() -> Any:
        raise BackendError("no pod is ready")

    with PortForward(fail) as forward:
        with closing(connect(forward)) as connection:
            assert read_all(connection) == b""
        wait_for(lambda: forward.problem == "no pod is ready")


def test_end_of_a_forward_closes_what_is_open(node: Node) -> None:
    node.serve = lambda connection: connection.recv(10)
    with PortForward(node.open_stream) as forward:
        connection = connect(forward)
        wait_for(lambda: len(forward._connections) == 1)
    assert read_all(connection) == b""
    connection.close()
    wait_for(lambda: not [one for one in threading.enumerate() if one.name == f"forward-{forward.port}"])
    with pytest.raises(OSError):
        connect(forward)


def test_port_that_is_taken_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is not free"):
            PortForward(lambda: None, port)
