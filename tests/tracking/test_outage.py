from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sweeper.core.errors import InputError, TrackingError
from sweeper.spec import Sweep
from sweeper.tracking import Projection, check_store, sync
from sweeper.tracking.client import connect
from tests.tracking.tools import Proxy, RecordedStudy, Server, assert_equal, runs_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def study(make_sweep: Callable[..., Sweep]) -> RecordedStudy:
    return RecordedStudy(make_sweep(budget={"trials": 3, "epochs": 3}))


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


_LONG = [pytest.param(f"runs/{verb}", marks=pytest.mark.long) for verb in ("log-batch", "update", "search")]


@pytest.mark.parametrize("request_lost", ["runs/create", *_LONG])
def test_lost_answer_duplicates_nothing_and_is_not_reported(
    server: Server, proxy: Proxy, study: RecordedStudy, request_lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    projection = Projection(study.sweep, proxy.url)
    study.listeners = (projection,)
    proxy.lose = request_lost
    projection.start(study)
    study.trial(0, 0.1, 0.2, 0.3)
    projection.flush(20)
    study.begin(1)
    proxy.lose = request_lost
    study.report(1, 0.5)
    study.end(1, "PRUNED", "pruned after epoch 1")
    study.trial(2, 0.4, 0.5, 0.6)
    assert projection.close(20)
    assert proxy.lost >= 1
    assert_equal(server.url, study)
    assert _warnings(caplog) == []


@pytest.mark.long
def test_server_that_dies_and_returns_has_everything_once(
    server: Server, study: RecordedStudy, caplog: pytest.LogCaptureFixture
) -> None:
    projection = Projection(study.sweep, server.url)
    study.listeners = (projection,)
    projection.start(study)
    study.trial(0, 0.1, 0.2, 0.3)
    study.begin(1)
    study.report(1, 0.1)
    assert projection.flush(20)
    server.kill()
    try:
        started = time.monotonic()
        study.report(1, 0.2)
        study.report(1, 0.3)
        study.end(1)
        study.trial(2, 0.4, state="FAIL", reason="ValueError: too high")
        assert time.monotonic() - started < 5
        assert not projection.flush(20)
    finally:
        server.start()
    assert _is_true_within(60, lambda: projection.flush(20))
    assert projection.close(20)
    assert_equal(server.url, study)
    unavailable, available = _warnings(caplog)
    assert "does not answer (connection refused). The sweep continues; `sweeper sync climbing` delivers" in unavailable
    assert "answers again: " in available and " records delivered." in available


@pytest.mark.long
def test_locked_local_store_is_reported_once_and_complete_afterwards(
    tmp_path: Path, study: RecordedStudy, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mlflow.db"
    projection = Projection(study.sweep, f"sqlite:///{file}")
    study.listeners = (projection,)
    projection.start(study)
    study.trial(0, 0.1, 0.2, 0.3)
    assert projection.flush(30)
    with closing(sqlite3.connect(file)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        study.trial(1, 0.2, 0.3, 0.4)
        study.trial(2, 0.4, 0.5, 0.6)
        assert time.monotonic() - started < 5
        assert _is_true_within(120, lambda: len(_warnings(caplog)) == 1)
        locker.rollback()
    assert _is_true_within(60, lambda: projection.flush(20))
    assert projection.close(20)
    assert_equal(f"sqlite:///{file}", study)
    locked, available = _warnings(caplog)
    assert "(database is locked)" in locked and "`sweeper sync climbing` delivers what is missing" in locked
    assert "answers again: " in available


def _is_true_within(seconds: float, claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_server_is_asked_for_the_experiment_before_it_is_used(server: Server) -> None:
    assert check_store(server.url, "not yet there") is None
    assert check_store(f"{server.url}/", "Default") is None
    with pytest.raises(TrackingError, match="is not MLflow .404"):
        check_store(f"{server.url}/wrong-prefix")
    client = connect(server.url)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="the experiment 'gone' was deleted"):
        check_store(server.url, "gone")


def test_two_projections_into_one_server_stay_separate(server: Server, make_sweep: Callable[..., Sweep]) -> None:
    studies = [RecordedStudy(make_sweep(name=name, budget={"trials": 2, "epochs": 3})) for name in ("left", "right")]
    projections = [Projection(study.sweep, server.url) for study in studies]
    for study, projection in zip(studies, projections, strict=True):
        study.listeners = (projection,)
        projection.start(study)
    for number in range(2):
        for study in studies:
            study.trial(number, 0.1, 0.2, 0.3)
    assert all(projection.close(20) for projection in projections)
    for study in studies:
        assert_equal(server.url, study)


@pytest.mark.long
def test_two_hundred_trials_are_copied_within_a_minute(server: Server, make_sweep: Callable[..., Sweep]) -> None:
    study = RecordedStudy(make_sweep(name="many", budget={"trials": 200, "epochs": 20}))
    for number in range(200):
        study.trial(number, *[step / 20 for step in range(20)])
    started = time.monotonic()
    sync(study, server.url)
    first = time.monotonic() - started
    started = time.monotonic()
    assert sync(study, server.url) == 0
    second = time.monotonic() - started
    print(f"200 trials x 20 reports: first {first:.1f} s, again {second:.1f} s")
    assert len(runs_of(server.url, study)) == 201
    assert first < 60 and second < 6
