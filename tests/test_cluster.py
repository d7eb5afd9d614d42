from __future__ import annotations

import os
import signal

import pytest

from sweeper.cluster import ray_cluster
from sweeper.stopping import StopRequest


def test_a_signal_means_the_same_while_ray_runs_and_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    meant = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
    with StopRequest(None) as stop, ray_cluster(None):
        for number, reason in meant.items():
            stop.reason = None
            os.kill(os.getpid(), number)
            assert stop.reason == reason
    assert "***" not in capfd.readouterr().err
