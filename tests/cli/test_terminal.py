"""A terminal that closes under a sweep: a real pseudo-terminal, real signals to whole process groups, real Ray."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from sweeper.core.errors import InputError
from sweeper.study.open import list_sweeps, read_study

ROOT = Path(__file__).parents[2]
STORAGE = "sqlite:///sweeper.db"
SPACE = """
name: counting
trainable: tests.samples:slow_count
objective: {metric: score}
budget: {trials: 4, epochs: 60, parallel: 2}
pruner: {type: none}
space: {height: {type: float, low: 0.0, high: 1.0}}
"""
COMMAND = [sys.executable, "-m", "sweeper", "run", "counting.yaml"]
STOP_S = 5.0
"""Longest time from the end of the terminal to that of the sweep, on a machine that is not busy."""


@pytest.fixture(autouse=True)
def space(tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(SPACE)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


def steps() -> int:
    try:
        return sum(row.step for row in read_study("counting", STORAGE).rows())
    except InputError:  # the sweep has not begun
        return 0


def wait_for_steps(count: int) -> None:
    deadline = time.monotonic() + 120
    while steps() < count:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def relatives_of(pid: int) -> list[psutil.Process]:
    """Return the descendants of a sweep; check that no signal of its terminal can reach Ray's."""
    found = psutil.Process(pid).children(recursive=True)
    names = {process.name() for process in found}
    assert {"raylet", "gcs_server"} <= names
    for process in found:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            assert os.getsid(process.pid) != os.getsid(pid), process.name()
    return found


def assert_orderly_stop(process: subprocess.Popen[bytes], relatives: list[psutil.Process]) -> None:
    """Check that it ends in time, that nobody is left, that the lease is free, and that the command resumes at once."""
    began = time.monotonic()
    assert process.wait(60) == 143
    assert time.monotonic() - began < STOP_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    (summary,) = list_sweeps(STORAGE)
    assert summary.state == "stopped"
    with closing(sqlite3.connect("sweeper.db")) as connection:
        assert connection.execute("SELECT * FROM sweeper_leases").fetchall() == []
    _, alive = psutil.wait_procs(relatives, 5)
    assert alive == []
    done = before = steps()
    with subprocess.Popen(COMMAND, env=environment(), stderr=subprocess.PIPE, text=True) as again:
        while done <= before:
            assert again.poll() is None
            time.sleep(0.2)
            done = steps()
        again.terminate()
        assert again.wait(60) == 143


def test_sweep_stops_in_order_when_its_terminal_closes() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        COMMAND,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),  # its controlling terminal
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    deadline = time.monotonic() + 120
    while steps() < 4:
        assert time.monotonic() < deadline
        with suppress(BlockingIOError):  # somebody reads the terminal, as its window does
            os.read(ours, 1 << 16)
        time.sleep(0.2)
    relatives = relatives_of(process.pid)
    os.close(ours)
    assert_orderly_stop(process, relatives)


@pytest.mark.long  # as a terminal that closes, which the test above does
def test_hangup_of_the_whole_group_stops_a_sweep_that_writes_into_a_file() -> None:
    with open("output", "w") as output:
        process = subprocess.Popen(
            COMMAND, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    wait_for_steps(4)
    relatives = relatives_of(process.pid)
    os.killpg(process.pid, signal.SIGHUP)
    assert_orderly_stop(process, relatives)
    text = Path("output").read_text()
    assert "Stopping. Progress is saved.\n" in text and "press Ctrl-C again" not in text
    assert "2 interrupted" in text and "next    sweeper resume counting" in text
    assert "Resume with: sweeper run counting.yaml" in text and "Traceback" not in text


@pytest.mark.long
def test_ray_that_died_after_a_stop_was_asked_for_is_a_stop() -> None:
    with subprocess.Popen(COMMAND, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        wait_for_steps(4)
        (raylet,) = [other for other in relatives_of(process.pid) if other.name() == "raylet"]
        process.send_signal(signal.SIGTERM)
        raylet.kill()
        assert process.wait(60) == 143
        assert process.stderr is not None
        assert "Resume with: sweeper run counting.yaml" in process.stderr.read()


@pytest.mark.long
def test_ray_ends_with_a_driver_that_is_killed() -> None:
    with subprocess.Popen(COMMAND, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_for_steps(4)
        agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # they notice within about a minute, and own nothing
        relatives = [other for other in relatives_of(process.pid) if other.name() not in agents]
        process.kill()
    _, alive = psutil.wait_procs(relatives, 20)
    assert [process.name() for process in alive] == []
