from __future__ import annotations

import os
import signal

from sweeper.cluster import ray_cluster
from sweeper.stopping import StopRequest


def test_a_signal_means_the_same_while_ray_runs() -> None:
    with StopRequest(None) as stop, ray_cluster(None):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "terminated"
