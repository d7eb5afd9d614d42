"""Trainables that raise, crash, diverge or report nonsense: each fails alone, with a reason; the sweep continues."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.harness import PAPER, Campaign
from tests.faults.test_processes import rows_of
from tests.faults.trainables import ACTS, CRASHES

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

Record = Callable[[str, str], None]

REASONS = {
    "raise": "ValueError: too high (trainables.py:",
    "import": "ModuleNotFoundError: No module named 'kears'",
    "unpicklable": "_Unpicklable: holds a lock",
    "sys.exit": "SystemExit: 0",
    "interrupt": "KeyboardInterrupt",
    "nan": "diverged (score=nan at epoch 2)",
    "inf": "diverged (score=inf at epoch 2)",
    "-inf": "diverged (score=-inf at epoch 2)",
    "overflow": "diverged (score=inf at epoch 2)",
    "misspelt": "metric 'score' not reported; got: scores. Did you mean 'scores'?",
    "nothing": "metric 'score' not reported; got: nothing.",
    "None": "metric 'score' is not a number: None (NoneType)",
    "text": "metric 'score' is not a number: 'xxx",
    "array": "metric 'score' is not a number: array([0., 0., 0.]) (ndarray)",
    "lock": "metric 'score' is not a number: <unlocked _thread.lock object",
}


def _sweep(campaign: Campaign, acts: list[str], **changes: object) -> None:
    space = {"height": {"type": "float", "low": 0, "high": 1}, "act": {"type": "categorical", "choices": acts}}
    campaign.declare(
        PAPER,
        trainable="tests.faults.trainables:misbehave",
        budget={"trials": len(acts), "epochs": 3, **changes},
        space=space,
        enqueue=[{"act": act, "height": place / 100} for place, act in enumerate(acts)],
    )


def test_misbehaving_trial_fails_alone(campaign: Campaign, record: Record) -> None:
    acts = [act for act in ACTS if act not in CRASHES]
    campaign.random.shuffle(acts)
    _sweep(campaign, acts)
    campaign.finish(codes=(3,), interval=3)
    for act, row in zip(acts, rows_of(campaign), strict=True):
        assert row.state == ("FAIL" if act in REASONS else "COMPLETE"), f"{act}: {row}"
        assert REASONS.get(act, "") in (row.reason or ""), f"{act}: {row}"
        assert len(row.reason or "") < 500, f"{act}: {row}"
        assert row.step == (1 if act in REASONS else 3), f"{act}: {row}"
    seen = f"FAIL with the reason for {len(REASONS)} of {len(acts)} acts, the others COMPLETE; exit 3"
    record("a trial raises, exits, reports NaN, inf, None, text, an array, a lock, nothing", seen)


def test_trial_that_ends_its_process_is_retried_and_never_complete(campaign: Campaign, record: Record) -> None:
    acts = [*CRASHES, "good", "fine"]
    campaign.random.shuffle(acts)
    _sweep(campaign, acts, max_failures=1)
    campaign.finish(codes=(3,), interval=3)
    for act, row in zip(acts, rows_of(campaign), strict=True):
        assert row.state == ("FAIL" if act in CRASHES else "COMPLETE"), f"{act}: {row}"
        assert row.attempt == (2 if act in CRASHES else 1), f"{act}: {row}"
    record("`os._exit(0)`, abort, a segmentation fault, `kill -9` in a trial", "2 attempts each, then FAIL; exit 3")


def test_sweep_in_which_all_trials_fail_has_no_best_trial(campaign: Campaign, record: Record) -> None:
    _sweep(campaign, ["raise", "nan", "None"])
    campaign.finish(codes=(1,), interval=3)
    record("all trials fail", "exit 1, no best trial")
