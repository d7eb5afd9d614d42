from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import ray

from sweeper.analysis.costs import used_of
from sweeper.core.errors import ResourceError
from sweeper.core.trials import Report, TrialRecord, Verdict
from sweeper.driver.capacity import possible_requests, refuse_infeasible_on_cluster
from sweeper.driver.nodes import Nodes
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.study import SweepStudy
from sweeper.study.view import StudyView
from tests.runs import run_trials

MakeSweep = Callable[..., Sweep]

SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 2},
    "random": {},
    "grid": {},
    "qmc": {},
    "cmaes": {"n_startup_trials": 2},
    "gp": {"n_startup_trials": 2},
}
PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"n_startup_trials": 2},
    "percentile": {"percentile": 50.0, "n_startup_trials": 2},
    "successive_halving": {"min_epochs": 1, "reduction_factor": 3},
    "hyperband": {"min_epochs": 1, "reduction_factor": 3},
    "patient": {"wrapped": {"type": "median", "n_startup_trials": 2}, "patience_epochs": 1},
    "threshold": {"lower": 0.05},
    "none": {},
}


pytestmark = pytest.mark.usefixtures("any_ray")


class Spy:
    """Keeps the updates of the study."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int | None]] = []

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        self.seen.append((row.number, row.state, report.step if report else None))

    def on_phase(self, message: str) -> None:
        pass


def tune(
    sweep: Sweep, *, listeners: tuple[Spy, ...] = (), parallel: int | str = 2, **options: Any
) -> list[TrialRecord]:
    """Run a sweep on the cluster; read from its database what the study holds afterwards."""
    with open_study(sweep, listeners=listeners) as study:
        run_trials(study, parallel=parallel, **options)
    return read_study(sweep.name, sweep.storage_url()).rows()


def optuna_trials(sweep: Sweep) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).trials


def assert_sound(sweep: Sweep, rows: list[TrialRecord], spy: Spy) -> None:
    """Check what must hold of every sweep that ran to its end."""
    last = sweep.budget.reports
    assert [row.number for row in rows] == list(range(sweep.budget.trials))
    assert {row.state for row in rows} <= {"COMPLETE", "PRUNED"}
    assert all(row.step == last for row in rows if row.state == "COMPLETE")
    assert all(row.step < last for row in rows if row.state == "PRUNED")
    reported = [(number, step) for number, _, step in spy.seen if step is not None]
    assert len(reported) == len(set(reported))
    for trial in optuna_trials(sweep):
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        assert trial.value == trial.intermediate_values[steps[-1]]


@pytest.mark.parametrize("kind", PRUNERS)
def test_every_pruner_stops_trials_and_marks_them_pruned(make_sweep: MakeSweep, kind: str) -> None:
    sweep = make_sweep(budget={"trials": 12, "epochs": 9}, pruner={"type": kind, **PRUNERS[kind]})
    spy = Spy()
    rows = tune(sweep, listeners=(spy,))
    assert_sound(sweep, rows, spy)
    pruned = [row for row in rows if row.state == "PRUNED"]
    # Patience waits for a curve to fall, and those of `climb` never do.
    assert bool(pruned) == (kind not in ("none", "patient"))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_proposes_what_the_space_allows(make_sweep: MakeSweep, kind: str) -> None:
    if kind == "gp":
        pytest.importorskip("torch", reason="needs sweeper[gp], a gigabyte")
    space: dict[str, Any] = {
        "height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
        "width": {"type": "int", "low": 1, "high": 2},
    }
    sweep = make_sweep(budget={"trials": 8, "epochs": 2}, sampler={"type": kind, **SAMPLERS[kind]}, space=space)
    spy = Spy()
    rows = tune(sweep, listeners=(spy,))
    assert_sound(sweep, rows, spy)
    points = [(row.params["height"], row.params["width"]) for row in rows]
    assert all(height in (0.0, 0.25, 0.5, 0.75, 1.0) and width in (1, 2) for height, width in points)
    assert len(set(points)) == 8 if kind == "grid" else len(set(points)) > 1


@pytest.mark.long  # tests/study/test_reuse.py has what is taken over
def test_trial_that_another_sweep_has_finished_is_not_trained_again(make_sweep: MakeSweep) -> None:
    space = {"height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25}}
    grid = {"sampler": {"type": "grid"}, "space": space}
    known = {row.params["height"] for row in tune(make_sweep(name="some", budget={"trials": 3, "epochs": 2}, **grid))}
    budget = {"trials": 5, "epochs": 2, "reuse": True}
    spy, again = Spy(), make_sweep(name="again", budget=budget, **grid)
    rows = tune(again, listeners=(spy,))
    assert_sound(again, rows, spy)
    assert {row.params["height"] for row in rows if row.reused} == known
    assert all((row.node is None) == (row.reused is not None) for row in rows)
    assert {row.reused is not None for row in tune(make_sweep(name="all", budget=budget, **grid))} == {True}


def test_sampler_never_sees_a_pruned_trial_as_complete(make_sweep: MakeSweep) -> None:
    """Ray's own OptunaSearch tells Optuna COMPLETE, with the value of the moment, for what a scheduler stopped."""
    sweep = make_sweep(
        budget={"trials": 12, "epochs": 9},
        sampler={"type": "tpe", "n_startup_trials": 2},
        pruner={"type": "median", "n_startup_trials": 2},
    )
    rows = tune(sweep)
    told = {trial.number: (trial.state.name, len(trial.intermediate_values)) for trial in optuna_trials(sweep)}
    assert told == {row.number: (row.state, row.step) for row in rows}
    assert all(steps == 9 for state, steps in told.values() if state == "COMPLETE")
    assert "PRUNED" in {state for state, _ in told.values()}


def test_minimised_sweep_prunes_high_trials(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        trainable="tests.samples:descend",
        objective={"metric": "cost", "direction": "minimize"},
        budget={"trials": 10, "epochs": 9},
        pruner={"type": "median", "n_startup_trials": 3},
    )
    rows = tune(sweep)
    complete = [row.params["height"] for row in rows if row.state == "COMPLETE"]
    pruned = [row.params["height"] for row in rows if row.state == "PRUNED"]
    assert pruned and min(complete) < min(pruned)


def test_trial_that_raises_fails_with_its_reason_and_others_continue(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:fail_above_half")
    for row in tune(sweep):
        if row.params["height"] > 0.5:
            assert row.state == "FAIL" and str(row.reason).startswith("ValueError: too high (samples.py:")
            assert "ValueError: too high" in Path(f"sweep/trials/{row.number:04d}/error.txt").read_text()
        else:
            assert row.state == "COMPLETE"


def test_ray_and_the_study_call_the_same_trials_failed(make_sweep: MakeSweep) -> None:
    rows = tune(make_sweep(trainable="tests.samples:fail_above_half"))
    (snapshot,) = Path("sweep/ray").glob("experiment_state-*.json")
    states = {}
    for text, _ in json.loads(snapshot.read_text())["trial_data"]:
        trial = json.loads(text)
        states[trial["config"]["number"]] = trial["status"]
    assert states == {row.number: "ERROR" if row.state == "FAIL" else "TERMINATED" for row in rows}
    assert set(states.values()) == {"ERROR", "TERMINATED"}


def test_trial_that_prunes_itself_is_pruned(make_sweep: MakeSweep) -> None:
    rows = tune(make_sweep(trainable="tests.samples:prune_itself", budget={"trials": 2, "epochs": 3}))
    assert [(row.state, row.step, row.reason) for row in rows] == [
        ("PRUNED", 1, "pruned by its own code after epoch 1")
    ] * 2


def test_trial_that_diverges_fails_with_the_epoch(make_sweep: MakeSweep) -> None:
    rows = tune(make_sweep(trainable="tests.samples:diverge_above_half"))
    diverged = [row for row in rows if row.params["height"] > 0.5]
    assert diverged and all(row.state == "FAIL" for row in diverged)
    assert {row.reason for row in diverged} == {"diverged (score=nan at epoch 3)"}
    assert all(row.value is None or math.isfinite(row.value) for row in rows)


@pytest.mark.parametrize(
    ("trainable", "reason"),
    [
        ("misname", "metric 'score' not reported; got: scores. Did you mean 'scores'?"),
        ("say_nothing", "ended without a report of 'score'"),
        ("leave", "SystemExit: 0"),
    ],
)
def test_trainable_that_breaks_the_contract_fails_its_trials(
    make_sweep: MakeSweep, trainable: str, reason: str
) -> None:
    rows = tune(make_sweep(trainable=f"tests.samples:{trainable}", budget={"trials": 2, "epochs": 2}))
    assert [row.state for row in rows] == ["FAIL", "FAIL"]
    assert all(reason in str(row.reason) for row in rows)


def test_trial_whose_worker_is_killed_resumes_from_its_checkpoint(make_sweep: MakeSweep) -> None:
    spy = Spy()
    sweep = make_sweep(trainable="tests.samples:crash_once", budget={"trials": 2, "epochs": 5})
    rows = tune(sweep, listeners=(spy,))
    assert_sound(sweep, rows, spy)
    assert [(row.attempt, row.value) for row in rows] == [(2, 5.0), (2, 5.0)]


def test_trial_whose_worker_dies_too_often_fails_and_others_continue(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        trainable="tests.samples:crash_always",
        budget={"trials": 2, "epochs": 2, "max_failures": 1},
        enqueue=[{"height": 0.9}, {"height": 0.1}],
    )
    failed, complete = tune(sweep)
    assert (failed.state, failed.attempt) == ("FAIL", 2)
    assert failed.reason == "its worker died; attempt 2 was the last"
    assert complete.state == "COMPLETE"


def test_worker_that_hangs_is_killed_and_its_trial_resumes(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:hang_once", budget={"trials": 2, "epochs": 4, "stall_timeout": "3s"})
    with open_study(sweep) as study:
        run_trials(study, parallel=2)
        rows, failed = study.rows(), [study.retries.of(number) for number in range(2)]
    assert [(row.state, row.attempt, row.value) for row in rows] == [("COMPLETE", 2, 4.0)] * 2
    assert [[(past.kind, past.reason) for past in attempts] for attempts in failed] == [
        [("stall", "no report for 3 s: its worker hung and was ended")]
    ] * 2


def test_network_error_is_retried_on_the_same_worker(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:lose_connection_once", budget={"trials": 2, "epochs": 3})
    with open_study(sweep) as study:
        run_trials(study, parallel=2)
        assert [(row.state, row.attempt, row.step) for row in study.rows()] == [("COMPLETE", 2, 3)] * 2
        processes = {report.metrics["pid"] for row in study.rows() for report in study.reports(row.number)}
    assert len(processes) <= 2


def test_trials_that_all_fail_alike_stop_the_sweep(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:say_nothing", budget={"trials": 30, "epochs": 3})
    with open_study(sweep) as study:
        run_trials(study, parallel=2, stop_when=lambda: study.retries.repeated_failure() is not None)
        assert 5 <= len(study.rows()) <= 7
        assert study.retries.repeated_failure() == "5 trials in a row failed: ended without a report of 'score'"


def test_trials_far_from_their_next_report_do_not_delay_the_end(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:take_long", budget={"trials": 4, "epochs": 8})
    spy, asked = Spy(), []

    def stop_when() -> bool:
        if any(step == 1 for _, _, step in spy.seen):
            asked.append(time.monotonic())
        return bool(asked)

    rows = tune(sweep, listeners=(spy,), stop_when=stop_when)
    assert time.monotonic() - asked[0] < 20
    assert {(row.state, row.attempt) for row in rows} == {("RUNNING", 1)}
    assert not read_study(sweep.name, sweep.storage_url()).attempts()


def test_stopped_sweep_leaves_its_trials_to_be_resumed(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 4, "epochs": 8})
    spy = Spy()
    interrupted = tune(sweep, listeners=(spy,), stop_when=lambda: len(spy.seen) > 10)
    assert "RUNNING" in {row.state for row in interrupted}
    rows = tune(sweep)
    assert [row.state for row in rows] == ["COMPLETE"] * 4
    assert [row.value for row in rows] == [pytest.approx(row.params["height"] * 8) for row in rows]
    assert {row.attempt for row in rows} == {1, 2}


@pytest.mark.parametrize(
    ("trainable", "epochs", "pruner"),
    [
        ("report_process", 1, {"type": "none"}),
        ("report_process_and_fail", 2, {"type": "none"}),
        ("report_process", 2, {"type": "threshold", "upper": -1.0}),
    ],
    ids=["complete", "failed", "pruned"],
)
def test_workers_stay_warm_from_trial_to_trial(
    make_sweep: MakeSweep, trainable: str, epochs: int, pruner: dict[str, Any]
) -> None:
    budget = {"trials": 12, "epochs": epochs}
    sweep = make_sweep(trainable=f"tests.samples:{trainable}", budget=budget, pruner=pruner)
    tune(sweep)
    study: StudyView = read_study(sweep.name, sweep.storage_url())
    processes = {study.reports(row.number)[0].metrics["pid"] for row in study.rows()}
    assert len(processes) <= 2


def test_workers_share_the_data_and_need_no_environment(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        trainable="tests.samples:report_surroundings", dataset={"type": "digits"}, budget={"trials": 3, "epochs": 1}
    )
    assert sweep.dataset is not None
    with open_study(sweep) as study:
        run_trials(study, parallel=2, data=sweep.dataset.load())
        for row in study.rows():
            assert row.reason is None
            metrics = study.reports(row.number)[0].metrics
            assert (metrics["shared"], metrics["plain"], metrics["samples"]) == (1.0, 1.0, 1200)


def test_no_worker_is_started_without_need(make_sweep: MakeSweep) -> None:
    before = set(ray.util.placement_group_table())
    tune(make_sweep(budget={"trials": 30, "epochs": 1}))
    assert len(set(ray.util.placement_group_table()) - before) == 2


def test_tune_keeps_only_the_last_ended_trials(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.driver.tune.MAX_ENDED_TRIALS", 3)
    tune(make_sweep(budget={"trials": 12, "epochs": 1}))
    (snapshot,) = Path("sweep/ray").glob("experiment_state-*.json")
    assert len(json.loads(snapshot.read_text())["trial_data"]) == 3


def test_no_more_trials_run_at_once_than_requested(make_sweep: MakeSweep) -> None:
    running: set[int] = set()
    most: list[int] = []

    class Watch(Spy):
        def on_trial(self, row: TrialRecord, report: Report | None) -> None:
            (running.add if row.state == "RUNNING" else running.discard)(row.number)
            most.append(len(running))

    tune(make_sweep(budget={"trials": 5, "epochs": 3}), listeners=(Watch(),), parallel=1)
    assert max(most) == 1


def test_error_in_the_study_ends_the_run_and_is_raised(make_sweep: MakeSweep) -> None:
    class Broken(SweepStudy):
        def report(self, *args: Any, **kwargs: Any) -> Verdict:
            raise OSError("no space left")

    sweep = make_sweep()
    with open_study(sweep) as study, pytest.raises(OSError, match="no space left"):
        study.__class__ = Broken
        run_trials(study, parallel=2)


def test_trials_that_fit_no_node_are_refused(make_sweep: MakeSweep) -> None:
    with pytest.raises(ResourceError, match="each trial needs 64 CPU and 0 GPU; the largest node has"):
        refuse_infeasible_on_cluster(make_sweep(resources={"cpus": 64}))


def test_as_many_trials_run_as_fit_on_the_cluster(make_sweep: MakeSweep) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    for share, room in {1: cpus, 0.5: 2 * cpus}.items():
        (asked,) = possible_requests(make_sweep(resources={"cpus": share}))
        nodes = Nodes([asked], print)
        assert nodes.room() == room
        assert [nodes.has_room([asked] * count, None) for count in range(room + 2)] == [True] * room + [False] * 2
        assert [nodes.has_room([asked] * count, 1) for count in range(3)] == [True, False, False]


def test_worker_of_a_trial_that_leaves_a_thread_is_replaced(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trainable="tests.samples:leave_a_thread", budget={"trials": 4, "epochs": 2})
    with open_study(sweep) as study:
        run_trials(study, parallel=1)
        rows = study.rows()
        processes = [int(study.reports(row.number)[0].metrics["pid"]) for row in rows]
    assert [row.state for row in rows] == ["COMPLETE"] * 4 and all(row.attempt == 1 for row in rows)
    first, second, third, fourth = processes
    assert first != second == third != fourth
    while psutil.pid_exists(first):
        time.sleep(0.1)


@pytest.mark.parametrize("elastic", [True, False])
def test_last_trial_gets_the_cpus_that_nothing_waits_for(
    elastic: bool, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.capacity.MIN_SECONDS_LEFT", 0.0)
    sweep = make_sweep(
        trainable="tests.samples:report_cpus", budget={"trials": 2, "epochs": 12}, resources={"elastic": elastic}
    )
    with open_study(sweep) as study:
        run_trials(study, parallel=2)
        row, reports = study.row(1), study.reports(1)
    cpus = [int(report.metrics["cpus"]) for report in reports]
    most = 2 if elastic else 1  # as many as two trials declare
    assert cpus == sorted(cpus) and (cpus[0], cpus[-1]) == (1, most)
    assert row.cpus == (((cpus.index(most) + 1, most),) if most > 1 else ())
    assert study.row(0).state == row.state == "COMPLETE" and row.attempt == 1


@pytest.mark.parametrize("heights, dies, evaluated", [
    ((0.9, 0.5), False, [0]),
    ((0.5, 0.9), False, [0, 1]),
    ((0.9, 0.5), True, [0, 0]),
])  # fmt: skip
def test_best_trial_is_evaluated_before_the_last_one_ends(
    heights: tuple[float, float], dies: bool, evaluated: list[int], make_sweep: MakeSweep
) -> None:
    log = Path("evaluations").resolve()
    space = {"height": {"type": "float", "low": 0, "high": 1}, "dies": dies, "log": str(log)}
    sweep = make_sweep(
        trainable="tests.samples:wait_for_evaluation",
        budget={"trials": 2, "epochs": 2},
        space=space,
        enqueue=[{"height": height} for height in heights],
    )
    with open_study(sweep) as study:
        found = run_trials(study, parallel=2, must_evaluate=lambda best: True)
        assert [row.state for row in study.rows()] == ["COMPLETE", "COMPLETE"]
    assert found == {"test_score": max(heights)}
    assert [int(number) for number in log.read_text().split()] == evaluated


def test_evaluation_whose_worker_dies_is_repeated_on_another(make_sweep: MakeSweep) -> None:
    log = Path("evaluations").resolve()
    space = {"height": 0.5, "dies": True, "log": str(log), "other": {"type": "float", "low": 0, "high": 1}}
    sweep = make_sweep(trainable="tests.samples:wait_for_evaluation", budget={"trials": 1, "epochs": 2}, space=space)
    with open_study(sweep) as study:
        assert run_trials(study, parallel=1, must_evaluate=lambda best: True) == {"test_score": 0.5}
    assert log.read_text() == "0\n0\n"


def test_reports_that_arrive_together_are_recorded_together(
    make_sweep: MakeSweep, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While some are recorded, those of the other workers arrive; each commit waits for the disk or a server.

    Two workers would take turns, a report each.
    """
    sizes: list[int] = []
    record = SweepStudy.report_together

    def slowly(self: SweepStudy, arrived: Any) -> list[Verdict]:
        time.sleep(0.2)
        sizes.append(len(arrived))
        return record(self, arrived)

    monkeypatch.setattr(SweepStudy, "report_together", slowly)
    space = {"height": {"type": "float", "low": 0, "high": 1}, "folder": {"type": "constant", "value": str(own_folder)}}
    budget = {"trials": 3, "epochs": 8}
    sweep = make_sweep(
        trainable="tests.samples:climb_together",
        space=space,
        budget=budget,
        resources={"cpus": 0.5},
        pruner={"type": "none"},
    )
    spy = Spy()
    assert_sound(sweep, tune(sweep, listeners=(spy,), parallel=3), spy)
    assert sum(sizes) == 24 and max(sizes) in (2, 3)


@pytest.mark.parametrize(
    ("limit_s", "resumed"),
    [(30.0, 0), pytest.param(90.0, 2, marks=pytest.mark.long)],
    ids=["at once", "stopped and resumed twice"],
)
def test_budget_in_cpu_hours_is_kept_to_three_percent(make_sweep: MakeSweep, limit_s: float, resumed: int) -> None:
    """The start of a worker counts: with other tests on the cores, it takes up to ten seconds."""
    budget = {"trials": 99, "epochs": 20, "cpu_hours": limit_s / 3600}
    sweep = make_sweep(trainable="tests.samples:slow_count", budget=budget, pruner={"type": "none"})
    for _ in range(resumed):
        spy = Spy()
        tune(sweep, listeners=(spy,), stop_when=lambda spy=spy: len(spy.seen) > 30)
        assert 0 < used_of(read_study(sweep.name, sweep.storage_url()))[0].share
    rows = tune(sweep)
    (used,) = used_of(read_study(sweep.name, sweep.storage_url()))
    assert 0.9 < used.share < 1.03
    ended = [row for row in rows if row.state == "COMPLETE"]
    assert len(ended) >= 2 and all(row.step == 20 for row in ended)
    left = [row.number for row in rows if row.state == "RUNNING"]
    with open_study(sweep.changed({"budget.cpu_hours": str(2 * limit_s / 3600)})) as study:
        assert not study.is_done() and study.has_next()
        assert [study.ask().number for _ in left] == left
