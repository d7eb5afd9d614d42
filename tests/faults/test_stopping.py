"""Ctrl-C once and twice, SIGTERM, a terminal that closes: exit codes, times, nothing left behind, all resumable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.harness import KERAS, PAPER, Campaign

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

Say = Callable[[str, str], None]

BUSY = float(os.environ.get("SWEEPER_FAULTS_SLOWDOWN", "1"))
"""How much slower than promised a sweep may stop, where the machine has much else to do."""

STOPS = {
    "Ctrl-C": (signal.SIGINT, 130, 10.0, ()),
    "Ctrl-C, twice": (signal.SIGINT, 130, 2.0, (0.1, 0.3, 1.0)),
    "SIGTERM": (signal.SIGTERM, 143, 15.0, ()),
    "SIGHUP": (signal.SIGHUP, 143, 15.0, ()),
}
"""The signal, the exit code, the seconds it may take (after the last signal), the pauses before a second one."""


def _reached(campaign: Campaign, moment: int) -> Callable[[], bool]:
    """A moment of a run: once it has said that it starts, or so many lines of the history later."""
    lines = len(campaign.history())
    return lambda: "loading" in campaign.said() if moment == 0 else len(campaign.history()) >= lines + moment


@pytest.mark.parametrize("how", STOPS)
def test_a_sweep_stopped_at_random_moments_is_resumed_to_its_end(
    campaign: Campaign, say: Say, pytestconfig: pytest.Config, how: str
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
        asked = time.monotonic()
        # Before there is anything to stop, the signal ends the command itself.
        assert run.wait(120) in (code, -number), campaign.said()
        slowest = max(slowest, time.monotonic() - asked)
        assert "Traceback" not in campaign.said(), campaign.said()
        campaign.resolve_unreachable(5 * BUSY)
    assert slowest <= limit * BUSY, f"{slowest:.1f} s"
    campaign.finish()
    say(f"{how} at a random moment", f"{times} times: exit code {code} within {slowest:.1f} s, no orphan, all resumed")


def test_a_sweep_that_nohup_started_does_not_mind_that_its_terminal_closes(campaign: Campaign, say: Say) -> None:
    campaign.declare(PAPER, budget={"trials": 4, "epochs": 8})
    run = campaign.start(before=("nohup",))
    for moment in (0, 5, 10):
        campaign.wait_for(_reached(campaign, moment), run)
        os.killpg(run.pid, signal.SIGHUP)
    assert run.wait(120) == 0, campaign.said()
    campaign.judge()
    say("SIGHUP of what `nohup` started", "it goes on to its end, exit code 0")


def test_sigterm_of_a_sweep_of_networks_loses_no_checkpoint(campaign: Campaign, say: Say) -> None:
    campaign.declare(KERAS, budget={"trials": 2, "epochs": 20})
    run = campaign.start()
    campaign.wait_for_lines(8, run)
    run.terminate()
    asked = time.monotonic()
    assert run.wait(120) == 143, campaign.said()
    seconds = time.monotonic() - asked
    campaign.resolve_unreachable(5 * BUSY)
    campaign.finish()
    say("SIGTERM while Keras trains", f"exit code 143 within {seconds:.1f} s; each trial goes on from its last report")
