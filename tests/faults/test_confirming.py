"""A driver is killed while the best trials are confirmed; the resumed confirmation is the one that was never killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.trials import TrialRecord
from sweeper.study.open import read_study
from tests.faults import test_writes
from tests.faults.harness import PAPER, Campaign
from tests.faults.light import Point

SWEEP: dict[str, Any] = PAPER | {
    "budget": {"trials": 4, "epochs": 4, "parallel": 2},
    "confirm": {"top": 2, "seeds": 3},
}


def fresh_runs(campaign: Campaign) -> list[TrialRecord]:
    rows = read_study("paper", campaign.storage).rows(with_fresh=True)
    return [row for row in rows if row.confirms is not None]


def outcome(campaign: Campaign) -> tuple[Any, ...]:
    study = read_study("paper", campaign.storage)
    runs = {row.confirms: (row.state, row.params, row.value) for row in fresh_runs(campaign)}
    return study.confirmation(), study.best() and study.best().params, runs


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1])
@pytest.mark.usefixtures("own_tests_first")
def test_confirmation_killed_at_any_write_comes_out_the_same(campaign: Campaign, tmp_path: Path) -> None:
    sweep = test_writes.SWEEP | {"confirm": {"top": 2, "seeds": 3}}
    campaign.declare(sweep)
    assert test_writes.run(campaign, None) == 0
    confirmation, *_ = expected = outcome(campaign)
    assert confirmation.is_complete and [each.dropped for each in confirmation.contenders] == [
        "",
        "too far behind after 2 runs",
    ]
    count = test_writes.writes(tmp_path)["study"]
    for place in campaign.random.sample(range(count // 2, count), 4):
        (tmp_path / f"{place}").mkdir()
        killed = Campaign(tmp_path / f"{place}", 0)
        killed.declare(sweep)
        moment = campaign.random.choice(["before", "after"])
        assert test_writes.run(killed, Point("study", place, moment)) == -signal.SIGKILL
        assert test_writes.run(killed, None) == 0
        assert outcome(killed) == expected, f"killed {moment} write {place}"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1])
def test_confirmation_survives_a_kill_of_its_driver(campaign: Campaign, tmp_path: Path) -> None:
    campaign.declare(SWEEP)
    for wanted in (1, 3):
        driver = campaign.start()
        assert campaign.wait_for_lines(1, driver), campaign.output()
        assert campaign.wait_for(lambda wanted=wanted: len(fresh_runs(campaign)) >= wanted, driver), campaign.output()
        campaign.kill(driver.pid)
        driver.wait()
        campaign.wait_for_exit()
        assert not read_study("paper", campaign.storage).confirmation().is_complete
    last = campaign.start()
    assert last.wait(240) == 0, campaign.output()
    campaign.wait_for_exit()
    assert campaign.kills == 2 and max(row.attempt for row in fresh_runs(campaign)) > 1

    (tmp_path / "undisturbed").mkdir()
    undisturbed = Campaign(tmp_path / "undisturbed", 0)
    undisturbed.declare(SWEEP)
    assert undisturbed.start().wait(240) == 0, undisturbed.output()
    confirmation, *_ = outcome(undisturbed)
    assert confirmation.is_complete and confirmation.best is not None
    assert outcome(campaign) == outcome(undisturbed)
    assert "confirming trial" in undisturbed.output() and ", seed 1 of 3" in undisturbed.output()
