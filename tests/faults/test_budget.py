"""A budget in CPU-hours is hit in the middle of a sweep, resumed with a larger one, and met by drivers that are killed.

The figures are printed: pytest tests/faults/test_budget.py -m long -s
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from sweeper.analysis.costs import used_of
from sweeper.core.trials import TrialRecord
from sweeper.search.spending import CLOSING_SHARE
from sweeper.study.open import read_study
from sweeper.study.view import StudyView
from tests.faults.harness import PAPER, Campaign

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

REPORTS, SHARE, PARALLEL, TRIALS = 40, 0.5, 4, 12
LIMIT_S, MAX_OVERRUN = 160.0, 0.03

SWEEP: dict[str, Any] = PAPER | {
    "budget": {"trials": TRIALS, "epochs": REPORTS, "parallel": PARALLEL, "cpu_hours": LIMIT_S / 3600},
    "resources": {"cpus": SHARE},
    "space": PAPER["space"] | {"pause": {"type": "float", "low": 0.5, "high": 1.2}},
}
"""Trials of 20 to 48 seconds on half a CPU each, 204 CPU-seconds or more in all, of which the budget has 160."""


def view(campaign: Campaign) -> StudyView:
    return read_study("paper", campaign.storage)


def used_s(campaign: Campaign) -> float:
    """CPU-seconds that the sweep has used, as `sweeper show` tells them."""
    (amount,) = used_of(view(campaign))
    return amount.used * 3600


def slept_s(campaign: Campaign, what: str, first: int = 0) -> float:
    """CPU-seconds that the trials slept before the events of one kind, from a line of the history on."""
    lines = [line for line in campaign.history()[first:] if line.what == what and line.step]
    pauses = {row.number: row.params["pause"] for row in view(campaign).rows()} if lines else {}
    return SHARE * sum(pauses.get(line.number, 0.0) for line in lines)


def has_used(campaign: Campaign, share: float) -> bool:
    time.sleep(0.3)
    return used_s(campaign) >= share * LIMIT_S


def run(campaign: Campaign, *options: str) -> None:
    driver = campaign.start(*options)
    assert driver.wait(600) == 0, campaign.output()
    campaign.wait_for_exit()


def seconds_before(study: StudyView, row: TrialRecord, moment: datetime) -> float:
    """Seconds that the only attempt of a trial had run at a moment, from its reports."""
    assert row.started is not None
    last = datetime.fromtimestamp(study.reports(row.number)[-1].time, UTC)
    return max(0.0, (min(row.ended or last, moment) - row.started).total_seconds())


def used_at(study: StudyView, moment: datetime) -> float:
    return SHARE * sum(seconds_before(study, row, moment) for row in study.rows())


def value_at(study: StudyView, row: TrialRecord, moment: datetime) -> float:
    made = [one for one in study.reports(row.number) if one.time <= moment.timestamp()]
    return made[-1].metrics["score"] if made else 0.0


@pytest.mark.parametrize("seed", [1])
def test_budget_that_is_hit_finishes_contenders_and_a_larger_one_the_rest(campaign: Campaign) -> None:
    campaign.declare(SWEEP)
    run(campaign)
    assert "its budget is used" in campaign.output()
    study, used = view(campaign), used_s(campaign)
    rows = study.rows()
    stopped = [row for row in rows if row.state == "RUNNING"]
    ended = [row for row in rows if row.state == "COMPLETE"]
    finished = [row for row in ended if row.ended and used_at(study, row.ended) >= CLOSING_SHARE * LIMIT_S]
    print(
        f"\nbudget {LIMIT_S:g} CPU-s: used {used:.1f} ({used / LIMIT_S - 1:+.1%}), {len(ended)} complete, "
        f"{len(finished)} of them after {CLOSING_SHARE:.0%}, {len(stopped)} stopped at reports "
        f"{[row.step for row in stopped]} of {REPORTS}, {TRIALS - len(rows)} not begun"
    )
    assert CLOSING_SHARE * LIMIT_S <= used <= (1 + MAX_OVERRUN) * LIMIT_S
    assert len(ended) + len(stopped) == len(rows) < TRIALS and finished and stopped
    assert all(used_at(study, row.started) < 1.01 * CLOSING_SHARE * LIMIT_S for row in rows if row.started)
    for row in stopped:
        moment = datetime.fromtimestamp(study.reports(row.number)[-1].time, UTC)
        left = LIMIT_S - used_at(study, moment)
        own = seconds_before(study, row, moment) / row.step * (REPORTS - row.step)
        better = [
            other
            for other in finished
            if other.ended and other.ended > moment and value_at(study, other, moment) > value_at(study, row, moment)
        ]
        need = SHARE * (own + sum((other.ended - moment).total_seconds() for other in better if other.ended))
        assert need > 0.9 * left, f"trial {row.number} could have ended"

    run(campaign)
    study = view(campaign)
    assert {row.number for row in study.rows()} == {row.number for row in rows}, "with the same budget none begins"
    assert used_s(campaign) <= (1 + MAX_OVERRUN) * LIMIT_S
    for row in stopped:  # what others promised to use and did not may be enough for one of them by now
        last = datetime.fromtimestamp(study.reports(row.number)[row.step - 1].time, UTC)
        if SHARE * seconds_before(study, row, last) / row.step * (REPORTS - row.step) > 1.1 * (LIMIT_S - used):
            assert study.row(row.number).step == row.step, f"trial {row.number} cannot end and went on"

    before, lines = {row.number: row.step for row in study.rows() if row.state == "RUNNING"}, len(campaign.history())
    run(campaign, "--set", "budget.cpu_hours=1")
    campaign.check()
    after = {row.number: row for row in view(campaign).rows()}
    assert len(after) == TRIALS and {row.state for row in after.values()} == {"COMPLETE"}
    again = [line for line in campaign.history()[lines:] if line.what == "start" and line.number in before]
    resumed = {line.number: line.step for line in again}
    assert resumed == before, "from their last checkpoints"
    print(f"with a larger budget: {len(after)} complete, {used_s(campaign):.1f} CPU-s in all")


@pytest.mark.parametrize("seed", [1])
def test_spending_is_counted_once_over_two_killed_drivers(campaign: Campaign) -> None:
    campaign.declare(SWEEP)
    known, walls = [0.0], []
    for share in (0.45, 0.75, None):
        driver, began = campaign.start(), time.monotonic()
        lines = len(campaign.history())
        if share is None:
            assert driver.wait(600) == 0, campaign.output()
        else:
            assert campaign.wait_for_lines(1, driver), campaign.output()
            assert campaign.wait_for(lambda share=share: has_used(campaign, share), driver), campaign.output()
            campaign.kill(driver.pid)
            driver.wait()
        walls.append(time.monotonic() - began)
        campaign.wait_for_exit()
        known.append(used_s(campaign))
        trained = slept_s(campaign, "epoch", lines)
        spent = known[-1] - known[-2]
        print(
            f"\nrun {len(walls)}{'' if share is None else ', killed'}: {spent:.1f} CPU-s more, {known[-1]:.1f} in all; "
            f"its trials slept {trained:.1f}, its workers had {SHARE * PARALLEL * walls[-1]:.1f}"
        )
        # A killed driver's last steps are not recorded: at most two for each trial that ran.
        assert trained - 2 * PARALLEL * SHARE * 1.2 <= spent <= SHARE * PARALLEL * walls[-1]
    assert campaign.kills == 2 and max(row.attempt for row in view(campaign).rows()) > 1
    assert CLOSING_SHARE * LIMIT_S <= known[-1] <= (1 + MAX_OVERRUN) * LIMIT_S
    print(f"budget {LIMIT_S:g} CPU-s, killed twice: used {known[-1]:.1f} ({known[-1] / LIMIT_S - 1:+.1%})")
    run(campaign, "--set", "budget.cpu_hours=1")
    campaign.check()


@pytest.mark.parametrize("seed", [1])
def test_trials_that_report_seldom_are_stopped_between_two_reports(campaign: Campaign) -> None:
    limit, interval = 100.0, 70.0
    budget = {"trials": 3, "epochs": 2, "parallel": 2, "cpu_hours": limit / 3600}
    campaign.declare(PAPER, budget=budget, space=PAPER["space"] | {"pause": interval})
    run(campaign)
    used, rows = used_s(campaign), view(campaign).rows()
    print(f"\nbudget {limit:g} CPU-s, a report each {interval:g} s: used {used:.1f} ({used / limit - 1:+.1%})")
    assert [(row.number, row.state, row.step) for row in rows] == [(0, "RUNNING", 0), (1, "RUNNING", 0)]
    assert limit <= used <= (1 + MAX_OVERRUN) * limit
    assert campaign.output().count("stops: the budget is used. A larger one continues it") == 2
    run(campaign)
    assert used_s(campaign) == pytest.approx(used, abs=0.01)
