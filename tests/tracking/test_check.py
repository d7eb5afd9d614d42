from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweeper.core.errors import InputError, TrackingError
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.tracking import check_store
from sweeper.tracking.client import connect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("MLFLOW_TRACKING_", "DATABRICKS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def answers() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server, which answers every request alike, and returns its URL."""
    servers = []

    def serve(status: int, body: str = "", kind: str = "application/json", **needed: str) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_allowed = all(self.headers.get(name) == value for name, value in needed.items())
                self.send_response(status if is_allowed else 401)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())

            def do_CONNECT(self) -> None:
                self.send_error(status)

            def log_message(self, *_: object) -> None:
                pass

        served = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        servers.append(served)
        return f"http://127.0.0.1:{served.server_port}"

    yield serve
    for served in servers:
        served.shutdown()
        served.server_close()


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


def change(path: str | Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


def refused(uri: str, reason: str, **options: bool) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    before = contents(path)
    with pytest.raises(InputError, match=reason):
        check_store(uri, "mine", **options)
    assert contents(path) == before


def test_store_of_this_mlflow_is_accepted(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    before = contents(path)
    assert check_store(uri, "mine", must_exist=True) is None
    assert contents(path) == before


def test_database_without_tables_of_mlflow_may_get_them(tmp_path: Path) -> None:
    uri = change(tmp_path / "other.db", "CREATE TABLE customers (x)")
    assert check_store(uri) is None
    refused(uri, "MLflow cannot use .*: it holds no runs", must_exist=True)
    assert check_store(f"sqlite:///{tmp_path}/none.db") is None
    refused(f"sqlite:///{tmp_path}/none.db", "MLflow cannot use .*: it holds no runs", must_exist=True)


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"x" * 4096])
def test_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.db").write_bytes(content)
    refused(f"sqlite:///{tmp_path}/text.db", "MLflow cannot use .*text.db: file is not a database")


def test_store_of_another_version_of_mlflow_is_refused(uri: str) -> None:
    path = uri.removeprefix("sqlite:///")
    change(path, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    refused(uri, "an older MLflow wrote it .schema 451aebb31d03.*mlflow db upgrade")
    change(path, "UPDATE alembic_version SET version_num = '0123456789ab'")
    refused(uri, "a newer MLflow wrote it .schema 0123456789ab.*upgrade mlflow")


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    refused(change(tmp_path / "a.db", "CREATE TABLE runs (x)"), "its tables runs are another program's")
    versioned = "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('0123456789ab')"
    refused(change(tmp_path / "b.db", *versioned), "it is another program's")


def test_database_of_a_study_is_refused(make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep()
    with open_study(sweep):
        pass
    refused(sweep.storage_url(), "it is the database of a study")


def test_store_with_left_over_tables_of_optuna_is_still_mlflows(uri: str) -> None:
    change(uri.removeprefix("sqlite:///"), "CREATE TABLE studies (x)", "CREATE TABLE version_info (x)")
    assert check_store(uri) is None


def test_deleted_experiment_is_refused(uri: str) -> None:
    client = connect(uri)
    client.delete_experiment(client.create_experiment("mine"))
    refused(uri, "the experiment 'mine' was deleted; restore it")
    assert check_store(uri, "another") is None


def test_locked_store_is_waited_for(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.tracking.check.LOCK_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert check_store(uri) == "database is locked"


def test_check_imports_no_mlflow(uri: str) -> None:
    code = f"import sys, sweeper.tracking as t; t.check_store({uri!r}); sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_address_of_databricks_without_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("databricks", "databricks://profile"):
        with pytest.raises(InputError, match="needs credentials: set DATABRICKS_HOST"):
            check_store(uri)
    monkeypatch.setenv("DATABRICKS_HOST", "https://here")
    assert check_store("databricks") is None


def test_database_server_without_a_driver_is_refused() -> None:
    for uri in ("mysql+pymysql://head/mlflow", "postgresql+nothing://head/mlflow"):
        with pytest.raises(InputError, match="has no driver here"):
            check_store(uri)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "connection refused"),
        ("http://nowhere.invalid", "unknown host"),
        ("postgresql+psycopg://ada:hunter2@127.0.0.1:9/mlflow", "Connection refused"),
    ],
)
def test_server_that_does_not_answer_is_waited_for(uri: str, reason: str) -> None:
    found = check_store(uri)
    assert found is not None and reason in found and "hunter2" not in found


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_server_that_fails_for_a_while_is_waited_for(answers: Callable[..., str], status: int) -> None:
    assert check_store(answers(status, "<html>", "text/html")) == f"it answers {status}"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, "<html>not found</html>", "what answers at .* is not MLflow .404, text/html"),
        (200, "<html>log in</html>", "what answers at .* is not MLflow .200, text/html"),
        (200, "[]", "is not MLflow"),
        (200, '{"detail": "hello"}', "is not MLflow"),
        (401, "", "refuses access .401.; set MLFLOW_TRACKING_USERNAME"),
        (403, '{"error_code": "PERMISSION_DENIED"}', "refuses access .403."),
    ],
)
def test_server_that_can_never_be_used_is_refused(
    answers: Callable[..., str], status: int, body: str, reason: str
) -> None:
    with pytest.raises(TrackingError, match=reason) as refusal:
        check_store(answers(status, body, "text/html"), "mine")
    assert refusal.value.exit_code == 69


def test_experiment_is_looked_up_on_a_server(answers: Callable[..., str]) -> None:
    assert check_store(answers(404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}'), "mine") is None
    assert check_store(answers(200, '{"experiment": {"lifecycle_stage": "active"}}'), "mine") is None
    with pytest.raises(InputError, match="the experiment 'mine' was deleted"):
        check_store(answers(200, '{"experiment": {"lifecycle_stage": "deleted"}}'), "mine")


def test_credentials_are_those_of_mlflows_client(
    answers: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    active = '{"experiment": {"lifecycle_stage": "active"}}'
    basic = answers(200, active, Authorization="Basic YWRhOmh1bnRlcjI=")
    (tmp_path / ".mlflow").mkdir()
    stored = "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = hunter2\n"
    (tmp_path / ".mlflow/credentials").write_text(stored)
    assert check_store(basic) is None
    assert check_store(basic.replace("//", "//ada:hunter2@")) is None
    shutil.rmtree(tmp_path / ".mlflow")
    with pytest.raises(TrackingError, match="refuses access"):
        check_store(basic)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    assert check_store(answers(200, active, Authorization="Bearer canary")) is None


def test_server_that_another_way_of_signing_may_open_is_accepted(
    answers: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    assert check_store(answers(403)) is None


def test_proxy_that_fails_is_named_without_its_password(
    answers: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://ada:hunter2@127.0.0.1:9")
    assert check_store("http://head.invalid") == "the proxy http://ada:***@127.0.0.1:9 fails: connection refused"
    proxy = answers(403)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(TrackingError, match=f"refuses access through the proxy {proxy} .403."):
        check_store("http://head.invalid")
    for status in (403, 407):
        monkeypatch.setenv("HTTPS_PROXY", proxy := answers(status))
        with pytest.raises(TrackingError, match=f"the proxy {proxy} fails: {status} "):
            check_store("https://head.invalid")


def test_server_without_a_trusted_certificate_is_refused(answers: Callable[..., str]) -> None:
    with pytest.raises(TrackingError, match="no secure connection"):
        check_store(answers(200).replace("http:", "https:"))
