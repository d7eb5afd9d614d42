from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import DatasetError, InputError, ResourceError
from sweeper.core.files import temporary_folder
from sweeper.core.sweep_folder import SweepFolder
from sweeper.driver.connection import preflight as preflight_module
from sweeper.driver.connection.preflight import preflight
from sweeper.spec import Sweep
from sweeper.tracking import store_uri

MakeSweep = Callable[..., Sweep]
ROOT = Path(__file__).parents[3]


def check(sweep: Sweep, **options: Any) -> Sweep:
    return preflight(
        sweep, folder=SweepFolder.of("sweep", sweep.name), address=None, tracking_uri="sqlite:///mlflow.db", **options
    )


def test_sweep_too_large_for_this_machine_is_refused_first(make_sweep: MakeSweep) -> None:
    there = r"this machine has \d+ CPU and 0 GPU. Lower --cpus or --gpus"
    with pytest.raises(ResourceError, match=f"each trial needs 4000 CPU and 0 GPU; {there}"):
        check(make_sweep(resources={"cpus": 4000}))
    with pytest.raises(ResourceError, match=f"each trial needs 1 CPU and 0.5 GPU; {there}"):
        check(make_sweep(resources={"gpus": 0.5}))
    assert not list(Path.cwd().iterdir())


def test_this_machine_has_the_cpus_that_the_process_may_use(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with pytest.raises(ResourceError, match="this machine has 1 CPU"):
        check(make_sweep(resources={"cpus": 2}))
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 3, "GPU": 2}')
    check(make_sweep(resources={"cpus": 3, "gpus": 2}))


@pytest.mark.parametrize(
    ("storage", "store"),
    [
        ("sqlite:///same.db", "sqlite:///same.db"),
        ("sqlite:///./x/../same.db", "sqlite:///same.db"),
        ("sqlite:///link.db", "sqlite:///same.db"),
        ("sqlite:///same.db", "sqlite:///folder/same.db"),
        ("postgresql+psycopg://localhost/runs", "postgresql+psycopg://127.0.0.1:5432/runs"),
    ],
)
def test_study_and_mlflow_in_one_database_are_refused(make_sweep: MakeSweep, storage: str, store: str) -> None:
    Path("link.db").symlink_to("same.db")
    Path("folder").symlink_to(".")
    with pytest.raises(InputError, match="the study and MLflow cannot use one database"):
        preflight(
            make_sweep(storage=storage),
            folder=SweepFolder.of("sweep", "x"),
            address=None,
            tracking_uri=store_uri(store),
        )
    assert {path.name for path in Path().iterdir()} == {"link.db", "folder"}


def test_folder_for_ray_that_is_not_writable_is_refused(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(InputError, match="cannot write to /proc/nowhere .*: set RAY_TMPDIR to another folder"):
        check(make_sweep())


def test_folder_for_ray_that_is_too_long_is_refused(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 95}")
    with pytest.raises(InputError, match="RAY_TMPDIR, /tmp/x*, is too long") as caught:
        check(make_sweep())
    allowed = int(re.findall(r"100 bytes; at most (\d+) leave room", str(caught.value))[0])
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * (allowed - 5)}")
    check(make_sweep())
    socket = f"{private_ray_folder()}/session_2026-01-02_03-04-05_000006_{os.getpid()}/sockets/plasma_store"
    assert len(socket) == (103 if sys.platform == "darwin" else 107)
    for longer in (f"/tmp/{'x' * (allowed - 4)}", f"/tmp/{'x' * (allowed - 6)}ä"):
        monkeypatch.setenv("RAY_TMPDIR", longer)
        with pytest.raises(InputError, match=f"{allowed + 1} bytes; at most {allowed}"):
            check(make_sweep())


def private_ray_folder() -> str:
    return f"{os.environ['RAY_TMPDIR']}/sweeper-{os.getuid()}/ray"


def test_relative_folder_for_ray_is_one_of_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "ray")
    assert temporary_folder() == Path.cwd() / "ray"


def test_token_file_that_cannot_be_read_is_refused(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH, token, cannot be read .No such file"):
        check(make_sweep())
    Path("token").write_text("\n")
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH, token, is empty; correct it"):
        check(make_sweep())
    Path("token").write_text("a" * 32)
    check(make_sweep())


SWEEP = (
    "name: s\ntrainable: tests.samples:climb\nobjective: {metric: score}\nbudget: {trials: 1, epochs: 1}\n"
    "space: {height: {type: float, low: 0, high: 1}}\n"
)


def refuse(folder: Path, *arguments: str, before: str = "true", **environment: str) -> str:
    """Run a sweep in this folder after a command of the shell; return the message with which it is refused."""
    (folder / "s.yaml").write_text(SWEEP)
    shell = ["sh", "-c", f'{before} && exec "$0" "$@"', sys.executable, "-m", "sweeper", "run", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(shell, cwd=folder, env=env, capture_output=True, text=True, errors="backslashreplace")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert {path.name for path in folder.iterdir()} <= {"s.yaml", "ä.yaml"}
    return done.stderr


LIMITS = {
    "-n 100": "the limit on open files is too small for Ray: `ulimit -n` is 100, and must be at least 128",
    "-f 20000": "the limit on the size of a file is too small for Ray: `ulimit -f` is",
    "-v 1040000": "the limit on virtual memory is too small for Ray: `ulimit -v` is 1040000, and must be at least",
    "-d 900000": "the limit on private memory is too small for Ray: `ulimit -d` is 900000, and must be at least",
}


@pytest.mark.skipif(sys.platform != "linux", reason="not every system has these limits")
@pytest.mark.parametrize("limit", LIMITS)
def test_limit_of_the_process_that_is_too_small_is_named(tmp_path: Path, limit: str) -> None:
    assert LIMITS[limit] in refuse(tmp_path, "s.yaml", before=f"ulimit {limit}")


def test_limits_of_this_machine_do_not_concern_a_cluster(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_module, "MIN_OPEN_FILES", 1 << 40)
    with pytest.raises(InputError, match="open files"):
        check(make_sweep())
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    check(make_sweep())


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_locale_that_cannot_read_a_name_is_named(tmp_path: Path) -> None:
    remedy = "cannot be read in this locale, whose encoding is ascii; set LC_ALL=C.UTF-8, or rename it"
    (tmp_path / "größe").mkdir()
    assert f"the working directory, {tmp_path}/gr" in (said := refuse(tmp_path / "größe", "s.yaml", **ASCII))
    assert remedy in said
    shutil.rmtree(tmp_path / "größe")
    assert f"the folder of the sweep, {tmp_path}/ä/out, {remedy}" in _umlaut(
        refuse(tmp_path, "s.yaml", "--dir", "ä/out", **ASCII)
    )
    assert f"argument 2 of the command, ä.yaml, {remedy}" in _umlaut(_refuse_renamed(tmp_path))
    assert f"RAY_TMPDIR, /tmp/ä, {remedy}" in _umlaut(refuse(tmp_path, "s.yaml", RAY_TMPDIR="/tmp/ä", **ASCII))


def _refuse_renamed(folder: Path) -> str:
    (folder / "ä.yaml").write_text(SWEEP)
    try:
        return refuse(folder, "ä.yaml", **ASCII)
    finally:
        (folder / "ä.yaml").unlink()


def _umlaut(text: str) -> str:
    return text.replace("\\xe4", "ä")


def test_name_that_is_no_utf8_is_refused_in_every_locale(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xe4x")
    folder.mkdir()
    assert f"the working directory, {tmp_path}/m\\xe4x, is not UTF-8; rename it" in refuse(folder, "s.yaml")
    shutil.rmtree(folder)


def test_refused_data_leaves_no_folder_at_the_url(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mnist.npz").write_bytes(b"<html>")
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(tmp_path / "data"))
    sweep = make_sweep(dataset={"type": "mnist", "fallback": "digits"})
    with pytest.raises(DatasetError, match="mnist.npz is no .npz file, but a web page"):
        preflight(
            sweep,
            folder=SweepFolder(tmp_path / "near", f"file://{tmp_path}/far"),
            address=None,
            tracking_uri="sqlite:///mlflow.db",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_sweep_on_a_cluster_is_not_judged_by_this_machine(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    check(make_sweep(resources={"cpus": 4000}))
