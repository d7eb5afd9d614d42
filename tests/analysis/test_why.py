from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sweeper.analysis.why import why
from sweeper.core.trials import Decision, Failure, Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Any]

HALVING = {"type": "successive_halving", "min_reports": 1}


def make(study: SweepStudy, values: Sequence[float]) -> int:
    """Run the next trial and let it report these values; return its number."""
    number = study.ask().number
    for step, value in enumerate(values, 1):
        study.report(number, Report(step, 100.0 + step, {"score": value}))
    return number


def told(sweep: Sweep, number: int, *decisions: Decision) -> str:
    study = read_study(sweep.name, sweep.storage_url())
    return " ".join(why(study, study.row(number), decisions))


def test_every_end_of_a_trial_is_explained(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 9, "epochs": 3})
    with open_study(sweep) as study:
        make(study, (0.1, 0.2, 0.5))
        make(study, (0.1, 0.2, 0.9))
        study.finish(make(study, (0.3,)))  # 2 returns early
        study.finish(make(study, (0.4,)), is_pruned=True)  # 3 prunes itself
        study.fail(make(study, (0.4, 0.3)), Failure("error", "ValueError: too high (train.py:4)"))
        study.fail(study.ask().number, Failure("crash", "its worker died"))  # 5 waits for its second attempt
        running = make(study, (0.7,))
        seen = read_study(sweep.name, sweep.storage_url())
        assert why(seen, seen.row(running))[0] == "Trial 6 is running at epoch 1/3, with score 0.7000."
        assert why(seen, seen.row(5))[0] == "Trial 5 waits for attempt 2: attempt 1 failed (its worker died)."
        assert "sweeper retry" not in " ".join(why(seen, seen.row(4)))
    expected = {
        0: "Trial 0 is complete: it ran to epoch 3, with score 0.5000, ranked 2 of 3 complete trials.",
        1: "Trial 1 is complete: it ran to epoch 3, with score 0.9000, the best of 3 complete trials.",
        2: "Trial 2 is complete although it made only 1 of 3 reports: its code returned after epoch 1 of 3, with score "
        "0.3000.",
        3: "Trial 3 was pruned by its own code after epoch 1, with score 0.4000.",
        4: "Trial 4 failed after epoch 2: ValueError: too high (train.py:4). To run it "
        "again with its parameters: sweeper retry climbing 4",
        5: "Trial 5 was interrupted before its first report: it has not ended, and no process runs the sweep. An "
        "earlier attempt failed: its worker died. To continue it: sweeper resume climbing",
        6: "Trial 6 was interrupted at epoch 1/3, with score 0.7000: it has not ended, and no process runs the "
        "sweep. To continue it: sweeper resume climbing",
    }
    for number, sentences in expected.items():
        assert told(sweep, number).startswith(sentences)


def test_trial_that_others_added_or_enqueued_wrongly_is_said_to_be(make_sweep: MakeSweep) -> None:
    import optuna

    sweep = make_sweep(budget={"trials": 3, "epochs": 3})
    with open_study(sweep):
        pass
    storage = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())
    heights = {"height": optuna.distributions.FloatDistribution(0.0, 1.0)}
    storage.add_trial(optuna.trial.create_trial(params={"height": 0.5}, distributions=heights, value=0.97))
    storage.enqueue_trial({"height": 7.0})
    with open_study(sweep) as study:
        assert study.ask().state == "FAIL"
    assert told(sweep, 0) == "Trial 0 was added to the study, with score 0.9700, and was not trained here."
    assert told(sweep, 1).startswith("Trial 1 was not run: it was enqueued, but height: ")


PRUNED = [
    (
        HALVING,
        Decision(1, "successive_halving", True, 0.8412, 0.9127, rung=1, rank=6, peers=7, kept=2),
        "score 0.8412 ranked 6 of 7 at rung 1; the best 2 of 7 continued (cut-off 0.9127).",
    ),
    (
        HALVING,
        Decision(1, "successive_halving", True, 0.84121, 0.84124, rung=1, rank=2, peers=3, kept=1),
        "score 0.84121 ranked 2 of 3 at rung 1; only the best of 3 continued (cut-off 0.84124).",
    ),
    (HALVING, Decision(1, "successive_halving", True, None, rung=1), "score was not a number."),
    (
        HALVING | {"bootstrap_count": 3},
        Decision(1, "successive_halving", True, 0.5, rung=1, rank=1, peers=2, kept=0),
        "score 0.5000 ranked 1 of 2 at rung 1, which none passes before more trials have reached it.",
    ),
    (
        {"type": "hyperband", "min_reports": 1},
        Decision(1, "hyperband", True, 0.5, 0.6, rung=2, bracket=3, rank=3, peers=3, kept=1),
        "score 0.5000 ranked 3 of 3 at rung 2 of bracket 3; only the best of 3 continued (cut-off 0.6000).",
    ),
    (
        {"type": "median", "min_reports": 1},
        Decision(1, "median", True, 0.5, 0.6, peers=5),
        "its best score until then, 0.5000, was below the median, 0.6000, of 4 complete trials at that report.",
    ),
    (
        {"type": "percentile", "min_reports": 1},
        Decision(1, "percentile", True, 0.5, 0.6, peers=5),
        "its best score until then, 0.5000, was not among the best 25 % of 4 complete trials at that report (cut-off "
        "0.6000).",
    ),
    (
        {"type": "threshold", "lower": 0.1, "upper": 0.9},
        Decision(1, "threshold", True, 0.05, 0.1),
        "score 0.0500 was below the lowest value that is allowed, 0.1000.",
    ),
    (
        {"type": "threshold", "lower": 0.1, "upper": 0.9},
        Decision(1, "threshold", True, 0.95, 0.9),
        "score 0.9500 was above the highest value that is allowed, 0.9000.",
    ),
    (
        {"type": "patient", "patience_reports": 1},
        Decision(1, "patient", True, 0.5, 0.6, patience=1),
        "score had not improved for 1 report: the best of these was 0.5000, worse than 0.6000, its best before.",
    ),
    (
        {"type": "patient", "patience_reports": 1, "wrapped": {"type": "median", "min_reports": 1}},
        Decision(1, "median", True, 0.5, 0.6, peers=5, patience=2),
        "score had not improved for 2 reports, and its best score until then, 0.5000, was below the median, 0.6000, of "
        "4 complete trials at that report.",
    ),
]


@pytest.mark.parametrize(("pruner", "decision", "words"), PRUNED)
def test_each_pruner_explains_its_verdict_in_its_own_words(
    make_sweep: MakeSweep, pruner: dict[str, Any], decision: Decision, words: str
) -> None:
    sweep = make_sweep(budget={"trials": 9, "epochs": 9}, pruner=pruner)
    with open_study(sweep) as study:
        number = make(study, (0.5,))
        study.finish(number, is_pruned=True)
    study = read_study(sweep.name, sweep.storage_url())
    row = replace(study.row(number), reason="pruned after epoch 1")
    first, *_ = why(study, row, [Decision(1, decision.pruner, False), decision])
    assert first == f"Trial 0 was pruned after epoch 1: {words}"
    assert why(study, row, ())[:2] == (
        "Trial 0 was pruned after epoch 1, with score 0.5000.",
        "What the pruner compared was not recorded.",
    )


def test_trial_that_passed_the_pruner_is_said_how(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 2})
    with open_study(sweep) as study:
        make(study, (0.1, 0.2))
    rungs = [Decision(1, "successive_halving", False, 0.1, 0.1, rung=n, rank=1, peers=n + 1, kept=1) for n in (1, 2)]
    assert "It passed 2 rungs: it ranked 1 of 2 at rung 1 and 1 of 3 at rung 2." in told(sweep, 0, *rungs)
    median = Decision(1, "median", False, 0.1, 0.05, peers=3)
    assert "The pruner (median) compared it at 1 report, and let it continue." in told(sweep, 0, median)
    assert re.search(r"the only complete trial\. .*parameters", told(sweep, 0))
