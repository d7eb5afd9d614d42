"""Sweeps that are stopped and paused from another terminal, forked, or taken over by another machine, with kills."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.faults.harness import PAPER, PATIENCE_S, Campaign
from tests.faults.test_processes import kill_driver, rows_of, starts

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]


def run_to_a_moment(campaign: Campaign) -> subprocess.Popen[bytes]:
    run = campaign.start()
    campaign.wait_for(lambda: starts(campaign), run)
    campaign.wait_for_lines(campaign.random.randint(3, 15), run)
    return run


def suspend(campaign: Campaign, pid: int) -> None:
    """Suspend a driver, but not during a commit: nobody can take over a database that SQLite has locked."""
    while True:
        campaign.kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(campaign.folder / "sweeper.db", timeout=0.5, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                campaign.kill(pid, signal.SIGCONT)
                time.sleep(0.1)


def test_sweep_is_stopped_from_another_terminal_at_random_moments(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config
) -> None:
    times = pytestconfig.getoption("--times")
    campaign.declare(PAPER, budget={"trials": 4 + 2 * times, "epochs": 8})
    for _ in range(times):
        run = run_to_a_moment(campaign)
        stopped = campaign.sweeper("stop", "paper")
        assert stopped.returncode == 0, stopped.stderr
        assert run.wait(30) == 0, campaign.output()
        campaign.wait_for_exit()
    campaign.finish()
    record("`sweeper stop` at a random moment", f"{times} times: exit code 0, no orphan, all resumed")


def test_paused_sweep_whose_driver_is_killed_resumes_unpaused(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 20})
    run = run_to_a_moment(campaign)
    assert campaign.sweeper("pause", "paper").returncode == 0
    time.sleep(2)
    paused_at = len(campaign.history())
    time.sleep(5)
    assert len(campaign.history()) == paused_at
    assert campaign.sweeper("unpause", "paper").returncode == 0
    campaign.wait_for_lines(5, run)
    assert campaign.sweeper("pause", "paper").returncode == 0
    kill_driver(campaign, run)
    campaign.finish()
    record(
        "`kill -9` of the driver of a paused sweep", "nothing happens in 5 s of the pause; resumed, it runs to its end"
    )


def test_killed_sweep_is_forked_and_both_complete(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER)
    run = campaign.start()
    campaign.wait_for(lambda: any(row.state == "COMPLETE" for row in rows_of(campaign)) if starts(campaign) else 0, run)
    kill_driver(campaign, run)
    wider = {"space": {"height": {"type": "float", "low": 0, "high": 2}}}
    before = rows_of(campaign)
    campaign.declare(PAPER, **wider)
    refused = campaign.start()
    assert refused.wait(PATIENCE_S) == 2 and "space.height.high: 1.0 -> 2.0" in campaign.output()
    assert rows_of(campaign) == before
    history = campaign.folder / "history.jsonl"
    first = history.rename(campaign.folder / "first.jsonl")
    forked = campaign.start("--fork", "wider")
    assert forked.wait(PATIENCE_S) == 0, campaign.output()
    campaign.declare(PAPER, **wider, name="wider")
    campaign.check()
    complete = [row for row in before if row.state == "COMPLETE"]
    assert [row.number for row in rows_of(campaign)] == [len(complete) + index for index in range(6)]
    assert not [row for row in rows_of(campaign) if row.params in [past.params for past in complete]]
    first.rename(history)
    campaign.declare(PAPER)
    campaign.finish()
    record("a changed space, then `--fork` of a killed sweep", "refused with its key; the fork learns from what ended")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a process another host name, and process ids of its own")
def test_suspended_driver_writes_nothing_after_another_machine_took_over(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 6, "epochs": 40})
    sleeper = run_to_a_moment(campaign)
    suspend(campaign, sleeper.pid)
    began = time.monotonic()
    other_machine = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "sh", "-c"]
    taker = campaign.start(before=[*other_machine, 'hostname other-host && exec "$0" "$@"'])
    before = starts(campaign)
    campaign.wait_for(lambda: starts(campaign) > before, taker)
    seconds = time.monotonic() - began
    campaign.kill(sleeper.pid, signal.SIGCONT)
    assert sleeper.wait(PATIENCE_S) == 1, campaign.output(0)
    assert "lost the lease" in campaign.output(0) and "on other-host" in campaign.output(0)
    assert taker.wait(PATIENCE_S) == 0, campaign.output()
    campaign.check()
    record(
        "SIGSTOP of the driver, another machine takes over, SIGCONT",
        f"taken over after {seconds:.0f} s; the first reports that it lost the lease, exit 1, and writes nothing",
    )
