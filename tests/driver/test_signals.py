from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from sweeper.core.errors import StopReason
from sweeper.driver.stop import StopSignal
from tests.driver.conftest import FAR, REMOTE, ray_head


def test_signal_requests_a_stop_and_its_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal(None) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.is_set() and stop.reason is StopReason.TERMINATED
    assert signal.getsignal(signal.SIGTERM) is before


def test_sweep_started_by_nohup_ignores_the_end_of_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal(None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not stop.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_closed_terminal_requests_a_stop() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopSignal(None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert stop.is_set() and stop.reason is StopReason.TERMINATED
    finally:
        signal.signal(signal.SIGHUP, before)


def test_timeout_requests_a_stop() -> None:
    with StopSignal(0.05) as stop:
        assert not stop.is_set()
        time.sleep(0.06)
        assert stop.is_set() and stop.reason is StopReason.TIMEOUT


def test_sweep_may_run_in_any_thread() -> None:
    reasons: list[StopReason | None] = []

    def run() -> None:
        with StopSignal(0.0) as stop:
            time.sleep(0.01)
            stop.is_set()
            reasons.append(stop.reason)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == [StopReason.TIMEOUT]


STUCK = """
import ctypes

from sweeper.driver.stop import StopSignal

with StopSignal(None):
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(100)  # no handler of Python's runs before it returns
"""


def test_second_ctrl_c_exits_while_the_main_thread_is_blocked() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"

        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(20) == 130
        assert b"Exited immediately. Progress is saved; run the same command again to resume." in process.stderr.read()


ROOT = Path(__file__).parents[2]
ASKING = """
import sys
from sweeper.cli.check.cluster import check_nodes
import ray, sweeper.driver.connection.node_check, sweeper.driver.connection.cluster
print("ready", file=sys.stderr, flush=True)
print(list(check_nodes(sys.argv[1], None, insecure=True)))
"""
COMMANDS = {
    "run": ("Joining the Ray cluster.", ["-m", "sweeper", "run", "far.yaml", "--insecure", "--address"]),
    "doctor": ("ready", ["-c", ASKING]),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", COMMANDS)
def test_first_signal_is_obeyed_while_ray_is_asked(tmp_path: Path, verb: str, number: signal.Signals) -> None:
    """The head of a cluster without nodes answers, and Ray then waits for a node."""
    (tmp_path / "far.yaml").write_text(FAR)
    (tmp_path / "head").mkdir()
    mark, command = COMMANDS[verb]
    with (
        ray_head(tmp_path / "head", "disabled") as port,
        subprocess.Popen(
            [sys.executable, *command, f"{REMOTE}:{port}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        while mark not in (line := process.stderr.readline()):
            assert line, "it ended"
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(120) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        said = process.stderr.read()
    assert "Stopped" in said and "Traceback" not in said


HURRIED = """
import sys
from sweeper.driver.connection import cluster
cluster.JOIN_TIMEOUT_S = 1
with cluster.ray_cluster(sys.argv[1]):
    pass
"""


def test_cluster_that_cannot_be_joined_is_given_up(tmp_path: Path) -> None:
    with ray_head(tmp_path, "disabled") as port:
        command = [sys.executable, "-c", HURRIED, f"{REMOTE}:{port}"]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 69 and f"{REMOTE}:{port} could not be joined within 1 s" in done.stderr


BREEDING = """
import subprocess, sys

from sweeper.driver.stop import StopSignal

BREED = "import subprocess\\nwhile True: subprocess.Popen(['sleep', '60'], start_new_session=True)"

with StopSignal(None):
    children = [subprocess.Popen([sys.executable, "-c", BREED]) for _ in range(3)]
    print("ready", flush=True)
    while children[0].poll() is None:
        children.append(subprocess.Popen(['sleep', '60'], start_new_session=True))
"""


def test_second_ctrl_c_kills_processes_that_are_just_starting() -> None:
    mark = {"SWEEPER_TEST": uuid4().hex}

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if mark.items() <= process.environ().items() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    command = [sys.executable, "-c", BREEDING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | mark) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        try:
            assert process.wait(20) == 130
            deadline = time.monotonic() + 5  # a process that was ended takes a moment to be gone
            while left() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left() == []
        finally:
            for orphan in left():
                orphan.kill()


def test_signals_have_their_old_meaning_after_the_block() -> None:
    code = (
        "import os, signal\nfrom sweeper.driver.stop import StopSignal\n"
        "with StopSignal(None) as stop:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, lambda *_: print('mine', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGINT)\nprint(stop.reason.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "mine\ninterrupted\n"), done.stderr
