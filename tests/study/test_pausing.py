from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from sweeper.analysis.trials import as_seen
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]

PROMOTION = {"type": "promotion", "min_epochs": 1, "reduction_factor": 2}
BUDGET = {"trials": 4, "epochs": 4}
"""Rungs after epochs 1 and 2; one of two trials continues."""


@pytest.fixture
def sweep(make_sweep: MakeSweep) -> Sweep:
    return make_sweep(pruner=PROMOTION, budget=BUDGET)


def go_on(study: SweepStudy, score: float) -> TrialRecord:
    """Run the next trial with this score at each report, until it ends or pauses."""
    row = study.ask()
    for step in range(row.step + 1, study.sweep.budget.reports + 1):
        if study.report(row.number, Report(step, float(step), {"score": score})) is Verdict.STOP:
            break
    return study.row(row.number)


def states(study: Any) -> list[tuple[str, int]]:
    return [(row.state, row.step) for row in study.rows()]


def test_trial_that_ranks_too_low_at_a_rung_is_paused(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        row = go_on(study, 0.5)
        assert (row.state, row.step, row.is_paused, row.reason) == ("PRUNED", 1, True, "paused after epoch 1")
        assert study.has_next() and not study.is_exhausted()
    (trial,) = optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials
    assert trial.state.name == "PRUNED" and trial.user_attrs["paused"] is True


def test_paused_trial_goes_on_when_it_ranks_high_enough(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        go_on(study, 0.5)
        go_on(study, 0.1)
        row = study.ask()
        assert (row.number, row.state, row.step, row.attempt, row.reason) == (0, "RUNNING", 1, 2, None)
        assert not row.is_paused and row.params == study.row(0).params
        for step in (2, 3):
            verdict = study.report(0, Report(step, float(step), {"score": 0.5}))
            if verdict is Verdict.STOP:
                break
        assert states(study) == [("PRUNED", 2), ("PRUNED", 1)]


def test_better_trial_passes_a_rung_without_a_pause(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        assert go_on(study, 0.1).step == 1
        assert go_on(study, 0.5).step == 2  # the better one of two at the first rung, the only one at the second
        assert study.row(1).attempt == 1


def test_best_trial_completes_whatever_the_order(sweep: Sweep) -> None:
    for order in ([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.2, 0.4, 0.1, 0.3]):
        with open_study(sweep.model_copy(update={"name": f"order-{order[0]}"})) as study:
            run_to_the_end(study, order)
            best = max(study.rows(), key=lambda row: row.value or 0.0)
            assert (best.state, best.value) == ("COMPLETE", 0.4), order
            assert study.is_done()


def test_best_of_twenty_completes_in_any_order(make_sweep: MakeSweep) -> None:
    for seed in range(5):
        scores = random.Random(seed).sample([place / 20 for place in range(20)], 20)
        sweep = make_sweep(name=f"any-{seed}", pruner=PROMOTION, budget={"trials": 20, "epochs": 4})
        with open_study(sweep) as study:
            run_to_the_end(study, scores)
            assert study.row(scores.index(max(scores))).state == "COMPLETE", seed


def run_to_the_end(study: SweepStudy, scores: list[float]) -> None:
    while study.has_next():
        row = study.ask()
        report_on(study, row, scores[row.number])


def report_on(study: SweepStudy, row: TrialRecord, score: float) -> None:
    for step in range(row.step + 1, study.sweep.budget.reports + 1):
        if study.report(row.number, Report(step, float(step), {"score": score})) is Verdict.STOP:
            return


def test_decision_records_rank_and_cutoff(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        for score in (0.5, 0.1, 0.7):
            go_on(study, score)
    (first,) = read_study(sweep.name, sweep.storage_url()).decisions()[1]
    place = (first.pruner, first.step, first.rung, first.rank, first.peers, first.kept)
    assert place == ("promotion", 1, 1, 2, 2, 1)
    assert first.is_pruned and first.cutoff == 0.5


def test_sweep_that_was_interrupted_decides_as_one_that_was_not(make_sweep: MakeSweep) -> None:
    draw = random.Random(1)
    scores = [draw.random() for _ in range(20)]
    budget = {"trials": 20, "epochs": 4}
    whole = make_sweep(name="whole", pruner=PROMOTION, budget=budget)
    with open_study(whole) as study:
        run_to_the_end(study, scores)
    parts = make_sweep(name="parts", pruner=PROMOTION, budget=budget)
    for _ in range(200):
        with open_study(parts) as study:
            if study.is_done():
                break
            row = study.ask()
            report_on(study, row, scores[row.number])
    found = [read_study(name, whole.storage_url()) for name in ("whole", "parts")]
    assert states(found[0]) == states(found[1])
    assert found[0].decisions() == found[1].decisions()


def test_trial_interrupted_after_its_pause_is_resumed_once(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        go_on(study, 0.5)
        go_on(study, 0.1)
        assert study.ask().number == 0  # and the driver dies
    with open_study(sweep) as study:
        row = study.ask()
        assert (row.number, row.step, row.attempt) == (0, 1, 3)
        assert [past.kind for past in study.attempts()[0]] == ["driver"]
        report_on(study, row, 0.5)
        assert states(study) == [("PRUNED", 2), ("PRUNED", 1)]


def test_failed_trial_that_was_paused_does_not_go_on(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        go_on(study, 0.5)
        go_on(study, 0.1)
        study.fail(study.ask().number, Failure("error", "boom"))
        assert states(study)[0] == ("FAIL", 1)
        assert study.ask().number == 2


def test_tpe_learns_from_a_trial_that_went_on(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        pruner=PROMOTION, sampler={"type": "tpe", "n_startup_trials": 2}, budget={"trials": 12, "epochs": 4}
    )
    draw = random.Random(2)
    with open_study(sweep) as study:
        run_to_the_end(study, [draw.random() for _ in range(12)])
        sampler = study._study.sampler
        ended = [trial for trial in study._study.trials if trial.state.is_finished()]
        study._study.ask()
        sampler.sampler._trials.update(study._study)  # type: ignore[attr-defined]
        modelled = sampler.sampler._trials.modelled  # type: ignore[attr-defined]
    assert {trial.number: trial.state for trial in modelled if trial.number < 12} == {
        trial.number: trial.state for trial in ended
    }


def test_trial_that_was_paused_is_pruned_once_another_pruner_is_chosen(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(pruner=PROMOTION, budget=BUDGET)) as study:
        go_on(study, 0.5)
        go_on(study, 0.1)
        assert [seen.state for seen in as_seen(study.rows(), is_running=True)] == ["PAUSED", "PAUSED"]
    with open_study(make_sweep(pruner={"type": "median"}, budget=BUDGET)) as study:
        assert [seen.state for seen in as_seen(study.rows(), is_running=True)] == ["PRUNED", "PRUNED"]
        assert study.ask().number == 2, "none of them continues"
    with open_study(make_sweep(pruner=PROMOTION, budget=BUDGET)) as study:
        assert [row.is_paused for row in study.rows()] == [True, True, False]
