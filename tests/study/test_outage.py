from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest

from sweeper.core.errors import LeaseLostError, StoppedError, StopReason, StorageError
from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.spec import Sweep
from sweeper.study.lease import Lease, find_holder
from sweeper.study.open import open_study
from sweeper.study.storage.outage import DatabaseOutage
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]
Moment = Literal["before", "after"]


class Watcher:
    """Listener that remembers the last record of each trial and all messages."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.rows: dict[int, TrialRecord] = {}

    def on_trial(self, row: TrialRecord, report: Report | None) -> None:
        self.rows[row.number] = row

    def on_phase(self, message: str) -> None:
        self.phases.append(message)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseOutage, "BACKOFF_S", (0.05,))
    monkeypatch.setattr(DatabaseOutage, "QUIET_S", 0.2)


def database_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("something is the matter")
    error.sqlite_errorcode = code
    return error


def break_commits(study: SweepStudy, moment: Moment, code: int = sqlite3.SQLITE_FULL, share: float = 0.3) -> None:
    """Make this share of the driver's commits fail, before the commit or after it."""
    dialect, main, rng = study._database.engine.dialect, threading.current_thread(), random.Random(0)
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        fails = threading.current_thread() is main and rng.random() < share
        if not fails or moment == "after":
            commit(connection)
        if fails:
            raise database_error(code)

    dialect.do_commit = do_commit  # type: ignore[method-assign]


def story(study: SweepStudy) -> None:
    """Run trials that complete, are pruned, fail for good, and fail and are retried."""
    while not study.is_exhausted() or study.running():
        if not study.has_next():
            time.sleep(0.05)
            continue
        row = study.ask()
        for step in range(1, study.sweep.budget.reports + 1):
            if row.number == 2 and step == 1:
                study.fail(2, Failure("error", "it was too high"))
                break
            if row.number == 3 and step == 1 and not study.attempts().get(3, []):
                study.fail(3, Failure("node", "its node was lost"))
                break
            if study.report(row.number, Report(step, 0.0, {"score": row.params["height"] * step}), node="here"):
                if study.row(row.number).state != "RUNNING":
                    break
    study.record_facts({"told": "all"})


def story_of_many(study: SweepStudy) -> None:
    """Run trials in rounds, in which all of them report together."""
    while not study.is_exhausted() or study.running():
        if study.has_next() and len(study.running()) < 4:
            study.ask_together(4 - len(study.running()))
        reports = [
            (row.number, Report(row.step + 1, 0.0, {"score": row.params["height"] * (row.step + 1)}), "here")
            for row in study.running()
            if row.number != 2 or row.step == 0
        ]
        if study.row(2).step == 1 and study.row(2).state == "RUNNING":
            study.fail(2, Failure("error", "it was too high"))
        study.report_together(reports)
    study.record_facts({"told": "all"})


def told(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (trial.number, trial.state.name, trial.params, trial.values, trial.intermediate_values)
        for trial in study.get_trials(deepcopy=False)
    ]


@pytest.mark.parametrize("run", [story, story_of_many], ids=["one_by_one", "together"])
@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_database_that_fails_repeatedly_ends_with_the_same_study(
    make_sweep: MakeSweep, moment: Moment, sampler: str, run: Callable[[SweepStudy], None]
) -> None:
    changes: dict[str, Any] = {"sampler": {"type": sampler}, "pruner": {"type": "median", "n_startup_trials": 2}}
    if sampler == "grid":
        changes["space"] = {"height": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.2}}
    studies = {}
    for name in ("calm", "troubled"):
        watcher = Watcher()
        with open_study(make_sweep(name=name, **changes), listeners=[watcher]) as study:
            if name == "troubled":
                break_commits(study, moment)
            run(study)
            assert {row.number: row.state for row in study.rows()} == {n: r.state for n, r in watcher.rows.items()}
            assert [len(study.reports(row.number)) for row in study.rows()] == [row.step for row in study.rows()]
            assert study.facts["told"] == "all"
        trials = told(optuna.load_study(study_name=name, storage=study.sweep.storage_url()))
        studies[name] = (trials, study.decisions(), [row.origin for row in study.rows()])
    assert studies["troubled"] == studies["calm"]
    assert {trial[1] for trial in trials} == {"COMPLETE", "FAIL", "PRUNED"} and study.decisions()


def test_trial_whose_first_answer_was_lost_is_asked_again(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        break_commits(study, "after", code=sqlite3.SQLITE_IOERR_FSYNC, share=1)
        with pytest.raises(StorageError):
            study.ask()
    with open_study(make_sweep()) as study:
        assert (study.resumed, study.ask().number) == (1, 0)


@contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Lock the file from another connection for this time."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(seconds, other.execute, ["ROLLBACK"])
    timer.start()
    yield
    timer.join()
    other.close()


def test_locked_database_is_retried_and_announced(make_sweep: MakeSweep, tmp_path: Path) -> None:
    watcher = Watcher()
    with open_study(make_sweep(), listeners=[watcher]) as study:
        number = study.ask().number
        with locked(tmp_path / "sweeper.db", 5.0):
            assert study.report(number, Report(1, 0.0, {"score": 0.5})) is Verdict.CONTINUE
        assert study.row(number).step == 1
    away, back = watcher.phases
    assert "is unavailable (locked by another process). Trials wait; retrying for up to 5 minutes." in away
    assert "is available again after" in back


def test_long_outage_ends_the_sweep_and_keeps_its_record(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatabaseOutage, "MAX_OUTAGE_S", 1.0)
    with open_study(make_sweep()) as study:
        number = study.ask().number
        study.report(number, Report(1, 0.0, {"score": 0.5}))
        with locked(tmp_path / "sweeper.db", 6.0):
            with pytest.raises(StorageError, match="was unavailable for .* Everything recorded is safe"):
                study.report(number, Report(2, 0.0, {"score": 0.6}))
    with open_study(make_sweep()) as study:
        assert study.ask().step == 1


EXIT_CODES = {
    StopReason.INTERRUPTED: 130,
    StopReason.TERMINATED: 143,
    StopReason.TIMEOUT: 0,
    StopReason.BUDGET: 0,
    StopReason.COMMAND: 0,
    StopReason.REPEATED_FAILURE: 1,
}


@pytest.mark.parametrize("reason", StopReason)
def test_stop_during_an_outage_exits_with_the_code_of_its_reason(make_sweep: MakeSweep, reason: StopReason) -> None:
    with open_study(make_sweep(), stop_reason=lambda: reason) as study:
        number = study.ask().number
        break_commits(study, "before", share=1)
        with pytest.raises(
            StoppedError, match=f"{reason.value} while the study's database .* was unavailable"
        ) as stopped:
            study.report(number, Report(1, 0.0, {"score": 0.5}))
    assert stopped.value.exit_code == reason.exit_code == EXIT_CODES[reason]


def test_signal_stops_the_wait_for_a_locked_database(make_sweep: MakeSweep, tmp_path: Path) -> None:
    asked = threading.Event()
    with open_study(make_sweep(), stop_reason=lambda: StopReason.INTERRUPTED if asked.is_set() else None) as study:
        number = study.ask().number
        threading.Timer(1.0, asked.set).start()
        with locked(tmp_path / "sweeper.db", 5.0):
            began = time.monotonic()
            with pytest.raises(StoppedError, match="was unavailable .locked by another process"):
                study.report(number, Report(1, 0.0, {"score": 0.5}))
            assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CORRUPT])
def test_failing_disk_ends_the_sweep_at_once(make_sweep: MakeSweep, code: int) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        break_commits(study, "before", code, share=1)
        with pytest.raises(StorageError, match="The sweep stops, to protect what is recorded"):
            study.report(number, Report(1, 0.0, {"score": 0.5}))
        assert study.row(number).step == 0 and study.reports(number) == []


def test_owner_that_lost_its_lease_cannot_write_a_row(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        study.report(number, Report(1, 0.0, {"score": 0.5}))
        engine = study._database.engine
        taker = Lease(engine, study.name)
        assert taker._take(find_holder(engine, study.name))
        for write in (
            lambda: study.report(number, Report(2, 0.0, {"score": 0.5})),
            study.ask,
            lambda: study.finish(number),
            lambda: study.fail(number, Failure("crash", "its worker died")),
            lambda: study.record_facts({"mine": True}),
        ):
            with pytest.raises(
                LeaseLostError, match="Process .* took over sweep 'climbing', so this process lost the lease"
            ):
                write()
        with pytest.raises(LeaseLostError):
            study.require_lease()
        taker.renew(engine.connect())
    kept = optuna.load_study(study_name="climbing", storage=study.sweep.storage_url())
    assert [(trial.state.name, trial.intermediate_values) for trial in kept.trials] == [("RUNNING", {1: 0.5})]
    assert "mine" not in kept.user_attrs.get("facts", {})


def test_moved_database_file_is_not_written_to(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with open_study(make_sweep()) as study:
        number = study.ask().number
        (tmp_path / "sweeper.db").rename(tmp_path / "moved.db")
        with pytest.raises(StorageError, match="was removed or replaced; stopping"):
            study.report(number, Report(1, 0.0, {"score": 0.5}))
