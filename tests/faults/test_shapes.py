"""Sweeps of unusual shape: one trial, more trials than points, ties, names in every script, no trials at all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.faults.harness import PAPER, Campaign
from tests.faults.test_processes import rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Say = Callable[[str, str], None]

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
def test_a_sweep_of_unusual_shape_comes_to_its_end(campaign: Campaign, say: Say, shape: str) -> None:
    changes, trials = SHAPES[shape]
    campaign.declare(PAPER, **changes)
    campaign.finish()
    assert [row.state for row in rows_of(campaign)] == ["COMPLETE"] * trials
    say(shape, f"{trials} trials COMPLETE; the study and MLflow agree")


def test_of_equal_trials_the_first_is_the_best(campaign: Campaign, say: Say) -> None:
    campaign.declare(PAPER, trainable="tests.faults.trainables:misbehave", space=FLAT | {"height": 0.5})
    campaign.finish()
    assert "best     trial 0" in campaign.said()
    say("all trials equal", "the first is the best")


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
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_made(
    campaign: Campaign, say: Say, shape: str, changes: dict[str, object]
) -> None:
    campaign.declare(PAPER, **changes)
    assert campaign.start().wait(60) == 2, campaign.said()
    assert {path.name for path in campaign.folder.iterdir()} == {"sweep.yaml", "000.log"}
    say(shape, f"exit 2, nothing made: `{campaign.said().splitlines()[-1][:90]}`")


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs the program faketime")
def test_a_clock_that_jumps_an_hour_back_changes_nothing(campaign: Campaign, say: Say) -> None:
    campaign.declare(PAPER)
    library = subprocess.run(["faketime", "0", "printenv", "LD_PRELOAD"], capture_output=True, text=True).stdout.strip()
    (campaign.folder / "clock").write_text("+0")
    clock = {"FAKETIME_TIMESTAMP_FILE": str(campaign.folder / "clock"), "FAKETIME_NO_CACHE": "1"}
    run = campaign.start(LD_PRELOAD=library, FAKETIME_DONT_FAKE_MONOTONIC="1", **clock)
    campaign.wait_for_lines(campaign.random.randint(5, 30), run)
    (campaign.folder / "clock").write_text("-1h")
    assert run.wait(240) == 0, campaign.said()
    campaign.judge()
    say("the wall clock jumps back by an hour", "nothing")
