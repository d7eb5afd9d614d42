from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from sweeper.cli.check import cluster, doctor
from sweeper.cli.check.doctor import Check
from sweeper.cli.main import main
from sweeper.spec import Sweep
from sweeper.study.open import open_study

STUDIES = "sqlite:///sweeper.db"
SWEEP = {
    "name": "climbing",
    "trainable": "tests.samples:climb",
    "objective": {"metric": "score"},
    "budget": {"trials": 2, "epochs": 2},
    "space": {"height": {"type": "float", "low": 0, "high": 1}},
}


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


@contextmanager
def server(status: int) -> Iterator[str]:
    """Serve one status in answer to every request; yield the URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"experiment": {"lifecycle_stage": "active"}}')

        def log_message(self, *_: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_port}"
    finally:
        served.shutdown()
        served.server_close()
        thread.join()


def test_versions_of_this_environment_are_in_the_declared_ranges() -> None:
    checks = {check.name: check for check in doctor.check_versions()}
    assert set(checks) == {"sweeper", "python", "ray", "tensorflow", "keras", "mlflow", "optuna"}
    assert checks["optuna"].found == metadata.version("optuna")
    assert {check.state for name, check in checks.items() if name != "sweeper"} == {"ok"}


def test_absent_store_that_can_be_created_is_ok() -> None:
    check = only(doctor.check_storage(STUDIES))
    assert (check.state, check.found) == ("ok", f"{Path('sweeper.db').absolute()} will be created")


def test_present_store_is_checked_and_not_changed() -> None:
    connection = sqlite3.connect("sweeper.db")
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()
    before = Path("sweeper.db").read_bytes()
    assert only(doctor.check_storage(STUDIES)).state == "ok"
    assert Path("sweeper.db").read_bytes() == before


def test_study_that_was_killed_is_checked_and_not_changed(tmp_path: Path) -> None:
    with open_study(Sweep.from_mapping(SWEEP)):
        pass
    check = only(doctor.check_storage(STUDIES))
    assert (check.state, check.found) == ("ok", f"{tmp_path}/sweeper.db")
    for file in ("sweeper.db", "sweeper.db-wal", "sweeper.db-shm"):
        assert Path(file).exists() == (file == "sweeper.db")
    with closing(sqlite3.connect("sweeper.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE customers (x)")
        for name in ("copy.db", "copy.db-wal"):  # as a process that is killed now leaves them
            shutil.copy(name.replace("copy", "sweeper"), name)
    before = Path("copy.db").read_bytes(), Path("copy.db-wal").read_bytes()
    assert before[1] and only(doctor.check_storage("sqlite:///copy.db")).state == "ok"
    assert (Path("copy.db").read_bytes(), Path("copy.db-wal").read_bytes()) == before


def test_file_that_is_no_database_fails_with_advice() -> None:
    Path("sweeper.db").write_text("not a database, but long enough to have a header" * 10)
    check = only(doctor.check_storage(STUDIES))
    assert check.state == "fail" and "not a database" in check.found and check.advice


def test_locked_store_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOCK_TIMEOUT_S", 0.1)
    connection = sqlite3.connect("sweeper.db", isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN IMMEDIATE")
    try:
        check = only(doctor.check_storage(STUDIES))
    finally:
        connection.close()
    assert check.state == "warn" and "locked" in check.found


def test_store_in_a_read_only_folder_fails(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    assert only(doctor.check_storage(f"sqlite:///{tmp_path}/closed/sweeper.db")).state == "fail"


def test_database_of_another_program_fails_and_is_not_changed(tmp_path: Path) -> None:
    with closing(sqlite3.connect("other.db")) as connection:
        connection.execute("CREATE TABLE trials (x)")
        connection.execute("CREATE TABLE runs (x)")
    before = Path("other.db").read_bytes()
    for check in (only(doctor.check_storage("sqlite:///other.db")), only(doctor.check_tracking("sqlite:///other.db"))):
        assert check.state == "fail" and "another program" in check.found
    assert Path("other.db").read_bytes() == before and not list(tmp_path.glob("other.db-*"))


def test_unreachable_database_server_fails_without_its_password() -> None:
    pytest.importorskip("psycopg")
    check = only(doctor.check_storage("postgresql+psycopg://ada:secret@127.0.0.1:9/sweeps"))
    assert check.state == "fail" and "ada:***@127.0.0.1:9" in check.found
    assert "secret" not in check.found


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (401, "fail"), (403, "fail"), (500, "fail")])
def test_mlflow_server_is_asked_for_an_experiment(status: int, state: str) -> None:
    with server(status) as url:
        check = only(doctor.check_tracking(url))
    assert check.state == state
    assert (str(status) in check.found) == (state != "ok")


def test_unreachable_mlflow_server_fails_without_its_password() -> None:
    check = only(doctor.check_tracking("http://ada:secret@127.0.0.1:9"))
    assert check.state == "fail" and "secret" not in check.found


def test_unreachable_dashboard_is_a_failed_check() -> None:
    check = only(cluster.check_dashboard("http://127.0.0.1:1", insecure=False))
    assert (check.name, check.state) == ("dashboard", "fail")
    assert "http://127.0.0.1:1 cannot be reached" in check.found


def test_ray_address_where_nothing_answers_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200) as url:
        address = url.removeprefix("http://").replace("127.0.0.1", "0.0.0.0")
        check = only(cluster.check_nodes(address, None, insecure=False))
    assert check.state == "fail" and f"what answers at {address} is not the head of a Ray cluster" in check.found
    check = only(cluster.check_nodes(address, None, insecure=True))
    assert check.state == "fail" and f"nothing answers at {address} (Connection refused)" in check.found


@pytest.mark.parametrize("option", [["--address", "http://head:8265"], ["--dashboard", "head:6379"]])
def test_addresses_of_ray_and_of_its_dashboard_are_told_apart(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *option]) == 2
    assert f"{option[0]}: has an unknown scheme" in capsys.readouterr().err


def test_ray_token_that_others_can_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert not list(doctor.check_token())
    token.write_text("canary")
    for mode, state in ((0o644, "warn"), (0o640, "warn"), (0o600, "ok")):
        token.chmod(mode)
        check = only(doctor.check_token())
        assert (check.state, bool(check.advice)) == (state, state == "warn")
        assert "canary" not in check.found + check.advice


def test_free_space_is_shown_in_gigabytes() -> None:
    checks = {check.name: check for check in doctor.check_free_space()}
    assert {"memory", "disk"} <= set(checks)
    assert all("GB free" in check.found for check in checks.values())


def test_damaged_images_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 broken")
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(tmp_path))
    check = only(doctor.check_data())
    assert (check.name, check.state) == ("mnist", "fail")


def test_check_that_raises_is_reported_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        raise RuntimeError("http://ada:secret@host fell over")

    monkeypatch.setattr(doctor, "check_data", broken)
    monkeypatch.setattr(doctor, "check_devices", lambda: iter([Check("cpus", "ok", "2")]))
    checks = {check.name: check for check in doctor.examine(STUDIES)}
    assert checks["data"].state == "fail"
    assert "RuntimeError" in checks["data"].found and "secret" not in checks["data"].found
    assert {"cpus", "studies", "mlflow"} <= set(checks)
