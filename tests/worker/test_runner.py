from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.core.confirmation import McNemar
from sweeper.core.errors import InputError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.driver.actor import as_config, task_from
from sweeper.spec import Sweep
from sweeper.worker.runner import TaskRunner
from sweeper.worker.task import Event, Task, WorkerContext, trial_seed

MakeSweep = Callable[..., Sweep]


def start(sweep: Sweep, folder: Path, **task: object) -> TaskRunner:
    return TaskRunner(WorkerContext(sweep, SweepFolder(folder)), Task(0, {"height": 0.9}, **task))  # type: ignore[arg-type]


def all_events(run: TaskRunner, reports: int) -> list[Event]:
    events = [run.next_event() for _ in range(reports)]
    run.stop()
    return events


def test_task_waits_after_each_report(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(), tmp_path)
    events = all_events(run, 9)
    assert [event.report.step for event in events if event.report] == list(range(1, 10))


def test_stopped_task_ends_at_its_report_and_runs_finally_blocks(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:tidy"), tmp_path)
    run.next_event()
    run.stop()
    assert not run._thread.is_alive()
    assert (tmp_path / "trials").parent.joinpath("tidied").exists()


def test_failed_task_gives_a_reason_and_saves_its_traceback(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:fail_above_half"), tmp_path)
    failure = all_events(run, 2)[-1].failure
    assert failure is not None and failure.kind == "error"
    assert failure.reason.startswith("ValueError: too high (samples.py:")
    assert "Traceback" in (tmp_path / "trials/0000/error.txt").read_text()


def test_traceback_replaces_a_link_and_does_not_follow_it(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "trials/0000").mkdir(parents=True)
    (tmp_path / "trials/0000/error.txt").symlink_to(tmp_path / "precious")
    run = start(make_sweep(trainable="tests.samples:fail_above_half"), tmp_path)
    assert all_events(run, 2)[-1].failure
    assert (tmp_path / "precious").read_text() == "mine"
    assert "Traceback" in (tmp_path / "trials/0000/error.txt").read_text()


def test_traceback_is_not_written_through_a_linked_folder(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials/0000").symlink_to(tmp_path / "precious")
    run = start(make_sweep(trainable="tests.samples:fail_above_half"), tmp_path)
    assert all_events(run, 2)[-1].failure
    assert not list((tmp_path / "precious").iterdir())


def test_evaluation_gets_the_checkpoint_and_may_save_a_model(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:count_and_evaluate", budget={"trials": 1, "epochs": 2})
    all_events(start(sweep, tmp_path), 2)
    checkpoint = tmp_path / "trials/0000/attempt-001-step-00000002/files"
    event = start(sweep, tmp_path, evaluate=True).next_event()
    assert event.evaluation == {"test_score": 2.0}, event
    assert (tmp_path / "evaluated").read_text() == f"{checkpoint} None"
    task = Task(0, {"height": 0.9, "plain": True}, evaluate=True)
    for _ in range(2):
        event = TaskRunner(WorkerContext(sweep, SweepFolder(tmp_path)), task).next_event()
        assert event.evaluation == {"test_score": 2.0}, event
    model = tmp_path / "trials/0000/model/attempt-001-step-00000002/files"
    assert (tmp_path / "evaluated").read_text() == f"{checkpoint} {model}"
    assert (model / "files/weights").read_text() == "weights"


def test_final_task_compares_the_classes_that_two_models_predict(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """The trials make 20 and 50 mistakes; the labels that the second gets wrong begin with those of the first."""
    budget = {"trials": 2, "epochs": 1}
    sweep = make_sweep(trainable="tests.samples:predict_with_mistakes", dataset={"type": "digits"}, budget=budget)
    context = WorkerContext(sweep, SweepFolder(tmp_path), data=sweep.dataset and sweep.dataset.load())
    for number, height in enumerate((0.2, 0.5)):
        run = TaskRunner(context, Task(number, {"height": height}))
        assert run.next_event().report is not None
        run.stop()
    ask = Task(0, {"height": 0.2}, rival=(1, {"height": 0.5}, 1), recorded=1)
    assert context.data is not None
    samples = len(context.data.y_val)
    for evaluate in (False, True):
        event = TaskRunner(context, replace(ask, evaluate=evaluate)).next_event()
        assert event.compared == McNemar("", samples, 30, 0) and event.failure is None
        assert event.evaluation == ({"test_score": 0.2} if evaluate else None)
    event = TaskRunner(context, replace(ask, evaluate=True, rival=(7, {"height": 0.5}, 1))).next_event()
    assert event.evaluation == {"test_score": 0.2}, "it is not lost"
    assert event.compared is not None and "trial 7 has no usable checkpoint" in event.compared.missing


def test_evaluation_of_a_trial_whose_files_were_deleted_leaves_no_traceback(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    """They are when another trial becomes the best one meanwhile: nothing has failed then."""
    sweep = make_sweep(trainable="tests.samples:count_and_evaluate", budget={"trials": 1, "epochs": 2})
    failure = start(sweep, tmp_path, evaluate=True).next_event().failure
    assert failure is not None and "trial 0 has no usable checkpoint or model" in failure.reason
    assert not list((tmp_path / "trials").iterdir())


def test_evaluation_that_fails_leaves_its_traceback(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:count_and_evaluate", budget={"trials": 1, "epochs": 2})
    all_events(start(sweep, tmp_path), 2)
    for damaged in (tmp_path / "trials/0000").glob("*/files/count"):
        damaged.write_text("something else")
    failure = start(sweep, tmp_path, evaluate=True).next_event().failure
    assert failure is not None and "trial 0 has no usable checkpoint or model" in failure.reason
    assert "Traceback" in (tmp_path / "trials/0000/error.txt").read_text()


def test_last_report_waits_until_the_model_is_saved(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:fit_and_save", budget={"trials": 1, "epochs": 2}), tmp_path)
    assert run.next_event().report is not None and not (tmp_path / "trials/0000/model").exists()
    last = run.next_event()
    assert last.report is not None and last.report.step == 2
    assert [path.name for path in (tmp_path / "trials/0000/model").iterdir()] == ["attempt-001-step-00000002"]
    run.stop()


def test_model_that_a_trainable_returns_is_saved(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:return_model", budget={"trials": 1, "epochs": 2})
    assert [event.report.step for event in all_events(start(sweep, tmp_path), 2) if event.report] == [1, 2]
    (files,) = (tmp_path / "trials/0000/model").glob("*/files")
    assert "sklearn" in (files / "MLmodel").read_text()


def test_other_things_that_a_trainable_returns_are_ignored(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:return_history", budget={"trials": 1, "epochs": 2})
    assert all(event.report and event.notice is None for event in all_events(start(sweep, tmp_path), 2))
    assert not (tmp_path / "trials/0000/model").exists()


def test_task_to_retrain_calls_the_function_for_it(make_sweep: MakeSweep, tmp_path: Path) -> None:
    data = {"type": "digits", "train": 20, "validation": 10, "test": 5}
    sweep = make_sweep(trainable="tests.samples:count_samples", budget={"trials": 1, "epochs": 1}, dataset=data)
    for name, options, samples in (("plain", {}, "20"), ("again", {"retrain": True}, "30")):
        (tmp_path / name).mkdir()
        all_events(start(sweep, tmp_path / name, **options), 1)
        (file,) = (tmp_path / name / "trials/0000/model").glob("*/files/files/count")
        assert file.read_text() == samples


def test_failure_after_the_last_report_is_a_notice_and_the_report_counts(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:fail_after_the_last_report", budget={"trials": 1, "epochs": 2})
    first, notice, last = all_events(start(sweep, tmp_path), 3)
    assert first.report is not None and last.report is not None and last.report.step == 2
    assert notice.notice is not None
    assert notice.notice.startswith("Its code failed after the last report (TypeError: trial.save_model cannot save a ")
    assert "(samples.py:" in notice.notice and "Traceback" in (tmp_path / "trials/0000/error.txt").read_text()


def test_stopped_trial_saves_no_model_in_its_finally_block(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:save_in_finally", budget={"trials": 1, "epochs": 2})
    run = start(sweep, tmp_path)
    run.next_event()
    run.stop()
    assert not (tmp_path / "trials/0000/model").exists()
    assert [event.report.step for event in all_events(start(sweep, tmp_path, attempt=2), 2) if event.report] == [1, 2]
    assert (tmp_path / "trials/0000/model").exists()


def test_trial_that_lacks_only_its_model_is_called_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:fit_and_save", budget={"trials": 1, "epochs": 3})
    (tmp_path / "trials").mkdir()
    WorkerContext(sweep, SweepFolder(tmp_path)).checkpoints(0).save(3, {"score": 1.0}, lambda folder: None)
    report = start(sweep, tmp_path, attempt=2).next_event().report
    assert report is not None and report.step == 3
    assert (tmp_path / "trials/0000/model/attempt-002-step-00000003/files/MLmodel").exists()


def test_trial_may_prune_itself(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:prune_itself"), tmp_path)
    first, last = all_events(run, 2)
    assert first.report is not None and last.is_pruned and last.failure is None


def test_wrong_report_is_blamed_on_the_line_of_the_user(make_sweep: MakeSweep, tmp_path: Path) -> None:
    failure = start(make_sweep(trainable="tests.samples:report_text"), tmp_path).next_event().failure
    assert failure is not None and "(samples.py:" in failure.reason


def test_metric_that_is_no_number_fails_the_trial(make_sweep: MakeSweep, tmp_path: Path) -> None:
    failure = start(make_sweep(trainable="tests.samples:report_text"), tmp_path).next_event().failure
    assert failure is not None and "metric 'score' is not a number: 'high' (str)" in failure.reason


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("metrics", "a report has 100000 metrics; 1000 at most"),
        ("name", "a metric's name has 1000000 characters ('nnnnnnnnnnnnnnnnnnnn'...); 250 at most"),
        ("message", "ValueError: mmm"),
        ("silence", "Silent: its message cannot be read"),
    ],
)
def test_oversized_report_or_message_fails_the_trial(
    make_sweep: MakeSweep, tmp_path: Path, kind: str, reason: str
) -> None:
    context = WorkerContext(make_sweep(trainable="tests.samples:flood"), SweepFolder(tmp_path))
    failure = TaskRunner(context, Task(0, {"kind": kind})).next_event().failure
    assert failure is not None and reason in failure.reason and len(failure.reason) < 400
    assert (tmp_path / "trials/0000/error.txt").stat().st_size < 101_000


def test_resumed_trial_sends_the_report_of_its_checkpoint_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 1, "epochs": 4})
    first = start(sweep, tmp_path)
    for _ in range(2):
        first.next_event()
    first.stop()
    again = all_events(start(sweep, tmp_path, attempt=2), 3)
    assert [event.report.step for event in again if event.report] == [2, 3, 4]


@pytest.mark.parametrize(
    ("damaged", "steps", "consequence"),
    [
        (1, [1, 2], "The trial resumes from report 1."),
        (2, [1, 2], "The trial has no other checkpoint and starts again."),
    ],
)
def test_trial_resumes_from_the_newest_checkpoint_that_is_not_damaged(
    make_sweep: MakeSweep, tmp_path: Path, damaged: int, steps: list[int], consequence: str
) -> None:
    sweep = make_sweep(trainable="tests.samples:slow_count", budget={"trials": 1, "epochs": 4})
    first = start(sweep, tmp_path)
    for _ in range(2):
        first.next_event()
    first.stop()
    for folder in sorted((tmp_path / "trials/0000").glob("attempt-*"))[-damaged:]:
        (folder / "files" / "count").write_bytes(b"")
    notice, *reports = all_events(start(sweep, tmp_path, attempt=2), 3)
    assert notice.notice is not None and notice.notice.endswith(consequence)
    assert "Checkpoint attempt-001-step-00000002 is damaged (wrong sha256: count)." in notice.notice
    assert [event.report.step for event in reports if event.report] == steps


def test_task_survives_the_way_through_a_config() -> None:
    task = Task(3, {"units": 8, "cell": "lstm"}, attempt=2)
    assert task_from(as_config(task)) == task


def test_seeds_differ_between_trials_and_sweeps_and_never_change() -> None:
    assert len({trial_seed(sweep, number) for sweep in range(10) for number in range(50)}) == 500
    assert trial_seed(0, 0) == 2968811710


@pytest.mark.parametrize("reports", [1, 3])
def test_reports_after_the_last_are_dropped(make_sweep: MakeSweep, tmp_path: Path, reports: int) -> None:
    run = start(make_sweep(trainable="tests.samples:go_on_too_long", budget={"trials": 1, "epochs": reports}), tmp_path)
    assert [event.report.step for event in all_events(run, reports) if event.report] == list(range(1, reports + 1))
    assert not run._thread.is_alive()


def test_trial_without_data_loads_it_once_per_process(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(dataset={"type": "digits"})
    trials = [start(sweep, tmp_path)._prepare()[2] for _ in range(2)]
    assert trials[0].data is trials[1].data
    assert trials[0].data.name == "digits"


def test_trial_of_a_sweep_without_a_dataset_has_no_data(make_sweep: MakeSweep, tmp_path: Path) -> None:
    trial = start(make_sweep(), tmp_path)._prepare()[2]
    with pytest.raises(InputError, match="the sweep names none"):
        _ = trial.data


def test_trial_that_lacks_only_its_last_report_is_not_trained_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    context = WorkerContext(
        make_sweep(trainable="tests.samples:leave", budget={"trials": 1, "epochs": 3}), SweepFolder(tmp_path)
    )
    (tmp_path / "trials").mkdir()
    context.checkpoints(0).save(3, {"score": 1.0}, lambda folder: None)
    run = TaskRunner(context, Task(0, {"height": 1.0}, attempt=2))
    report = run.next_event().report
    assert report is not None and report.step == 3
    assert replace(run.next_event(), has_threads=False) == Event()  # other tests may have left threads


def test_trial_works_ahead_until_its_report_is_answered(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:work_ahead"), tmp_path)
    run.next_event()
    time.sleep(0.5)
    report = run.next_event().report
    assert report is not None and 10 < report.metrics["calls"] < 1000
    run.stop()
    assert not run._thread.is_alive()


def test_trial_does_not_work_ahead_where_it_may_pause(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(trainable="tests.samples:work_ahead", pruner={"type": "promotion", "min_epochs": 2})
    assert sweep.chosen_pruner.pauses(sweep.budget)[0] == 2
    run = start(sweep, tmp_path)
    reports = []
    for _ in range(3):
        reports.append(run.next_event().report)
        time.sleep(0.1)
    run.stop()
    assert [report.metrics["calls"] > 0 for report in reports if report] == [False, True, False]


def cpus_of(events: list[Event]) -> list[int | None]:
    return [event.report.cpus for event in events if event.report]


def test_trial_uses_more_cpus_from_the_report_on_at_which_it_may(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:report_cpus"), tmp_path)
    events = [run.next_event()]
    run.allow(3)
    events += [run.next_event(), run.next_event()]
    run.allow(1)
    events += all_events(run, 1)
    assert cpus_of(events) == [1, 3, 3, 1]
    assert [event.report.metrics["cpus"] for event in events if event.report] == [1, 3, 3, 1]


def test_reports_that_are_recorded_are_computed_again_by_as_many_cpus(make_sweep: MakeSweep, tmp_path: Path) -> None:
    run = start(make_sweep(trainable="tests.samples:report_cpus"), tmp_path, recorded=5, cpus=((2, 4), (4, 2)))
    events = [run.next_event()]
    run.allow(3)
    assert cpus_of(events + all_events(run, 5)) == [1, 4, 4, 2, 2, 3]
