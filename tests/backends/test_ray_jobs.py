"""Sweeps submitted to a real Ray cluster that requires a token, over a network that may be cut."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.backends import Submission, ray_jobs
from sweeper.backends.ray_jobs import RayJobs
from sweeper.core.errors import BackendError, InputError, SweeperError
from sweeper.study.open import read_study
from tests.faults.network import Network

ROOT = Path(__file__).parents[2]

TRAINABLE = """
import time

def train(params, trial):
    value = float((trial.checkpoint / "value").read_text()) if trial.checkpoint else 0.0

    def save(folder):
        (folder / "value").write_text(str(value))

    while trial.step < trial.reports:
        time.sleep(0.1)
        value += params["height"]
        trial.report({"score": value}, checkpoint=save)
"""


def steps(storage: str, name: str) -> int:
    try:
        return sum(row.step for row in read_study(name, storage).rows())
    except SweeperError:  # the study does not exist yet
        return 0


@dataclass(frozen=True)
class Head:
    """Ray cluster of one node."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.2:{self.port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.2", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, cluster_python: Path) -> Iterator[Head]:
    folder, head = tmp_path_factory.mktemp("head"), Head(free_port(), secrets.token_hex(32))
    path = f"{cluster_python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [cluster_python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.2", f"--port={free_port()}", "--dashboard-host=127.0.0.2"]
    command += [f"--dashboard-port={head.port}", f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=2"]
    command += ["--object-store-memory=100000000"]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, **own, "PATH": path}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while b"RAY_ADDRESS" not in (said := (folder / "log").read_bytes()) and b"Ray runtime started" not in said:
        assert process.poll() is None and time.monotonic() < deadline, said.decode()
        time.sleep(0.2)
    yield head
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def jobs(head: Head, monkeypatch: pytest.MonkeyPatch) -> RayJobs:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    deadline = time.monotonic() + 60
    while True:
        try:
            return RayJobs(head.url)
        except BackendError:  # the dashboard starts a little later than the rest
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture
def submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Submission]:
    """Return a maker of sweeps whose trainable is in the current folder."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "own.py").write_text(TRAINABLE)
    monkeypatch.chdir(home)

    def submission(name: str, **budget: int) -> Submission:
        sweep = {
            "name": name,
            "trainable": "own:train",
            "objective": {"metric": "score"},
            "budget": {"trials": 2, "epochs": 10, **budget},
            "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
            "pruner": {"type": "none"},
            "storage": f"sqlite:///{tmp_path / 'cluster.db'}",
        }
        options = ("--dir", str(tmp_path / name), "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
        return Submission(name, json.dumps(sweep), options)

    return submission


class TestOnACluster:
    pytestmark = pytest.mark.long

    def test_sweep_is_submitted_and_followed_to_its_end(
        self, jobs: RayJobs, submission: Callable[..., Submission], tmp_path: Path
    ) -> None:
        assert jobs.submit(submission("followed")) == "followed was submitted as job sweeper-followed-1"
        said = "".join(jobs.logs("followed", follow=True))
        assert "2 of 2 ended" in said and said.count("Running 2 trials at a time.") == 1
        status = jobs.status("followed")
        assert (status.state, status.attempt, status.details["exit code"]) == ("succeeded", 1, "0")
        rows = read_study("followed", f"sqlite:///{tmp_path / 'cluster.db'}").rows()
        assert [row.state for row in rows] == ["COMPLETE"] * 2

    def test_stopped_sweep_resumes_when_it_is_submitted_again(
        self, jobs: RayJobs, submission: Callable[..., Submission], tmp_path: Path
    ) -> None:
        storage = f"sqlite:///{tmp_path / 'cluster.db'}"
        jobs.submit(submission("stopped", epochs=60))
        assert "running already, as job sweeper-stopped-1" in jobs.submit(submission("stopped", epochs=60))
        deadline = time.monotonic() + 120
        while not steps(storage, "stopped"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        jobs.stop("stopped")
        assert jobs.status("stopped").state == "stopped"
        assert "Progress is saved" in "".join(jobs.logs("stopped", follow=False))
        stood = {row.number: row.step for row in read_study("stopped", storage).rows()}
        assert any(stood.values())
        with pytest.raises(InputError, match="is not running on the cluster"):
            jobs.stop("stopped")
        assert "sweeper-stopped-2; it resumes where attempt 1 ended" in jobs.submit(submission("stopped", epochs=60))
        "".join(jobs.logs("stopped", follow=True))
        study = read_study("stopped", storage)
        assert [(row.state, row.step, row.attempt) for row in study.rows()] == [("COMPLETE", 60, 2)] * 2
        assert {a.step for row in study.rows() for a in study.attempts().get(row.number, [])} == set(stood.values())

    def test_submission_whose_answer_is_lost_runs_once(
        self, jobs: RayJobs, head: Head, submission: Callable[..., Submission]
    ) -> None:
        network = Network(head.port, 0, host="127.0.0.2")
        network.deaf_to = b"POST /api/jobs/ "
        try:
            far = RayJobs(network.url)
            assert "sweeper-lost-1" in far.submit(submission("lost"))
            assert network.lost == 1
            network.deaf_to = None
            assert "sweeper-lost-1" in far.submit(submission("lost")) or far.status("lost").attempt == 2
            "".join(jobs.logs("lost", follow=True))
        finally:
            network.close()

    def test_log_is_followed_through_an_outage_of_the_network(
        self, jobs: RayJobs, head: Head, submission: Callable[..., Submission]
    ) -> None:
        network = Network(head.port, 0, host="127.0.0.2")
        try:
            far = RayJobs(network.url)
            far.submit(submission("cut", epochs=60))
            said = ""
            for text in far.logs("cut", follow=True):
                if not said:
                    network.mood = "errors"
                    threading.Timer(4, setattr, (network, "mood", "passes")).start()
                said += text
        finally:
            network.close()
        assert said == "".join(jobs.logs("cut", follow=False))
        assert "2 of 2 ended" in said

    def test_wrong_token_and_missing_token_are_told_apart(
        self, jobs: RayJobs, head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with pytest.raises(BackendError, match="rejects the token in RAY_AUTH_TOKEN$"):
            RayJobs(head.url)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(BackendError, match="requires a token; set RAY_AUTH_TOKEN"):
            RayJobs(head.url)

    def test_sweep_that_nobody_submitted_is_unknown(self, jobs: RayJobs) -> None:
        for ask in (jobs.status, jobs.stop, lambda name: list(jobs.logs(name, follow=True))):
            with pytest.raises(InputError, match="no sweep 'nobody' was submitted"):
                ask("nobody")


def test_unreachable_cluster_is_reported_in_one_line() -> None:
    with pytest.raises(BackendError, match=r"cannot be reached; is it the dashboard's address\?$"):
        RayJobs("http://127.0.0.1:1")


def test_silent_cluster_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "REQUEST_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(BackendError, match="does not answer"):
            RayJobs(f"http://127.0.0.1:{silent.getsockname()[1]}")


class _Open(BaseHTTPRequestHandler):
    """What a cluster without tokens answers to a new client."""

    def do_GET(self) -> None:
        self._answer({"authentication_mode": "disabled", "ray_version": "2.60.0", "version": "4"})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str, **attributes: Any) -> Iterator[HTTPServer]:
    server = HTTPServer((host, 0), type("Handler", (handler,), attributes))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_remote_cluster_without_a_token_is_refused_unless_insecure_is_set() -> None:
    found = [
        place.address for places in psutil.net_if_addrs().values() for place in places if place.family == socket.AF_INET
    ]
    remote = next((address for address in found if not address.startswith("127.")), None)
    if remote is None:
        pytest.skip("this machine has no address but loopback")
    with serving(_Open, "0.0.0.0") as server:
        url = f"http://{remote}:{server.server_port}"
        with pytest.raises(InputError, match="without a token.*--insecure"):
            RayJobs(url)
        RayJobs(url, insecure=True)


LOGS = ["a", "ab", "ab", "ab", "abc", "abc"]


class _Quiet(_Open):
    """The Jobs API of a cluster with one job, which prints little and has ended when its log is read the last time."""

    fetched: list[float]

    def do_GET(self) -> None:
        state = "RUNNING" if len(self.fetched) < len(LOGS) - 1 else "SUCCEEDED"
        job = {"type": "SUBMISSION", "submission_id": "sweeper-quiet-1", "status": state, "entrypoint": "sweeper run"}
        job["metadata"] = {"sweeper.sweep": "quiet", "sweeper.attempt": "1"}
        if self.path.endswith("/logs"):
            self.fetched.append(time.monotonic())
            self._answer({"logs": LOGS[len(self.fetched) - 1]})
        elif self.path.startswith("/api/jobs/"):
            self._answer(job if self.path.endswith("sweeper-quiet-1") else [job])
        else:
            super().do_GET()


def test_followed_log_is_fetched_less_often_while_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(ray_jobs, "QUIET_POLL_INTERVAL_S", 1.5)
    fetched: list[float] = []
    with serving(_Quiet, "127.0.0.1", fetched=fetched) as server:
        assert list(RayJobs(f"http://127.0.0.1:{server.server_port}").logs("quiet", follow=True)) == ["a", "b", "c"]
    waits = [after - before for before, after in zip(fetched, fetched[1:], strict=False)]
    assert [wait >= 1.5 for wait in waits] == [False, False, True, True, False], waits
