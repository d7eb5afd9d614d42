from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from sweeper.driver.cluster import ray_cluster
from sweeper.driver.stop import StopSignal


def test_a_signal_means_the_same_while_ray_runs_and_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    meant = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
    with StopSignal(None) as stop, ray_cluster(None):
        for number, reason in meant.items():
            stop.reason = None
            os.kill(os.getpid(), number)
            assert stop.reason == reason
    assert "***" not in capfd.readouterr().err


def test_what_ray_left_of_old_runs_goes_and_what_still_runs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as base, socket.socket(socket.AF_UNIX) as raylet:
        monkeypatch.setenv("RAY_TMPDIR", base)
        folder = Path(base) / f"sweeper-{os.getuid()}" / "ray"
        folder.parent.mkdir(mode=0o700)
        old = [folder / f"session_2001-01-{day:02d}_12-00-00_000000_1" for day in range(1, 31)]
        for session in old:
            (session / "sockets").mkdir(parents=True)
        raylet.bind(str(old[0] / "sockets" / "raylet"))
        raylet.listen()
        with ray_cluster(None):
            assert all(session.exists() for session in old)
        left = sorted(folder.glob("session_2*"))
        assert left[:-1] == [old[0], *old[-19:]] and left[-1] not in old
