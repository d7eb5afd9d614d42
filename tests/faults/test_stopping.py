"""Ctrl-C once and twice, SIGTERM, a closed terminal: exit codes, durations, no process left behind, resumable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.harness import KERAS, PAPER, Campaign

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

Record = Callable[[str, str], None]

SLOWDOWN = float(os.environ.get("SWEEPER_FAULTS_SLOWDOWN", "1"))
"""Factor by which a sweep may stop slower than promised, for a busy machine."""

STOPS = {
    "Ctrl-C": (signal.SIGINT, 130, 10.0, ()),
    "Ctrl-C, twice": (signal.SIGINT, 130, 2.0, (0.1, 0.3, 1.0)),
    "SIGTERM": (signal.SIGTERM, 143, 15.0, ()),
    "SIGHUP": (signal.SIGHUP, 143, 15.0, ()),
}
"""The signal, the exit code, the most seconds from the last signal to the exit, the pauses before a second signal."""


def _reached(campaign: Campaign, moment: int) -> Callable[[], bool]:
    """Return a condition: the run has printed that it loads (moment 0), or so many lines were added to the history."""
    lines = len(campaign.history())
    return lambda: "loading" in campaign.output() if moment == 0 else len(campaign.history()) >= lines + moment


@pytest.mark.parametrize("how", STOPS)
def test_sweep_stopped_at_random_moments_resumes_to_its_end(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config, how: str
) -> None:
    number, code, limit, pauses = STOPS[how]
    times = pytestconfig.getoption("--times")
    campaign.declare(PAPER, budget={"trials": 4 + times, "epochs": 8})
    slowest = 0.0
    for _ in range(times):
        run = campaign.start()
        campaign.wait_for(_reached(campaign, campaign.random.choice([0, 1, 5, 10, 15])), run)
        time.sleep(campaign.random.uniform(0, 1))
        run.send_signal(number)
        if pauses:
            time.sleep(campaign.random.choice(pauses))
            run.send_signal(number)
        began = time.monotonic()
        # Before the sweep has its handlers, the signal ends the command with the default action.
        assert run.wait(120) in (code, -number), campaign.output()
        slowest = max(slowest, time.monotonic() - began)
        assert "Traceback" not in campaign.output(), campaign.output()
        campaign.wait_for_exit(5 * SLOWDOWN)
    assert slowest <= limit * SLOWDOWN, f"{slowest:.1f} s"
    campaign.finish()
    record(
        f"{how} at a random moment", f"{times} times: exit code {code} within {slowest:.1f} s, no orphan, all resumed"
    )


def test_sweep_under_nohup_survives_the_end_of_its_terminal(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 4, "epochs": 8})
    run = campaign.start(before=("nohup",))
    for moment in (0, 5, 10):
        campaign.wait_for(_reached(campaign, moment), run)
        os.killpg(run.pid, signal.SIGHUP)
    assert run.wait(120) == 0, campaign.output()
    campaign.check()
    record("SIGHUP of what `nohup` started", "it runs to its end, exit code 0")


def test_sigterm_of_a_keras_sweep_loses_no_checkpoint(campaign: Campaign, record: Record) -> None:
    campaign.declare(KERAS, budget={"trials": 2, "epochs": 20})
    run = campaign.start()
    campaign.wait_for_lines(8, run)
    run.terminate()
    began = time.monotonic()
    assert run.wait(120) == 143, campaign.output()
    seconds = time.monotonic() - began
    campaign.wait_for_exit(5 * SLOWDOWN)
    campaign.finish()
    record(
        "SIGTERM while Keras trains", f"exit code 143 within {seconds:.1f} s; each trial resumes from its last report"
    )
