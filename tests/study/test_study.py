from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


def run_trial(study: SweepStudy, scores: list[float]) -> TrialRecord:
    row = study.ask()
    for step, score in enumerate(scores, 1):
        if study.report(row.number, Report(step, float(step), {"score": score})) is Verdict.STOP:
            break
    return study.row(row.number)


def optuna_study(sweep: Sweep) -> optuna.Study:
    return optuna.load_study(study_name=sweep.name, storage=sweep.storage_url())


def test_trial_at_the_last_step_is_complete_even_with_a_pruner(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 3}, pruner={"type": "threshold", "lower": 0.5})
    with open_study(sweep) as study:
        assert run_trial(study, [0.9, 0.9, 0.1]).state == "COMPLETE"
        assert run_trial(study, [0.9, 0.1, 0.9]).state == "PRUNED"
    assert [trial.value for trial in optuna_study(sweep).trials] == [0.1, 0.1]


def test_pruned_trial_is_not_told_complete(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(pruner={"type": "median", "n_startup_trials": 1, "min_epochs": 1})
    with open_study(sweep) as study:
        run_trial(study, [0.5] * 9)
        pruned = run_trial(study, [0.1] * 9)
    assert (pruned.state, pruned.step) == ("PRUNED", 1)
    assert [trial.state.name for trial in optuna_study(sweep).trials] == ["COMPLETE", "PRUNED"]


def test_step_reported_twice_is_recorded_once(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": 0.5}))
        assert study.report(number, Report(1, 2.0, {"score": 0.6})) is Verdict.CONTINUE
        assert study.reports(number) == [Report(1, 1.0, {"score": 0.5})]
        assert study.row(number).value == 0.5


def test_every_metric_of_a_report_is_recorded(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        study.report(number, Report(1, 1.5, {"score": 0.5, "loss": 2.0}))
    assert read_study("climbing", make_sweep().storage_url()).reports(number) == [
        Report(1, 1.5, {"score": 0.5, "loss": 2.0})
    ]


PRUNERS = [
    {"type": "successive_halving", "min_epochs": 1, "reduction_factor": 2},
    {"type": "promotion", "min_epochs": 1, "reduction_factor": 2},
]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["type"])
def test_reports_recorded_together_are_judged_as_if_one_came_after_the_other(
    make_sweep: MakeSweep, pruner: dict[str, Any]
) -> None:
    outcomes = []
    for name in ("one_by_one", "together"):
        with open_study(make_sweep(name=name, budget={"trials": 6, "epochs": 4}, pruner=pruner)) as study:
            running = [study.ask() for _ in range(6)]
            for step in range(1, 5):
                reports = [
                    (row.number, Report(step, step, {"score": row.params["height"] * step}), "here") for row in running
                ]
                if name == "together":
                    verdicts = study.report_together(reports)
                else:
                    verdicts = [study.report(number, report, node=node) for number, report, node in reports]
                stopped = [v is Verdict.STOP for v in verdicts]
                assert stopped == [study.row(row.number).state != "RUNNING" for row in running]
                running = [row for row, is_over in zip(running, stopped, strict=True) if not is_over]
        ends = [(row.state, row.step, row.value, row.reason, row.node) for row in study.rows()]
        outcomes.append((ends, study.decisions(), [study.reports(number) for number in range(6)]))
    assert outcomes[0] == outcomes[1]
    assert "PRUNED" in {end[0] for end in outcomes[0][0]}


def test_reports_recorded_together_are_committed_together(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        numbers = [study.ask().number for _ in range(3)]
        commits: list[object] = []
        sa.event.listen(study._database.engine, "commit", commits.append)
        study.report_together([(number, Report(1, 1.0, {"score": 0.5}), "here") for number in numbers])
        assert len(commits) == 1
        assert [study.row(number).step for number in numbers] == [1, 1, 1]


def test_report_without_the_metric_fails_no_trial_that_reports_with_it(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        good, bad, gone = (study.ask().number for _ in range(3))
        study.fail(gone, Failure("error", "it was too high"))
        reports = [(good, {"score": 0.5}), (bad, {"loss": 0.5}), (gone, {"score": 0.5})]
        verdicts = study.report_together([(number, Report(1, 1.0, metrics), None) for number, metrics in reports])
        assert verdicts == [Verdict.CONTINUE, Verdict.STOP, Verdict.STOP]
        assert [study.row(number).state for number in (good, bad, gone)] == ["RUNNING", "FAIL", "FAIL"]


def test_report_without_the_metric_fails_its_trial_only(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        assert study.report(number, Report(1, 1.0, {"scores": 0.5})) is Verdict.STOP
        assert study.row(number).state == "FAIL"
        assert study.row(number).reason == "metric 'score' not reported; got: scores. Did you mean 'scores'?"
        assert run_trial(study, [0.1] * 9).state == "COMPLETE"


def test_trial_that_ends_early_is_complete_with_its_last_value(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": 0.5}))
        study.finish(number)
        assert (study.row(number).state, study.row(number).value) == ("COMPLETE", 0.5)


def test_interrupted_trial_is_resumed_with_its_parameters_as_the_next_attempt(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        before = study.ask()
        study.report(before.number, Report(1, 1.0, {"score": 0.5}))
    with open_study(make_sweep()) as study:
        after = study.ask()
        assert (after.number, after.params, after.attempt, after.step) == (before.number, before.params, 2, 1)
        assert study.report(after.number, Report(1, 2.0, {"score": 0.5})) is Verdict.CONTINUE
        assert study.ask().number == before.number + 1


def test_trial_whose_attempt_failed_is_retried_after_its_delay(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_study(make_sweep(budget={"trials": 1, "epochs": 9})) as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": 0.5}), node="here")
        assert study.fail(number, Failure("crash", "its worker died")) is Verdict.STOP
        assert study.row(number).state == "RUNNING" and not study.is_exhausted() and not study.has_next()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 1.1)
        assert study.has_next() and study.ask().attempt == 2
        (failed,) = study.attempts().get(number, [])
        assert (failed.attempt, failed.kind, failed.step, failed.node) == (1, "crash", 1, "here")
    assert read_study("climbing", make_sweep().storage_url()).attempts().get(number, []) == [failed]


def test_failed_attempt_is_recorded_once_and_known_to_the_next_owner(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 1, "epochs": 9, "max_failures": 1})
    with open_study(sweep) as study:
        study.fail(study.ask().number, Failure("crash", "its worker died"))
    with open_study(sweep) as study:
        assert study.ask().attempt == 2
    with open_study(sweep) as study:
        assert study.ask().attempt == 3
        study.fail(0, Failure("crash", "its worker died"))
        assert (study.row(0).state, study.row(0).reason) == ("FAIL", "its worker died; attempt 3 was the last")
        kinds = [(past.attempt, past.kind) for past in study.attempts().get(0, [])]
        assert kinds == [(1, "crash"), (2, "driver"), (3, "crash")]


def test_trial_interrupted_after_its_last_report_completes(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 1, "epochs": 1})) as study:
        trial = optuna.Trial(optuna_study(study.sweep), optuna_study(study.sweep).ask()._trial_id)
        trial.suggest_float("height", 0, 1)
        trial.report(0.7, 1)
    with open_study(make_sweep(budget={"trials": 1, "epochs": 1})) as study:
        number = study.ask().number
        study.report(number, Report(1, 1.0, {"score": 0.7}))
        assert (study.row(number).state, study.row(number).value) == ("COMPLETE", 0.7)


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_resumed_sweep_does_not_propose_the_same_points_again(make_sweep: MakeSweep, sampler: str) -> None:
    proposed = []
    for _ in range(3):
        with open_study(make_sweep(sampler={"type": sampler})) as study:
            proposed += [run_trial(study, [0.1] * 9).params["height"] for _ in range(2)]
    assert len(set(proposed)) == 6


def test_budget_counts_every_trial_and_may_grow(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 1, "epochs": 9})) as study:
        run_trial(study, [0.1] * 9)
        assert study.is_exhausted()
    with open_study(make_sweep(budget={"trials": 2, "epochs": 9})) as study:
        assert not study.is_exhausted()


def test_fork_of_an_unknown_sweep_is_refused(make_sweep: MakeSweep) -> None:
    with pytest.raises(InputError, match="no sweep 'climbng'"), open_study(make_sweep(), forked="climbng"):
        pass


def test_start_points_are_tried_first(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(enqueue=[{"height": 0.25}, {"height": 0.75}])) as study:
        assert [study.ask().params["height"], study.ask().params["height"]] == [0.25, 0.75]


def test_best_of_equal_trials_is_the_lowest_number(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        for score in (0.1, 0.9, 0.9):
            run_trial(study, [score] * 9)
        best = study.best()
        assert best is not None and best.number == 1


def test_best_trial_of_a_minimised_objective_has_the_least_value(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(objective={"metric": "score", "direction": "minimize"})) as study:
        for score in (0.3, 0.1, 0.2):
            run_trial(study, [score] * 9)
        assert [row.value for row in study.leaderboard()] == [0.1, 0.2, 0.3]


def test_failing_listener_does_not_stop_the_sweep(make_sweep: MakeSweep) -> None:
    class Broken:
        def on_trial(self, row: TrialRecord, report: Report | None) -> None:
            raise RuntimeError("broken")

        def on_phase(self, message: str) -> None:
            pass

    with open_study(make_sweep(), listeners=[Broken()]) as study:
        assert run_trial(study, [0.1] * 9).state == "COMPLETE"


def test_study_can_be_read_by_optuna(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    with open_study(sweep) as study:
        run_trial(study, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    loaded = optuna_study(sweep)
    assert loaded.best_value == 0.9
    assert loaded.trials[0].intermediate_values == {step: step / 10 for step in range(1, 10)}


def test_reader_and_list_see_what_the_owner_wrote(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        run_trial(study, [0.1] * 9)
        written = study.rows()
        assert list_sweeps(study.sweep.storage_url())[0].running
    url = make_sweep().storage_url()
    read = read_study("climbing", url).rows()
    assert [(row.number, row.state, row.value, row.params) for row in read] == [
        (row.number, row.state, row.value, row.params) for row in written
    ]
    summary = list_sweeps(url)[0]
    assert (summary.name, summary.counts, summary.best, summary.running) == ("climbing", {"COMPLETE": 1}, 0.1, False)


def test_unknown_sweep_is_refused_with_the_nearest_name(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()):
        pass
    with pytest.raises(InputError, match="did you mean 'climbing'"):
        read_study("climbin", make_sweep().storage_url())


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_interrupted_sweep_proposes_the_points_of_an_undisturbed_one(make_sweep: MakeSweep, sampler: str) -> None:
    space = {
        "height": {"type": "float", "low": 0, "high": 1, "step": 0.125},
        "width": {"type": "int", "low": 1, "high": 3},
    }
    whole = make_sweep(sampler={"type": sampler}, space=space, name="whole", budget={"trials": 9, "epochs": 1})
    parts = whole.changed({"name": "parts"})
    with open_study(whole) as study:
        expected = [run_trial(study, [0.5]).params for _ in range(9)]
    found = []
    for count in (2, 3, 4):
        with open_study(parts) as study:
            found += [run_trial(study, [0.5]).params for _ in range(count)]
    assert found == expected


def test_interrupted_tpe_proposes_the_same_when_the_results_are_the_same(make_sweep: MakeSweep) -> None:
    whole = make_sweep(sampler={"type": "tpe", "n_startup_trials": 2}, name="whole", budget={"trials": 8, "epochs": 1})
    parts = whole.changed({"name": "parts"})

    def run(study: SweepStudy) -> float:
        row = study.ask()
        study.report(row.number, Report(1, 1.0, {"score": row.params["height"] ** 2}))
        return float(row.params["height"])

    with open_study(whole) as study:
        expected = [run(study) for _ in range(8)]
    found = []
    for count in (1, 5, 2):
        with open_study(parts) as study:
            found += [run(study) for _ in range(count)]
    assert found == expected


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "grid"])
def test_stepped_value_is_the_decimal_everywhere(make_sweep: MakeSweep, sampler: str) -> None:
    space = {
        "x": {"type": "float", "low": 0.0, "high": 0.7, "step": 0.1},
        "y": {"type": "int", "low": 0, "high": 1, "when": {"x": [0.3, 0.6, 0.7]}},
    }
    sweep = make_sweep(sampler={"type": sampler}, space=space, budget={"trials": 11, "epochs": 1})
    with open_study(sweep) as study:
        rows = [run_trial(study, [0.5]) for _ in range(11)]
    decimals = {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert {row.params["x"] for row in rows} <= decimals
    assert all(("y" in row.params) == (row.params["x"] in (0.3, 0.6, 0.7)) for row in rows)
    assert {trial.params["x"] for trial in optuna_study(sweep).trials} <= decimals
    assert [row.params for row in read_study("climbing", sweep.storage_url()).rows()] == [row.params for row in rows]


def test_time_between_two_attempts_does_not_count(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(budget={"trials": 1, "epochs": 3})
    with open_study(sweep) as study:
        row = study.ask()
        assert row.started is not None
        study.report(0, Report(1, row.started.timestamp() + 5.0, {"score": 0.1}))
    with open_study(sweep) as study:
        row = study.ask()
        assert (row.attempt, row.spent) == (2, pytest.approx(5.0, abs=0.01))
        study.report(0, Report(2, time.time(), {"score": 0.1}))
        study.report(0, Report(3, time.time(), {"score": 0.1}))
        seconds = study.row(0).seconds
    assert seconds is not None and 5.0 <= seconds < 8.0
    assert read_study("climbing", sweep.storage_url()).row(0).seconds == pytest.approx(seconds, abs=1e-3)


def test_failed_attempt_counts_until_its_end(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_study(make_sweep(budget={"trials": 1, "epochs": 1, "max_failures": 1})) as study:
        begun = study.ask()
        time.sleep(0.2)
        study.fail(0, Failure("crash", "its worker died"))
        ended = study.attempts()[0][0].ended
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 100)
        again = study.ask()
    assert begun.started is not None
    assert again.spent == pytest.approx((ended - begun.started).total_seconds(), abs=0.01)


def test_times_do_not_depend_on_the_time_zone(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 1})
    try:
        for zone in ("Asia/Tokyo", "America/Los_Angeles"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            with open_study(sweep) as study:
                run_trial(study, [0.5])
            rows = read_study("climbing", sweep.storage_url()).rows()
            assert all(0 <= (row.seconds or 0) < 10 for row in rows)
            assert all(row.started is not None and abs(time.time() - row.started.timestamp()) < 60 for row in rows)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_trial_that_returns_early_says_where(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 9})
    with open_study(sweep) as study:
        for number in range(2):
            study.ask()
            study.report(number, Report(1, time.time(), {"score": 0.5}))
            study.finish(number)
        assert study.row(0).reason == "returned after epoch 1 of 9"
        (remark,) = study.remarks()
        assert remark.startswith("2 of 2 trials count as complete although they did not make all reports: trial 0 ")


def test_trial_that_prunes_itself_is_pruned(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        study.ask()
        study.report(0, Report(2, time.time(), {"score": 0.5}))
        assert study.finish(0, is_pruned=True) is Verdict.STOP
        assert (study.row(0).state, study.row(0).reason) == ("PRUNED", "pruned by its own code after epoch 2")
        assert study.running() == []


def test_trial_added_with_its_value_leads_but_is_not_the_best(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 4, "epochs": 1})
    with open_study(sweep) as study:
        run_trial(study, [0.5])
    added = optuna.trial.create_trial(
        params={"height": 0.25},
        distributions={"height": optuna.distributions.FloatDistribution(0, 1)},
        value=0.9999,
        intermediate_values={1: 0.9999},
    )
    optuna_study(sweep).add_trial(added)
    with open_study(sweep) as study:
        run_trial(study, [0.7])
        best = study.best()
        assert [row.number for row in study.leaderboard()] == [1, 2, 0]
        assert best is not None and best.number == 2
        assert study.remarks() == (
            "trial 1 leads, but was added to the study and not trained here; the best model is that of trial 2",
        )


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"height": 5.0}, "height: 5.0 is not in the space, which has 0.0 to 1.0"),
        ({"width": 1}, "width: there is no such parameter in the space"),
        ({"height": "high"}, "height: 'high' is not in the space"),
    ],
)
def test_trial_enqueued_outside_the_space_fails(make_sweep: MakeSweep, point: dict[str, object], reason: str) -> None:
    sweep = make_sweep(budget={"trials": 3, "epochs": 1})
    with open_study(sweep) as study:
        run_trial(study, [0.5])
    optuna_study(sweep).enqueue_trial(point)
    with open_study(sweep) as study:
        row = study.ask()
        assert row.state == "FAIL" and str(row.reason).startswith(f"enqueued, but {reason}")
        assert run_trial(study, [0.7]).state == "COMPLETE"
        assert study.is_done()


def test_study_records_when_the_cpus_of_a_trial_changed(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 9})
    with open_study(sweep) as study:
        study.ask(), study.ask()
        for step, cpus in enumerate([1, 1, 2, 2, 4, None, 1], 1):
            study.report(0, Report(step, float(step), {"score": 0.5}, cpus))
        study.report(1, Report(1, 1.0, {"score": 0.5}, 2))
        study.report(0, Report(7, 7.5, {"score": 0.5}, 8))  # it is recorded already
        assert study.row(0).cpus == ((3, 2), (5, 4), (7, 1)) and study.row(1).cpus == ((1, 2),)
        study.fail(0, Failure("crash", "its worker died"))
        while (row := study.ask()).number != 0:
            pass
        assert row.cpus == ((3, 2), (5, 4), (7, 1))
    assert read_study(sweep.name, sweep.storage_url()).row(0).cpus == ((3, 2), (5, 4), (7, 1))
