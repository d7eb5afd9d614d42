"""Sweeps whose trials pause and go on, killed at random moments: the same trials, the same decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.study.open import read_study
from tests.faults.harness import PAPER, Campaign
from tests.faults.test_processes import kill_drivers, kill_workers, rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]

PAUSING: dict[str, Any] = PAPER | {
    "budget": {"trials": 16, "epochs": 8, "parallel": 1},
    "pruner": {"type": "promotion", "min_epochs": 1, "reduction_factor": 2},
}


def decisions_of(campaign: Campaign) -> Any:
    return read_study("paper", campaign.storage).decisions()


def test_sweep_with_paused_trials_decides_the_same_after_kills_of_its_driver(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config, tmp_path: Path, seed: int
) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Campaign(tmp_path / "undisturbed", seed)
    undisturbed.declare(PAUSING)
    undisturbed.finish()
    campaign.declare(PAUSING)
    kill_drivers(campaign, pytestconfig.getoption("--times"))
    assert campaign.fingerprint() == undisturbed.fingerprint()
    assert decisions_of(campaign) == decisions_of(undisturbed)
    rows = rows_of(campaign)
    gone_on = sum(row.attempt > 1 for row in rows_of(undisturbed))
    assert gone_on and {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    record(
        "`kill -9` of the driver, with paused trials",
        f"{campaign.kills} kills; reports and decisions as without a kill; {gone_on} of {len(rows)} trials had gone on",
    )


def test_sweep_with_paused_trials_survives_kills_of_its_workers(
    campaign: Campaign, record: Record, pytestconfig: pytest.Config
) -> None:
    campaign.declare(PAUSING, budget=PAUSING["budget"] | {"parallel": 2, "max_failures": 20})
    kill_workers(campaign, pytestconfig.getoption("--times"))
    rows = rows_of(campaign)
    assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    record(
        "`kill -9` of a worker, with paused trials",
        f"{campaign.kills} kills, {sum(row.attempt for row in rows)} attempts at {len(rows)} trials, each counted once",
    )
