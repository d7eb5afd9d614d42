from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.tracking import Projection
from sweeper.tracking.client import connect
from sweeper.tracking.projection import MAX_TURN_S
from tests.tracking.tools import (
    RecordedStudy,
    assert_equal,
    four_trials,
    history,
    sweep_run,
    trial_runs,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture
def projecting(uri: str, study: RecordedStudy) -> Iterator[Projection]:
    projection = Projection(study.sweep, uri)
    study.listeners = (projection,)
    projection.start(study)
    yield projection
    projection.close(10)


def test_projection_copies_trials_as_they_happen(uri: str, study: RecordedStudy, projecting: Projection) -> None:
    study.begin(0)
    assert projecting.flush(20)
    assert_equal(uri, study)
    study.report(0, 0.1, loss=2.0)
    study.report(0, 0.2, loss=1.0)
    assert projecting.flush(20)
    assert_equal(uri, study)
    assert sweep_run(uri, study).info.status == "RUNNING"
    study.report(0, 0.3, loss=0.5)
    study.end(0)
    study.trial(1, 0.5, 0.5, state="PRUNED", reason="pruned after epoch 2")
    study.trial(2, 0.5, 0.6, 0.7)
    study.trial(3, state="FAIL", reason="ended without a report of 'score'")
    assert projecting.close(20)
    assert_equal(uri, study)
    assert history(uri, trial_runs(uri, study)[0], "loss") == [
        (report.step, report.metrics["loss"], int(report.time * 1000)) for report in study.reports(0)
    ]


def test_run_deleted_by_hand_is_written_again(uri: str, study: RecordedStudy, projecting: Projection) -> None:
    study.trial(0, 0.1, 0.2, state="RUNNING")
    assert projecting.flush(20)
    connect(uri).delete_run(trial_runs(uri, study)[0].info.run_id)
    study.report(0, 0.3)
    study.end(0)
    assert projecting.close(20)
    assert_equal(uri, study)


def test_trial_that_mlflow_refuses_does_not_block_the_others(
    uri: str, study: RecordedStudy, projecting: Projection, caplog: pytest.LogCaptureFixture
) -> None:
    study.begin(0)
    study.report(0, 0.1, **{f"m{number}": 0.0 for number in range(3)})
    study._reports[0][0] = type(study._reports[0][0])(1, -5.0, {"score": 0.1})
    study.trial(1, 0.1, 0.2, 0.3)
    projecting.flush(20)
    assert projecting.close(20)
    assert history(uri, trial_runs(uri, study)[1]) != []
    assert "MLflow refuses trial 0" in caplog.text


def test_locked_store_delays_no_trial_and_gets_everything_later(
    uri: str, study: RecordedStudy, projecting: Projection
) -> None:
    assert projecting.flush(20)
    path = uri.removeprefix("sqlite:///")
    blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(3.0, blocker.close)
    timer.start()
    four_trials(study)
    assert timer.is_alive()
    timer.join()
    assert projecting.close(30)
    assert_equal(uri, study)


def test_deleted_store_is_reported_in_one_line(
    uri: str,
    study: RecordedStudy,
    projecting: Projection,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study.trial(0, 0.1)
    assert projecting.flush(20)
    path = Path(uri.removeprefix("sqlite:///"))
    path.unlink()
    study.trial(1, 0.2)
    assert not projecting.flush(20)
    study.trial(2, 0.3)
    assert not projecting.close(20)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"MLflow at {uri} does not answer (its file was removed or replaced). The sweep continues; "
        "`sweeper sync climbing` delivers what is missing."
    ]
    assert capfd.readouterr().err == ""
    assert not path.exists()


def test_libraries_of_mlflow_log_no_tracebacks(uri: str) -> None:
    connect(uri)
    for library in ("mlflow.store.db.utils", "alembic.runtime.migration", "sqlalchemy.pool.impl.QueuePool"):
        assert not logging.getLogger(library).isEnabledFor(logging.ERROR)


def test_unreachable_server_costs_the_driver_nothing(study: RecordedStudy, caplog: pytest.LogCaptureFixture) -> None:
    uri = "http://me:canary@127.0.0.1:9"
    projection = Projection(study.sweep, uri)
    study.listeners = (projection,)
    started = time.monotonic()
    projection.start(study)
    four_trials(study)
    assert time.monotonic() - started < 5
    assert not projection.flush(20)
    assert not projection.close(10)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [
        "MLflow at http://me:***@127.0.0.1:9 does not answer (connection refused). "
        "The sweep continues; `sweeper sync climbing` delivers what is missing."
    ]


def test_other_threads_get_pythons_lock_soon_until_it_is_closed(uri: str, study: RecordedStudy) -> None:
    before = sys.getswitchinterval()
    projection = Projection(study.sweep, uri)
    projection.start(study)
    assert projection.flush(20)
    assert sys.getswitchinterval() == pytest.approx(MAX_TURN_S)
    assert projection.close(20)
    assert sys.getswitchinterval() == pytest.approx(before)


def test_projection_that_never_started_can_be_closed(study: RecordedStudy, uri: str) -> None:
    assert Projection(study.sweep, uri).close()


def test_stopped_sweep_resumes_in_the_same_runs(uri: str, study: RecordedStudy) -> None:
    study.trial(0, 0.1, 0.2, state="RUNNING")
    first = Projection(study.sweep, uri)
    first.start(study)
    assert first.close(20)
    assert sweep_run(uri, study).info.status == "KILLED"
    second = Projection(study.sweep, uri)
    study.listeners = (second,)
    second.start(study)
    study.change(0, attempt=2)
    assert second.flush(20)
    assert sweep_run(uri, study).info.status == "RUNNING"
    assert trial_runs(uri, study)[0].data.tags["sweeper.attempt"] == "2"
    study.report(0, 0.3)
    study.end(0)
    assert second.close(20)
    assert_equal(uri, study)


def test_waiting_projection_opens_its_store_at_the_first_report(study: RecordedStudy, tmp_path: Path) -> None:
    path = tmp_path / "later.db"
    uri = f"sqlite:///{path}"
    projection = Projection(study.sweep, uri)
    study.listeners = (projection,)
    projection.start(study, first_report_wait_s=60.0)
    study.begin(0)
    time.sleep(0.5)
    assert not path.exists()
    study.report(0, 0.1)
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()
    assert projection.close(30)
    assert_equal(uri, study)


def test_waiting_projection_is_closed_without_a_report(uri: str, study: RecordedStudy) -> None:
    projection = Projection(study.sweep, uri)
    projection.start(study, first_report_wait_s=60.0)
    assert projection.close(20)
    assert_equal(uri, study)
