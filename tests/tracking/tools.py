"""Tools of the tracking tests: a study in memory, the contents of MLflow, a server and a network that fail."""

from __future__ import annotations

import itertools
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from sweeper.core.confirmation import Confirmation
from sweeper.core.trials import Listener, Report, TrialRecord, best_trial
from sweeper.spec import Sweep
from sweeper.tracking import start_ui

START = datetime(2026, 1, 1, tzinfo=UTC)
DATASET: dict[str, Any] = {
    "name": "mnist",
    "digest": "ab" * 32,
    "source": "mnist.npz",
    "train": 55000,
    "validation": 5000,
    "test": 10000,
}


class RecordedStudy:
    """A study in memory with the parts that are copied into MLflow."""

    def __init__(self, sweep: Sweep, *listeners: Listener) -> None:
        self.sweep, self.name, self.listeners = sweep, sweep.name, listeners
        self.id = uuid4().hex
        self.facts: dict[str, Any] = {"dataset": DATASET}
        self.confirmed: Confirmation | None = None
        self._rows: dict[int, TrialRecord] = {}
        self._reports: dict[int, list[Report]] = {}
        self._seconds = itertools.count()

    @property
    def trial_limit(self) -> int:
        return self.sweep.trial_limit

    def rows(self, *, with_fresh: bool = False) -> list[TrialRecord]:
        rows = [self._rows[number] for number in sorted(self._rows)]
        return [row for row in rows if with_fresh or row.confirms is None]

    def best(self) -> TrialRecord | None:
        if self.confirmed is not None and self.confirmed.best is not None:
            return self._rows[self.confirmed.best.trial]
        return best_trial(self.rows(), self.sweep.objective.direction)

    def confirmation(self) -> Confirmation | None:
        return self.confirmed

    def reports(self, number: int) -> list[Report]:
        return list(self._reports.get(number, []))

    def now(self) -> datetime:
        return START + timedelta(seconds=next(self._seconds))

    def begin(self, number: int, **params: Any) -> None:
        self._tell(TrialRecord(number, "RUNNING", params or {"height": 0.5}, started=self.now()))

    def report(self, number: int, value: float, **others: float) -> None:
        row = self._rows[number]
        report = Report(row.step + 1, self.now().timestamp() + 0.125, {"score": value, **others})
        self._reports.setdefault(number, []).append(report)
        self._tell(replace(row, step=report.step, value=value, node="node-1"), report)

    def end(self, number: int, state: str = "COMPLETE", reason: str | None = None) -> None:
        self._tell(replace(self._rows[number], state=state, reason=reason, ended=self.now()))

    def change(self, number: int, **changes: Any) -> None:
        self._tell(replace(self._rows[number], **changes))

    def trial(self, number: int, *values: float, state: str = "COMPLETE", reason: str | None = None) -> None:
        """Add a trial with these values."""
        self.begin(number)
        for value in values:
            self.report(number, value, loss=1 - value)
        if state != "RUNNING":
            self.end(number, state, reason)

    def _tell(self, row: TrialRecord, report: Report | None = None) -> None:
        self._rows[row.number] = row
        for listener in self.listeners:
            listener.on_trial(row, report)


def four_trials(study: RecordedStudy) -> None:
    """Add a trial of each final state, and one more."""
    study.trial(0, 0.1, 0.2, 0.3)
    study.trial(1, 0.2, 0.1, state="PRUNED", reason="pruned after epoch 2")
    study.trial(2, 0.4, 0.5, 0.6)
    study.trial(3, 0.1, state="FAIL", reason="ValueError: too high (samples.py:27)")


STATUS = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


def runs_of(uri: str, study: RecordedStudy) -> list[Any]:
    """Return all runs of a sweep, read with MLflow's own client."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study.sweep.tracking.experiment)
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], f"tags.`sweeper.id` = '{study.id}'"))


def trial_runs(uri: str, study: RecordedStudy) -> dict[int, Any]:
    runs = [run for run in runs_of(uri, study) if "sweeper.trial" in run.data.tags]
    by_number = {int(run.data.tags["sweeper.trial"]): run for run in runs}
    assert len(by_number) == len(runs), "two runs of one trial"
    return by_number


def sweep_run(uri: str, study: RecordedStudy) -> Any:
    (run,) = [run for run in runs_of(uri, study) if "sweeper.trial" not in run.data.tags]
    return run


def history(uri: str, run: Any, metric: str = "score") -> list[tuple[int, float, int]]:
    from mlflow import MlflowClient

    points = MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def assert_equal(uri: str, study: RecordedStudy) -> None:
    """Assert that MLflow has everything of the study, once."""
    runs = trial_runs(uri, study)
    assert sorted(runs) == [row.number for row in study.rows()]
    parent = sweep_run(uri, study)
    for row in study.rows():
        run = runs[row.number]
        assert run.info.status == STATUS[row.state]
        assert run.data.tags["sweeper.state"] == row.state
        assert run.data.tags.get("sweeper.reason", "") == (row.reason or "")
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert set(run.data.params) >= set(row.params)
        expected = [(r.step, r.metrics["score"], int(r.time * 1000)) for r in study.reports(row.number)]
        assert history(uri, run) == expected


class Server:
    """MLflow server that can be killed and restarted at the same address."""

    def __init__(self, folder: Path) -> None:
        self._store = f"sqlite:///{folder}/mlflow.db"
        self._ui = start_ui(self._store)
        self.url = self._ui.url
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        self._ui.stop()

    def start(self) -> None:
        self._ui = start_ui(self._store, self.port)


class Proxy:
    """TCP proxy in front of a server; it loses the answer to one request whose path contains `lose`."""

    def __init__(self, port: int) -> None:
        self.lose: str | None = None
        self.lost = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            answers = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            answers.start()
            while data := _receive(client):
                if self.lose is not None and self.lose.encode() in data.split(b"\r\n", 1)[0]:
                    self._swallow(data + _rest_of(client, data))
                    return
                server.sendall(data)

    def _swallow(self, request: bytes) -> None:
        """Send the request to the server over another connection, and close the client's without an answer."""
        self.lose, self.lost = None, self.lost + 1
        with socket.create_connection(("127.0.0.1", self._target)) as other:
            other.sendall(request)
            other.recv(65536)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        while data := _receive(server):
            try:
                client.sendall(data)
            except OSError:
                return


def _rest_of(client: socket.socket, request: bytes) -> bytes:
    """Return the rest of a request: clients send the body after the head."""
    head, _, body = request.partition(b"\r\n\r\n")
    sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing, rest = int(sizes[0]) - len(body) if sizes else 0, b""
    while len(rest) < missing:
        rest += client.recv(65536)
    return rest


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 20)
    except OSError:
        return b""
