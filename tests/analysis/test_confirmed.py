"""What a confirmation is in words, and its runs in the progress of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sweeper.analysis.progress import Progress
from sweeper.analysis.trials import confirmed_cells, describe_confirmed
from sweeper.core.confirmation import Confirmation, Contender, McNemar
from sweeper.core.trials import FreshRun, Report, TrialRecord
from sweeper.spec import Sweep

MakeSweep = Callable[..., Sweep]

CONTENDERS = (
    Contender(12, 0.9942, (0.9930, 0.9932, 0.9931), 0.0006),
    Contender(3, 0.9940, (0.9921, 0.9919), None, "too far behind after 2 runs"),
)


def test_summary_says_by_how_much_the_search_flattered_the_best() -> None:
    found = Confirmation(CONTENDERS, 3, is_complete=True, p_value=0.002)
    assert describe_confirmed(found, "maximize") == [
        "searched 0.9942, confirmed 0.9931 ± 0.0006 over 3 seeds",
        "the search flattered it by 0.0011",
        "the lead over trial 3 is more than noise (Welch's t: p = 0.002)",
    ]
    assert "perhaps only noise" in "".join(describe_confirmed(replace(found, p_value=0.2), "maximize"))
    assert "the search did not flatter it" in describe_confirmed(found, "minimize")


def test_summary_says_on_how_many_samples_each_of_two_models_is_right_alone() -> None:
    tests = (McNemar("trial 3", 5000, 31, 18), McNemar("mnist-rnn version 2", missing="it was trained on other data"))
    found = Confirmation(CONTENDERS, 3, is_complete=True, p_value=0.2, compared=tests)
    *_, runner_up, champion = describe_confirmed(found, "maximize")
    assert runner_up == "alone right on 31 of 5,000, trial 3 on 18 (McNemar: p = 0.085)"
    assert champion == "no McNemar test against mnist-rnn version 2: it was trained on other data"
    assert all(len(f"confirmed  {line}") <= 80 for line in describe_confirmed(found, "maximize")[:-1])


@pytest.mark.parametrize(("n10", "n01", "p"), [(0, 0, 1.0), (6, 0, 2 / 2**6), (5, 5, 1.0), (8, 2, 2 * 56 / 2**10)])
def test_p_value_of_two_models_is_that_of_a_fair_coin(n10: int, n01: int, p: float) -> None:
    assert McNemar("trial 3", 100, n10, n01).p_value == pytest.approx(p)


def test_summary_names_the_trial_that_led_the_search_and_lost() -> None:
    lucky = replace(CONTENDERS[1], searched=0.9950)
    text = describe_confirmed(Confirmation((CONTENDERS[0], lucky), 3, is_complete=True), "maximize")
    assert text[1:] == ["the search flattered it by 0.0011", "trial 3, which led with 0.9950, reached 0.9920"]


def test_confirmation_that_has_not_ended_names_no_best() -> None:
    assert describe_confirmed(Confirmation(CONTENDERS, 5), "maximize") == [
        "not confirmed yet: 5 runs with fresh seeds have ended"
    ]
    failed = tuple(replace(each, dropped="run 1 failed") for each in CONTENDERS)
    text = describe_confirmed(Confirmation(failed, 5, is_complete=True), "maximize")
    assert text == ["not confirmed: a run of each of the best trials failed"]


def test_trainable_that_ignores_its_seed_is_noticed() -> None:
    same = Confirmation((Contender(0, 0.9, (0.9, 0.9), 0.0),), 2, is_complete=True)
    assert "perhaps `trial.seed` is not used" in describe_confirmed(same, "maximize")[-1]


def test_table_has_a_row_for_each_contender() -> None:
    assert confirmed_cells(Confirmation(CONTENDERS, 3))[1] == (
        "3",
        "0.9940",
        "0.9920",
        "2 of 3",
        "too far behind after 2 runs",
    )


def test_progress_says_which_seed_runs_and_counts_no_fresh_run(make_sweep: MakeSweep) -> None:
    progress = Progress(make_sweep(budget={"trials": 1, "epochs": 2}, confirm={"top": 1, "seeds": 3}))
    progress.record(TrialRecord(0, "RUNNING", {"height": 0.5}), None)
    progress.record(TrialRecord(0, "COMPLETE", {"height": 0.5}, 0.5, 2), None)
    fresh = TrialRecord(1, "RUNNING", {"height": 0.5}, confirms=FreshRun(0, 2, 77))
    assert progress.record(fresh, None) == "confirming trial 0, seed 2 of 3"
    assert progress.record(replace(fresh, step=1, value=0.4), Report(1, 0.0, {"score": 0.4})) is None
    assert progress.confirms() == "confirming trial 0, seed 2 of 3 (0 runs have ended)"
    assert progress.record(replace(fresh, state="COMPLETE", value=0.4), None) == "trial 0, seed 2 of 3: score 0.4000"
    assert (progress.ended(), progress.trials, progress.share(), progress.confirms()) == (1, 1, 1.0, "")
    assert progress.best is not None and progress.best.number == 0
