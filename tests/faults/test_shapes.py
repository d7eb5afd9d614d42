"""Sweeps of unusual shape: one trial, more trials than points, ties, names in any script, no trials; a wrong clock."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.harness import PAPER, Campaign
from tests.faults.test_processes import rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]

STEPPED = {"height": {"type": "int", "low": 0, "high": 2}}
WIDE = {f"p{place}": {"type": "float", "low": 0, "high": 1} for place in range(1000)}
FLAT = {"height": {"type": "float", "low": 0, "high": 1}, "act": "good"}
SCRIPTS = {"height": {"type": "float", "low": 0, "high": 1}, "学習率": 0.1, "معدل": "ثابت", "é": "🎲", "nfd": "e\u0301"}

SHAPES = {
    "one trial": ({"budget": {"trials": 1, "epochs": 3}}, 1),
    "a grid of 3 points for 6 trials": ({"space": STEPPED, "sampler": {"type": "grid"}}, 3),
    "3 points for 6 random trials": ({"space": STEPPED}, 6),
    "1,000 parameters": ({"space": PAPER["space"] | WIDE, "budget": {"trials": 2, "epochs": 2}}, 2),
    "names and values in every script": ({"space": SCRIPTS}, 6),
    "a choice among 10,000": (
        {"space": PAPER["space"] | {"place": {"type": "categorical", "choices": list(range(10_000))}}},
        6,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_sweep_of_unusual_shape_completes(campaign: Campaign, record: Record, shape: str) -> None:
    changes, trials = SHAPES[shape]
    campaign.declare(PAPER, **changes)
    campaign.finish()
    assert [row.state for row in rows_of(campaign)] == ["COMPLETE"] * trials
    record(shape, f"{trials} trials COMPLETE; the study and MLflow agree")


def test_first_of_equal_trials_is_the_best(campaign: Campaign, record: Record) -> None:
    campaign.declare(PAPER, trainable="tests.faults.trainables:misbehave", space=FLAT | {"height": 0.5})
    campaign.finish()
    assert "best trial 0" in " ".join(campaign.output().split())
    record("all trials equal", "the first is the best")


@pytest.mark.parametrize(
    ("shape", "changes"),
    {
        "no trials": {"budget": {"trials": 0, "epochs": 3}},
        "a grid of a billion points": {
            "sampler": {"type": "grid"},
            "space": {f"p{place}": {"type": "int", "low": 1, "high": 1000} for place in range(3)},
        },
        "an empty space": {"space": {}},
    }.items(),
)
def test_impossible_sweep_is_refused_before_anything_is_created(
    campaign: Campaign, record: Record, shape: str, changes: dict[str, object]
) -> None:
    campaign.declare(PAPER, **changes)
    assert campaign.start().wait(60) == 2, campaign.output()
    assert {path.name for path in campaign.folder.iterdir()} == {"sweep.yaml", "000.log"}
    record(shape, f"exit 2, nothing made: `{campaign.output().splitlines()[-1][:90]}`")


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """Build a library that shifts the wall clock of processes that preload it, by the seconds in a file beside it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    library.with_suffix(".offset").write_bytes(struct.pack("q", 0))
    return library


@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_that_jumps_by_an_hour_changes_nothing(
    campaign: Campaign, record: Record, clock: Path, hours: int
) -> None:
    campaign.declare(PAPER)
    offset = clock.with_suffix(".offset")
    run = campaign.start(LD_PRELOAD=str(clock), SWEEPER_TEST_CLOCK=str(offset))
    campaign.wait_for(campaign.history, run)
    campaign.wait_for_lines(campaign.random.randint(1, 20), run)
    with offset.open("r+b") as file:  # in place: the processes have mapped it
        file.write(struct.pack("q", hours * 3600))
    assert run.wait(240) == 0, campaign.output()
    campaign.check()
    ends = [row.ended for row in rows_of(campaign) if row.ended]
    assert max(abs(end - datetime.now(UTC)) for end in ends) > timedelta(minutes=50)
    record(f"the wall clock jumps by {hours:+d} h", "every trial ends once, and the sweep in seconds")
