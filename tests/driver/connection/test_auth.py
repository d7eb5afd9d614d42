from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import psutil
import pytest
from ray._private.services import get_node_ip_address

from sweeper.cli.main import main
from sweeper.core.errors import BackendError
from sweeper.driver.connection import auth
from sweeper.driver.connection.auth import check_cluster
from sweeper.driver.ray_internals import auth_token, reload_auth_token
from tests.driver.conftest import FAR, REMOTE, TOKEN, ray_head


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the token of this process, which other tests need, for the test."""
    with monkeypatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
            patch.setenv(name, "")  # restored, even where it was not set
            patch.delenv(name)
        yield
    reload_auth_token()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[None]:
    """Write a sweep file; afterwards the folder must hold nothing else."""
    (tmp_path / "far.yaml").write_text(FAR)
    yield
    assert not {"sweeps", "sweeper.db", "mlflow.db"} & {path.name for path in tmp_path.iterdir()}


def test_open_cluster_is_refused_before_anything_is_created(
    far: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # a setting of the client does not close the cluster
    (tmp_path / "head").mkdir()
    with ray_head(tmp_path / "head", "disabled") as port:
        assert main(["run", "far.yaml", "--address", f"{REMOTE}:{port}"]) == 2
        check_cluster(f"{REMOTE}:{port}", insecure=True)
    assert "accepts requests without a token" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_ray_of_our_own_has_a_token_where_the_variable_is_empty(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    with auth.private_ray_auth():
        assert len(auth_token()) == 64


def test_open_cluster_on_this_machine_is_accepted(tmp_path: Path) -> None:
    with ray_head(tmp_path, "disabled", get_node_ip_address()) as port:
        check_cluster(f"127.0.0.1:{port}")


def test_address_that_ray_takes_for_another_is_named(tmp_path: Path) -> None:
    host = get_node_ip_address()
    if host == "127.0.0.1":
        pytest.skip("this machine has no other address")
    with ray_head(tmp_path, "disabled") as port, pytest.raises(BackendError) as caught:
        check_cluster(f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port} (which Ray takes for {host}:{port}) cannot be used: nothing answers" in str(caught.value)


def test_cluster_that_requires_a_token_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_head(tmp_path, "token") as port:
        monkeypatch.setenv("RAY_ADDRESS", f"{REMOTE}:{port}")
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")  # Ray's own clients use no proxy
        check_cluster(None)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("RAY_AUTH_MODE", "token", "it requires a token. Set RAY_AUTH_TOKEN"),
        ("RAY_AUTH_TOKEN", "b" * 32, "it does not accept the token"),
        ("RAY_AUTH_TOKEN_PATH", "/nowhere/token", "it requires a token. Set RAY_AUTH_TOKEN"),
    ],
)
def test_missing_or_wrong_token_is_refused_first(
    far: None,
    tmp_path: Path,
    name: str,
    value: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for a token too
    monkeypatch.setenv(name, value)
    (tmp_path / "head").mkdir()
    with ray_head(tmp_path / "head", "token") as port:
        assert main(["run", "far.yaml", "--address", f"{REMOTE}:{port}"]) == 69
    assert f"The Ray cluster at {REMOTE}:{port} cannot be used: {reason}" in capsys.readouterr().err


def test_head_that_is_suspended_is_not_waited_for(tmp_path: Path) -> None:
    with ray_head(tmp_path, "token") as port:
        (head,) = [child for child in psutil.Process().children() if child.name() == "gcs_server"]
        head.suspend()
        try:
            with pytest.raises(BackendError, match="accepts a connection, but answers no request"):
                check_cluster(f"{REMOTE}:{port}")
        finally:
            head.resume()


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@contextmanager
def web_server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def grpc_server() -> Iterator[int]:
    """Serve gRPC without any service, as Ray's other processes serve others; yield the port."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def closed_port() -> Iterator[int]:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (closed_port, "nothing answers at {address} (Connection refused)"),
        (web_server, "what answers at {address} is not the head of a Ray cluster"),
        (grpc_server, "what answers at {address} is not the head of a Ray cluster"),
    ],
)
@pytest.mark.parametrize("is_variable", [False, True])
def test_address_where_no_ray_answers_is_refused_first(
    far: None,
    place: Callable[[], AbstractContextManager[int]],
    reason: str,
    is_variable: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with place() as port:
        address = f"{REMOTE}:{port}"
        if is_variable:
            monkeypatch.setenv("RAY_ADDRESS", address)
        assert main(["run", "far.yaml", *([] if is_variable else ["--address", address])]) == 69
    said = capsys.readouterr().err
    assert f"The Ray cluster at {address} cannot be used: {reason.format(address=address)}. Check the address" in said


def test_host_that_does_not_exist_is_named(far: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "far.yaml", "--address", "no-such-host.invalid:6379"]) == 69
    assert "the host no-such-host.invalid is not known" in capsys.readouterr().err


def test_lookup_of_a_host_without_an_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(auth, "CHECK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait() and [])
    try:
        with pytest.raises(BackendError, match="nothing answers at far.example:6379"):
            check_cluster("far.example:6379")
    finally:
        never.set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a container of its own, without any Ray")
def test_auto_without_a_ray_is_refused_first(far: None, tmp_path: Path) -> None:
    hidden = 'mkdir -p /tmp/ray; mount -t tmpfs none /tmp/ray && exec "$0" "$@"'  # Ray notes its addresses there
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", hidden, sys.executable]
    alone += ["-m", "sweeper", "run", "far.yaml"]
    env = os.environ | {"RAY_ADDRESS": "auto", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(alone, env=env, capture_output=True, text=True)
    assert done.returncode == 69 and "Ray cluster" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", "local"])
def test_empty_address_and_local_mean_a_ray_of_our_own(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    assert auth.cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert auth.cluster_address("local") is None and auth.cluster_address(text or None) != ""
    check_cluster("local")
