from __future__ import annotations

import os
import signal
import threading
import time

from sweeper.stopping import StopRequest


def test_a_signal_is_a_request_and_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(None) as stop:
        assert not stop.is_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.is_requested() and stop.reason == "terminated"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_timeout_is_a_request() -> None:
    with StopRequest(0.05) as stop:
        assert not stop.is_requested()
        time.sleep(0.06)
        assert stop.is_requested() and stop.reason == "timeout"


def test_a_sweep_may_run_in_any_thread() -> None:
    reasons: list[str | None] = []

    def run() -> None:
        with StopRequest(0.0) as stop:
            time.sleep(0.01)
            stop.install()
            stop.is_requested()
            reasons.append(stop.reason)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["timeout"]
