"""Drivers, workers and Ray's own processes are killed or suspended at random moments, and the sweep is complete."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from sweeper.core.trials import TrialRecord
from sweeper.study.open import read_study
from tests.faults.harness import KERAS, PAPER, Campaign

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]
BASES = {"paper": PAPER, "keras": KERAS}


def rows_of(campaign: Campaign) -> list[TrialRecord]:
    return read_study(campaign.sweep["name"], campaign.storage).rows()


def kill_driver(campaign: Campaign, driver: subprocess.Popen[bytes]) -> None:
    campaign.kill(driver.pid)
    driver.wait()
    campaign.wait_for_exit()


def starts(campaign: Campaign) -> int:
    return sum(line.what == "start" for line in campaign.history())


def kill_drivers(campaign: Campaign, times: int) -> None:
    """Kill the driver so often, at random moments, and let the sweep end then."""
    for turn in range(times):
        driver = campaign.start()
        if turn % 3 == 0:  # at any moment of the start
            time.sleep(campaign.random.uniform(0, 10))
        else:
            campaign.wait_for_lines(campaign.random.randint(1, 20), driver)
        kill_driver(campaign, driver)
    campaign.finish()


def kill_workers(campaign: Campaign, times: int) -> None:
    """Run the sweep to its end, and kill a worker at so many random moments meanwhile."""
    driver = campaign.start()
    for _ in range(times):
        before = starts(campaign)
        campaign.wait_for(lambda seen=before: starts(campaign) > seen or campaign.trainers(), driver)
        campaign.wait_for_lines(campaign.random.randint(1, 4), driver)
        if trainers := campaign.trainers():
            campaign.kill(campaign.random.choice(trainers))
    assert driver.wait(240) == 0, campaign.output()
    campaign.check()


@pytest.mark.parametrize("kind", BASES)
def test_sweep_survives_kills_of_its_driver(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config, kind: str
) -> None:
    campaign.declare(BASES[kind])
    kill_drivers(campaign, pytestconfig.getoption("--times"))
    attempts = sum(row.attempt for row in rows_of(campaign))
    record(
        f"`kill -9` of the driver ({kind})", f"{campaign.kills} kills, {attempts} attempts, nothing lost or duplicated"
    )


@pytest.mark.parametrize("kind", BASES)
def test_sweep_survives_kills_of_its_workers(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config, kind: str
) -> None:
    campaign.declare(BASES[kind], budget={**BASES[kind]["budget"], "max_failures": 20})
    kill_workers(campaign, pytestconfig.getoption("--times"))
    rows = rows_of(campaign)
    assert {row.state for row in rows} == {"COMPLETE"}
    assert sum(row.attempt - 1 for row in rows) <= campaign.kills
    record(f"`kill -9` of a worker ({kind})", f"{campaign.kills} kills, {sum(row.attempt for row in rows)} attempts")


def test_trial_that_kills_its_worker_at_each_attempt_fails_alone(campaign: Campaign, record: Record) -> None:
    acts = ["none", "kill", "none", "none"]
    space = {"height": {"type": "float", "low": 0, "high": 1}, "act": {"type": "categorical", "choices": acts[:2]}}
    campaign.declare(
        PAPER,
        trainable="tests.faults.trainables:misbehave",
        budget={"trials": 4, "epochs": 4, "max_failures": 2},
        space=space,
        enqueue=[{"act": act, "height": place / 10} for place, act in enumerate(acts)],
    )
    campaign.finish(codes=(3,), interval=2)
    rows = rows_of(campaign)
    assert [row.state for row in rows] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert rows[1].attempt == 3
    record("`kill -9` of a worker at each attempt", f"FAIL after 3 attempts ({rows[1].reason}), alone; exit 3")


def test_hung_worker_is_killed_and_its_trial_retried(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, budget={"trials": 2, "epochs": 30, "stall_timeout": "15s"})
    driver = campaign.start()
    campaign.wait_for(lambda: starts(campaign), driver)
    campaign.wait_for_lines(campaign.random.randint(2, 20), driver)
    campaign.kill(campaign.random.choice(campaign.trainers()), signal.SIGSTOP)
    began, before = time.monotonic(), starts(campaign)
    campaign.wait_for(lambda: starts(campaign) > before, driver)
    seconds = time.monotonic() - began
    assert driver.wait(240) == 0, campaign.output()
    campaign.check()
    study = read_study("paper", campaign.storage)
    kinds = [attempt.kind for row in study.rows() for attempt in study.attempts().get(row.number, [])]
    assert kinds == ["stall"]
    record(
        "SIGSTOP of a worker, without SIGCONT",
        f"ended after 15 s without a report, attempt 2 runs after {seconds:.0f} s",
    )


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_run_ends_when_ray_is_killed_and_can_be_resumed(campaign: Campaign, record: Record, name: str) -> None:
    campaign.declare(PAPER)
    driver = campaign.start()
    campaign.wait_for(lambda: starts(campaign), driver)
    campaign.wait_for_lines(campaign.random.randint(1, 20), driver)
    campaign.kill(campaign.named(name)[0].pid)
    began = time.monotonic()
    code = driver.wait(180)
    seconds = time.monotonic() - began
    campaign.wait_for_exit()
    campaign.finish()
    record(
        f"`kill -9` of Ray's {name}", f"the run ended after {seconds:.0f} s with exit code {code}; resumed, complete"
    )


def test_suspended_driver_continues_and_a_second_one_is_refused(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER)
    driver = campaign.start()
    campaign.wait_for(lambda: starts(campaign), driver)
    campaign.wait_for_lines(3, driver)
    campaign.kill(driver.pid, signal.SIGSTOP)
    time.sleep(20)
    again = campaign.start()
    assert again.wait(60) == 2, campaign.output()
    assert "is running" in campaign.output()
    campaign.kill(driver.pid, signal.SIGCONT)
    assert driver.wait(240) == 0, campaign.output(0)
    campaign.check()
    record("SIGSTOP of the driver for 20 s, the same command meanwhile", "the second is refused; the first continues")


def test_one_of_two_drivers_started_at_once_is_refused(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config
) -> None:
    campaign.declare(PAPER, budget={"trials": 1, "epochs": 200})
    times = pytestconfig.getoption("--times")
    for _ in range(times):
        pair = [campaign.start(), campaign.start()]
        campaign.wait_for(lambda pair=pair: any(run.poll() is not None for run in pair))
        refused = [run for run in pair if run.poll() is not None]
        assert [run.returncode for run in refused] == [2], campaign.output()
        for run in pair:
            campaign.kill(run.pid)
            run.wait()
        campaign.wait_for_exit()
    campaign.declare(PAPER, budget={"trials": 1, "epochs": 200})
    campaign.finish()
    record(
        "two drivers started at once", f"{times} times: one runs, one exits with 2; after `kill -9` the name is free"
    )
