from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

import sweeper
from sweeper.core.code.user_code import is_installed
from sweeper.core.errors import StopReason
from sweeper.driver.connection.cluster import KEPT_SESSIONS, _name_of, end_process, ray_cluster
from sweeper.driver.stop import StopSignal

pytestmark = pytest.mark.usefixtures("no_ray")

REASONS = {
    signal.SIGINT: StopReason.INTERRUPTED,
    signal.SIGTERM: StopReason.TERMINATED,
    signal.SIGHUP: StopReason.TERMINATED,
}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Make the folders of 30 old sessions, the oldest of which still runs."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as base, socket.socket(socket.AF_UNIX) as raylet:
        monkeypatch.setenv("RAY_TMPDIR", base)
        folder = Path(base) / f"sweeper-{os.getuid()}" / "ray"
        folder.parent.mkdir(mode=0o700)
        old = [folder / f"session_2001-01-{day:02d}_12-00-00_000000_1" for day in range(1, 31)]
        for session in old:
            (session / "sockets").mkdir(parents=True)
        raylet.bind(str(old[0] / "sockets" / "raylet"))
        raylet.listen()
        yield old


def test_ray_keeps_our_signal_handlers_and_the_newest_sessions(
    sessions: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with StopSignal(None) as stop, ray_cluster(None):  # one Ray for both: it takes seconds to start
        for number, reason in REASONS.items():
            stop.reason = None
            os.kill(os.getpid(), number)
            assert stop.reason is reason
        assert all(session.exists() for session in sessions)
    assert "***" not in capfd.readouterr().err  # Ray's page about SIGTERM
    left = sorted(sessions[0].parent.glob("session_2*"))
    assert left[:-1] == [sessions[0], *sessions[1 - KEPT_SESSIONS :]] and left[-1] not in sessions


def test_workers_import_sweeper_from_where_the_driver_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    checkout = Path(sweeper.__file__).resolve().parents[1]
    with ray_cluster(None):
        found = ray.get(ray.remote(lambda: sys.path).remote())
    assert is_installed(checkout) or str(checkout) in found


STUBBORN = """
import signal, subprocess, sys, time

if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, __file__])
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("arguments", [[], ["with a child"]])
def test_process_of_ray_ends_at_once_with_all_that_it_has_started(tmp_path: Path, arguments: list[str]) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    with subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(1 + len(arguments)):
            assert process.stdout.readline() == b"ready\n"
        below = psutil.Process(process.pid).children()
        assert len(below) == len(arguments)
        began = time.monotonic()
        end_process(process)
        assert process.wait(5) == -signal.SIGKILL and not any(_name_of(child) for child in below)
        assert time.monotonic() - began < 20


def test_process_whose_parent_in_a_session_of_ray_has_ended_ends_too() -> None:
    command = ["sh", "-c", "(sleep 60 & echo $!); read line"]  # the shell in parentheses ends at once
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        orphan = psutil.Process(int(process.stdout.readline()))
        while orphan in psutil.Process(process.pid).children(recursive=True):
            time.sleep(0.001)
        began = time.monotonic()
        end_process(process)
        while _name_of(orphan):
            assert time.monotonic() - began < 20
            time.sleep(0.01)


def test_worker_that_exits_by_itself_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.driver.connection.cluster.WORKER_EXIT_GRACE_S", 30.0)
    script, exited = tmp_path / "raylet.py", tmp_path / "exited"
    child = f"import time, pathlib; time.sleep(0.2); pathlib.Path({str(exited)!r}).touch()"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {child!r}])\n")
    with subprocess.Popen([sys.executable, str(script)]) as process:
        while not psutil.Process(process.pid).children():
            time.sleep(0.001)
        end_process(process)
    assert exited.exists()


def test_dead_process_of_ray_has_no_name_whether_it_was_waited_for_or_not() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = psutil.Process(child.pid)
        assert _name_of(process) == "sleep"
        child.kill()
        while _name_of(process):
            time.sleep(0.01)
    assert _name_of(process) == ""
