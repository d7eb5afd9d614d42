"""What Tune's hooks do in the study's words, and which of them may wait for a paused sweep."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import sweeper.driver
from sweeper.core.confirmation import McNemar
from sweeper.core.errors import LeaseLostError
from sweeper.core.files import PinnedPath
from sweeper.core.trials import Failure, Report, Verdict
from sweeper.driver import evaluation, stop
from sweeper.driver.bridge import FINISHED, MAX_PREPARED, TuneBridge
from sweeper.driver.evaluation import MAX_ATTEMPTS
from sweeper.driver.stop import RunControl, StopSignal
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.study.study import SweepStudy
from sweeper.worker.task import Event, Task

MakeSweep = Callable[..., Sweep]

DEAD = Failure("crash", "its worker died")


class Paused:
    """The control of a paused sweep. To ask it would take hours; here it fails the test."""

    def wait_or_stop(self) -> bool:
        raise AssertionError("blocked by the pause")

    def is_stopping(self) -> bool:
        return False


class Running:
    def wait_or_stop(self) -> bool:
        return False

    def is_stopping(self) -> bool:
        return False


@pytest.fixture
def study(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepStudy]:
    monkeypatch.setattr(stop, "POLL_INTERVAL_S", 0.05)
    with open_study(make_sweep(budget={"trials": 2, "epochs": 2})) as study:
        yield study


def bridge_to(study: SweepStudy, control: Any, **options: Any) -> TuneBridge:
    defaults: dict[str, Any] = {"has_room": lambda handed_out: True, "must_evaluate": lambda best: True}
    return TuneBridge(study, control=control, **defaults | options)


def task_of(study: SweepStudy) -> Task:
    row = study.ask()
    return Task(row.number, row.params, row.attempt)


def complete(study: SweepStudy) -> None:
    """Run every trial of the study to its end."""
    while study.has_next():
        row = study.ask()
        for step in (1, 2):
            study.report(row.number, Report(step, 0.0, {"score": float(step)}))


def test_events_are_handled_while_the_sweep_is_paused(study: SweepStudy) -> None:
    bridge, task = bridge_to(study, Paused()), task_of(study)
    assert bridge.handle_event(task, Event(notice="no room for a checkpoint")) is Verdict.CONTINUE
    assert bridge.handle_event(task, Event(report=Report(1, 0.0, {"score": 0.5}))) is Verdict.CONTINUE
    assert bridge.handle_event(task, Event(report=Report(2, 0.0, {"score": 0.6}))) is Verdict.STOP
    assert study.row(task.number).state == "COMPLETE"


def test_lost_workers_are_handled_while_the_sweep_is_paused(study: SweepStudy) -> None:
    bridge, task = bridge_to(study, Paused()), task_of(study)
    bridge.handle_lost_worker(task, DEAD, "node-3")
    (attempt,) = study.retries.of(task.number)
    assert (attempt.kind, attempt.reason, attempt.node) == ("crash", "its worker died", "node-3")


def test_next_task_waits_until_a_paused_sweep_continues(study: SweepStudy) -> None:
    control = RunControl(study, StopSignal(None), PinnedPath(Path.cwd(), "the folder of the sweep"))
    bridge = bridge_to(study, control)
    study.commands.send("pause")
    threading.Timer(1.0, study.commands.clear).start()
    started = time.monotonic()
    assert isinstance(bridge.next_task(), Task)
    assert time.monotonic() - started > 0.9


def test_is_stopping_answers_at_once_while_the_sweep_is_paused(study: SweepStudy) -> None:
    control = RunControl(study, StopSignal(None), PinnedPath(Path.cwd(), "the folder of the sweep"))
    bridge, paused = bridge_to(study, control), threading.Event()
    study.announce = lambda message: paused.set()  # type: ignore[method-assign]
    study.commands.send("pause")
    waiting = threading.Thread(target=bridge.wait_or_stop)
    waiting.start()
    assert paused.wait(20)
    assert not bridge.is_stopping() and not control.is_stopping()
    assert waiting.is_alive()
    study.commands.clear()
    waiting.join(20)
    assert not waiting.is_alive()


def test_only_the_next_task_and_the_stopper_wait_for_a_pause() -> None:
    callers = set()
    for path in Path(sweeper.driver.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                if any(isinstance(call, ast.Attribute) and call.attr == "wait_or_stop" for call in calls):
                    callers.add(f"{path.stem}.{function.name}")
    assert callers == {"bridge.next_task", "bridge.wait_or_stop", "tune.stop_all"}


def test_next_task_is_none_while_no_node_has_room(study: SweepStudy) -> None:
    bridge = bridge_to(study, Running(), has_room=lambda handed_out: not handed_out)
    assert isinstance(bridge.next_task(), Task) and bridge.next_task() is None


def test_worker_learns_the_verdict_on_a_report_that_was_recorded_with_others(study: SweepStudy) -> None:
    bridge, first, second = bridge_to(study, Paused()), task_of(study), task_of(study)
    bridge.handle_event(second, Event(report=Report(1, 0.0, {"score": 0.5})))
    events = [
        (first, Event(report=Report(1, 0.0, {"score": 0.5}), node="here")),
        (second, Event(report=Report(2, 0.0, {"score": 0.6}), node="there")),
    ]
    bridge.record_together(events)
    assert [(row.step, row.state, row.node) for row in study.rows()] == [
        (1, "RUNNING", "here"),
        (2, "COMPLETE", "there"),
    ]
    assert [bridge.handle_event(*one) for one in events] == [Verdict.CONTINUE, Verdict.STOP]
    assert bridge.handle_event(first, Event(report=Report(2, 0.0, {"score": 0.7}))) is Verdict.STOP


def test_other_events_are_not_recorded_before_their_turn(study: SweepStudy) -> None:
    bridge, first, second = bridge_to(study, Running()), task_of(study), task_of(study)
    failed = Event(failure=Failure("error", "it was too high"))
    bridge.record_together([(first, failed), (second, Event(notice="no room for a checkpoint"))])
    assert [row.state for row in study.rows()] == ["RUNNING", "RUNNING"]
    bridge.handle_event(first, failed)
    assert study.row(first.number).state == "FAIL"


def test_worker_is_not_free_before_it_has_learnt_the_verdict(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 4, "epochs": 1})) as study:
        bridge = bridge_to(study, Running(), has_room=lambda handed_out: len(handed_out) < 2)
        first, second = bridge.next_task(), bridge.next_task()
        assert isinstance(first, Task) and isinstance(second, Task)
        events = [(task, Event(report=Report(1, 0.0, {"score": 0.5}))) for task in (first, second)]
        bridge.record_together(events)
        assert bridge.next_task() is None
        assert bridge.handle_event(*events[0]) is Verdict.STOP
        assert isinstance(bridge.next_task(), Task) and bridge.next_task() is None
        bridge.handle_lost_worker(second, DEAD)  # which has lost nothing: its trial has ended
        assert isinstance(bridge.next_task(), Task) and study.row(second.number).state == "COMPLETE"


def test_trials_for_workers_that_are_about_to_be_free_are_asked_for_together(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 5, "epochs": 1})) as study:
        few: dict[str, Any] = {"has_room": lambda handed_out: len(handed_out) < 3, "must_evaluate": lambda best: False}
        bridge = bridge_to(study, Running(), **few)
        first = [bridge.next_task() for _ in range(3)]
        tasks = [task for task in first if isinstance(task, Task)]
        events = [(task, Event(report=Report(1, 0.0, {"score": 0.5}))) for task in tasks]
        bridge.record_together(events)
        assert bridge.next_task() is None  # no worker knows that it is free
        for task, event in events:
            assert bridge.handle_event(task, event) is Verdict.STOP
            following = bridge.next_task()
            assert bridge.next_task() is None
            assert len(study.rows()) == 5  # two are left: both were asked for at once
        assert following is None
        assert [row.number for row in study.running()] == [3, 4]


def test_verdicts_are_delivered_before_trials_are_asked_for_again(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 60, "epochs": 1})) as study:
        bridge = bridge_to(study, Running(), has_room=lambda handed_out: len(handed_out) < 20)
        tasks = [task for task in (bridge.next_task() for _ in range(20)) if isinstance(task, Task)]
        assert len(tasks) == 20
        events = [(task, Event(report=Report(1, 0.0, {"score": 0.5}))) for task in tasks]
        bridge.record_together(events)
        begun = []
        for task, event in events:
            assert bridge.handle_event(task, event) is Verdict.STOP
            while isinstance(bridge.next_task(), Task):
                pass
            begun.append(len(study.rows()))
        assert begun[:19] == [20 + MAX_PREPARED] * 19 and begun[19] == 40


def test_what_has_arrived_is_handled_before_trials_are_asked_for_again(study: SweepStudy) -> None:
    bridge, arrived = bridge_to(study, Running()), [False]
    bridge.has_arrived = lambda: arrived[0]
    task = bridge.next_task()
    arrived[0] = True
    assert isinstance(task, Task) and bridge.next_task() is None and len(study.rows()) == 1
    bridge.handle_event(task, Event(report=Report(1, 0.0, {"score": 0.5})))
    assert isinstance(bridge.next_task(), Task)  # also while more keeps arriving


def test_places_are_those_of_the_study_whatever_happened_to_its_trials(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep(budget={"trials": 9, "epochs": 2})) as study:
        seen: list[set[tuple[int, int]]] = []

        def has_room(handed_out: dict[tuple[int, int], Task]) -> bool:
            seen.append({*handed_out})
            return len(handed_out) < 3

        bridge = bridge_to(study, Running(), has_room=has_room)
        tasks = [task for task in (bridge.next_task() for _ in range(3)) if isinstance(task, Task)]
        study.fail(1, Failure("node", "its node was lost"))  # it is retried at once
        again = bridge.next_task()
        assert isinstance(again, Task) and (again.number, again.attempt) == (1, 2)
        assert bridge.next_task() is None and seen[-1] == {(0, 1), (1, 2), (2, 1)}
        study.fail(0, Failure("error", "it was too high"))
        study.refresh()
        assert isinstance(bridge.next_task(), Task)
        assert bridge.next_task() is None and seen[-1] == {(3, 1), (1, 2), (2, 1)} and len(tasks) == 3


def test_trial_that_was_asked_for_ahead_is_left_to_the_next_run(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 4, "epochs": 1})
    with open_study(sweep) as study:
        bridge = bridge_to(study, Running(), has_room=lambda handed_out: len(handed_out) < 2)
        tasks = [task for task in (bridge.next_task(), bridge.next_task()) if isinstance(task, Task)]
        events = [(task, Event(report=Report(1, 0.0, {"score": 0.5}))) for task in tasks]
        bridge.record_together(events)
        bridge.handle_event(*events[0])
        bridge.next_task()
        assert [row.number for row in study.running()] == [2, 3]
    with open_study(sweep) as study:
        assert study.resumed == 2
        bridge = bridge_to(study, Running(), has_room=lambda handed_out: len(handed_out) < 2)
        again = [bridge.next_task(), bridge.next_task()]
        assert [task.number for task in again if isinstance(task, Task)] == [2, 3]
        assert len(study.rows()) == 4


def test_verdict_of_a_lost_attempt_does_not_reach_the_next_one(study: SweepStudy) -> None:
    bridge, task = bridge_to(study, Running()), task_of(study)
    bridge.record_together([(task, Event(report=Report(1, 0.0, {"score": 0.5})))])
    bridge.handle_lost_worker(task, Failure("node", "its node was lost"))
    again = task_of(study)
    assert (again.number, again.attempt) == (task.number, 2)
    assert bridge.handle_event(task, Event(report=Report(1, 0.0, {"score": 0.5}))) is Verdict.STOP
    assert bridge.handle_event(again, Event(report=Report(1, 0.0, {"score": 0.5}))) is Verdict.CONTINUE


def test_trial_whose_resources_are_invalid_fails_alone(make_sweep: MakeSweep) -> None:
    resources = {"gpus": "1.5 if height == 0.123 else 0"}
    sweep = make_sweep(budget={"trials": 2, "epochs": 2}, resources=resources, enqueue=[{"height": 0.123}])
    with open_study(sweep) as study:
        bridge = bridge_to(study, Running())
        assert bridge.next_task() is None and study.row(0).state == "FAIL"
        task = bridge.next_task()
        assert isinstance(task, Task) and task.number == 1


def test_trial_enqueued_outside_the_space_is_not_run(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 2, "epochs": 2})
    with open_study(sweep):
        pass
    optuna.load_study(study_name=sweep.name, storage=sweep.storage_url()).enqueue_trial({"height": 5.0})
    with open_study(sweep) as study:
        bridge = bridge_to(study, Running())
        assert bridge.next_task() is None and study.row(0).state == "FAIL" and study.running() == []
        task = bridge.next_task()
        assert isinstance(task, Task) and task.number == 1


def test_trial_that_prunes_itself_ends_as_pruned(study: SweepStudy) -> None:
    bridge, task = bridge_to(study, Running()), task_of(study)
    bridge.handle_event(task, Event(report=Report(1, 0.0, {"score": 0.5})))
    assert bridge.handle_event(task, Event(is_pruned=True)) is Verdict.STOP
    assert (study.row(0).state, study.row(0).value) == ("PRUNED", 0.5)


def test_best_trial_is_evaluated_once_all_trials_have_ended(study: SweepStudy) -> None:
    bridge = bridge_to(study, Running())
    complete(study)
    task = bridge.next_task()
    assert isinstance(task, Task) and (task.number, task.evaluate, task.recorded) == (0, True, 2)
    assert bridge.next_task() == FINISHED
    assert bridge.handle_event(task, Event(evaluation={"test_score": 1.0})) is Verdict.STOP
    assert bridge.evaluation == {"test_score": 1.0}


def last_of_two(study: SweepStudy, score: float) -> tuple[TuneBridge, Task]:
    """Return a bridge whose first trial has ended with this score, and its second trial, which runs."""
    bridge = bridge_to(study, Running())
    first, second = bridge.next_task(), bridge.next_task()
    assert isinstance(first, Task) and isinstance(second, Task) and bridge.next_task() is None
    for step in (1, 2):
        bridge.handle_event(first, Event(report=Report(step, 0.0, {"score": score})))
    return bridge, second


def end(bridge: TuneBridge, task: Task, score: float) -> None:
    for step in (1, 2):
        bridge.handle_event(task, Event(report=Report(step, 0.0, {"score": score})))


def test_best_trial_is_evaluated_while_the_last_one_runs(study: SweepStudy) -> None:
    bridge, last = last_of_two(study, 0.9)
    task = bridge.next_task()
    assert isinstance(task, Task) and (task.number, task.evaluate) == (0, True) and bridge.next_task() is None
    bridge.handle_event(task, Event(evaluation={"test_score": 1.0}))
    assert bridge.evaluation is None and bridge.next_task() is None
    end(bridge, last, 0.5)
    assert bridge.next_task() == FINISHED and bridge.evaluation == {"test_score": 1.0}


@pytest.mark.parametrize("is_first_done", [True, False])
def test_early_evaluation_is_dropped_when_a_later_trial_is_better(study: SweepStudy, is_first_done: bool) -> None:
    bridge, last = last_of_two(study, 0.5)
    early = bridge.next_task()
    assert isinstance(early, Task)
    if is_first_done:
        bridge.handle_event(early, Event(evaluation={"test_score": 1.0}))
    end(bridge, last, 0.9)
    task = bridge.next_task()
    assert isinstance(task, Task) and (task.number, task.evaluate) == (1, True) and bridge.evaluation is None
    if not is_first_done:
        bridge.handle_event(early, Event(failure=Failure("error", "its checkpoint is gone")))
    bridge.handle_event(task, Event(evaluation={"test_score": 2.0}))
    assert bridge.next_task() == FINISHED and bridge.evaluation == {"test_score": 2.0}


def test_early_evaluation_that_was_overtaken_is_followed_by_that_of_the_new_best(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "LOOK_INTERVAL_S", 0)
    with open_study(make_sweep(budget={"trials": 3, "epochs": 2})) as study:
        bridge = bridge_to(study, Running())
        first, second, third = (bridge.next_task() for _ in range(3))
        assert isinstance(first, Task) and isinstance(second, Task) and isinstance(third, Task)
        assert bridge.next_task() is None
        end(bridge, first, 0.5)
        overtaken = bridge.next_task()
        assert isinstance(overtaken, Task) and (overtaken.number, overtaken.evaluate) == (0, True)
        end(bridge, second, 0.9)
        bridge.handle_event(overtaken, Event(failure=Failure("error", "its checkpoint is gone")))
        task = bridge.next_task()
        assert isinstance(task, Task) and (task.number, task.evaluate) == (1, True)


@pytest.mark.parametrize("is_lost", [True, False])
def test_early_evaluation_that_fails_is_repeated_when_the_search_is_over(
    study: SweepStudy, caplog: pytest.LogCaptureFixture, is_lost: bool
) -> None:
    bridge, last = last_of_two(study, 0.9)
    early = bridge.next_task()
    assert isinstance(early, Task)
    if is_lost:
        bridge.handle_lost_worker(early, DEAD)
    else:
        bridge.handle_event(early, Event(failure=Failure("error", "too early")))
    assert bridge.next_task() is None and not caplog.messages
    end(bridge, last, 0.5)
    again = bridge.next_task()
    assert isinstance(again, Task) and again == early
    bridge.handle_event(again, Event(failure=Failure("error", "no test set")))
    assert bridge.next_task() == FINISHED and bridge.evaluation is None
    assert caplog.messages == ["The best trial could not be evaluated: no test set."]


def test_no_worker_is_requested_for_an_early_evaluation(study: SweepStudy) -> None:
    bridge = bridge_to(study, Running())
    first = bridge.next_task()
    assert isinstance(first, Task)
    end(bridge, first, 0.9)
    second = bridge.next_task()
    assert isinstance(second, Task) and not second.evaluate
    assert bridge.next_task() is None  # one trial has run at a time, so no worker is free


def test_model_is_compared_also_where_it_was_tested_before(study: SweepStudy) -> None:
    options: dict[str, Any] = {"must_evaluate": lambda best: False}
    bridge = bridge_to(study, Running(), **options, models_of=lambda best: (study.row(1), study.row(0)))
    complete(study)
    task = bridge.next_task()
    assert isinstance(task, Task) and task.is_final and not task.evaluate
    assert (task.number, task.rival) == (1, (0, study.row(0).params, 2))
    assert bridge.handle_event(task, Event(compared=McNemar("", 100, 3, 2))) is Verdict.STOP
    assert bridge_to(study, Running(), **options).next_task() == FINISHED


def test_evaluation_that_loses_its_worker_is_retried_twice(study: SweepStudy) -> None:
    bridge = bridge_to(study, Running(), search=False)
    complete(study)
    for _ in range(MAX_ATTEMPTS):
        task = bridge.next_task()
        assert isinstance(task, Task) and task.evaluate
        bridge.handle_lost_worker(task, DEAD)
    assert bridge.next_task() == FINISHED and bridge.evaluation is None


def test_worker_killed_by_the_end_of_the_run_is_no_failure(study: SweepStudy) -> None:
    bridge, task = bridge_to(study, Running()), task_of(study)
    bridge.error = LeaseLostError("another process owns the sweep")
    bridge.handle_lost_worker(task, DEAD)
    assert not study.retries.of(task.number) and bridge.next_task() == FINISHED


def test_cpus_are_idle_only_if_one_more_trial_would_fit_and_there_is_none(study: SweepStudy) -> None:
    room = [True, True, False, True]
    bridge = bridge_to(study, Running(), has_room=lambda handed_out: room.pop(0))
    seen = []
    while room:
        bridge.next_task()
        seen.append(bridge.has_idle_cpus)
    assert seen == [False, False, False, True]
