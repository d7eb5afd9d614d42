from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from sweeper.cli.main import main
from sweeper.core.errors import TrackingError
from sweeper.spec import Sweep
from sweeper.tracking import Link, start_ui, sweep_links, sync
from sweeper.tracking.client import connect
from tests.tracking.tools import RecordedStudy, sweep_run, trial_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture
def shown(make_sweep: Callable[..., Sweep], uri: str) -> RecordedStudy:
    study = RecordedStudy(make_sweep(tracking={"experiment": "shown", "model": "rnn"}))
    for number, value in enumerate([0.5, 0.3, 0.7]):
        study.trial(number, value)
    sync(study, uri)
    return study


@pytest.mark.long
def test_ui_serves_its_store_and_stops_with_all_its_processes(shown: RecordedStudy, uri: str) -> None:
    ui = start_ui(uri)
    try:
        assert ui.url.startswith("http://127.0.0.1:")
        with urlopen(ui.url) as page:
            assert b"MLflow" in page.read()
        assert sync(shown, ui.url) == 0
    finally:
        ui.stop()
    assert not ui.is_running()
    with pytest.raises(OSError):
        urlopen(f"{ui.url}/health", timeout=2)


@pytest.mark.long
def test_ui_answers_only_this_machine_and_runs_no_jobs(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")  # which sweeper overrides
    ui = start_ui(uri)
    create = "api/2.0/mlflow/experiments/create"
    try:
        assert ui.process is not None
        family = [psutil.Process(ui.process.pid), *psutil.Process(ui.process.pid).children(recursive=True)]
        ports = [place.laddr.ip for process in family for place in process.net_connections("inet")]
        assert set(ports) == {"127.0.0.1"}
        assert _answer(ui.url) == 200
        assert _answer(ui.url, host="localhost:5000") == 200  # a tunnel to this machine
        for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.5", "10.0.0.1:5000"):  # DNS rebinding
            assert _answer(ui.url, host=host) == 403
        assert _answer(f"{ui.url}/{create}", {"name": "x"}, origin="http://evil.example") == 403
        for place in ("http://169.254.169.254/", "ftp://evil.example/x", "https://evil.example/x"):
            assert _answer(f"{ui.url}/{create}", {"name": place, "artifact_location": place}) == 400
        for path in ("get-artifact?path=../../etc/passwd&run_uuid=x", "api/2.0/mlflow-artifacts/artifacts?path=../../"):
            assert _answer(f"{ui.url}/{path}") == 400
        assert _answer(f"{ui.url}/ajax-api/3.0/jobs", {"job_name": "x", "params": {}}) in (404, 405)
    finally:
        ui.stop()


def _answer(url: str, body: dict[str, str] | dict[str, object] | None = None, **headers: str) -> int:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_links_show_the_trials_in_charts_and_sorted(shown: RecordedStudy, uri: str) -> None:
    runs, parent = trial_runs(uri, shown), sweep_run(uri, shown)
    links = sweep_links(shown, uri, "http://127.0.0.1:5000/")
    charts = _url(links, "the trials in charts")
    assert charts.startswith("http://127.0.0.1:5000/#/experiments/")
    assert f"?viewStateShareKey=sweeper-{shown.id}&compareRunsMode=CHART&" in charts
    assert parent.info.run_id in _url(links, "the sweep")
    assert runs[2].info.run_id in _url(links, "the best trial")
    assert "/#/models/rnn?" in _url(links, "the model and its champion")
    assert all(link.url.endswith("workflowType=machine_learning") for link in links)
    assert not any("compare" in link.url for link in links if link.title != "the trials in charts")


def test_table_of_trials_shows_metric_parameters_and_state(shown: RecordedStudy, uri: str) -> None:
    key = f"sweeper-{shown.id}"
    assert f"?viewStateShareKey={key}&" in _url(sweep_links(shown, uri, "http://h"), "all trials, best first")
    experiment = connect(uri).get_experiment_by_name("shown")
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{sweep_run(uri, shown).info.run_id}'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`score`", False)
    assert view["selectedColumns"][:3] == ["metrics.`score`", "tags.`sweeper.state`", "params.`height`"]


def test_links_to_missing_models_and_trials_are_left_out(make_sweep: Callable[..., Sweep], uri: str) -> None:
    study = RecordedStudy(make_sweep())
    study.trial(0, 0.5, state="FAIL")
    sync(study, uri)
    assert [link.title for link in sweep_links(study, uri, "http://h")] == [
        "the trials in charts",
        "all trials, best first",
        "the sweep",
    ]


def test_links_contain_no_password(shown: RecordedStudy, uri: str) -> None:
    links = sweep_links(shown, uri, "https://me:canary@host")
    assert all(link.url.startswith("https://host/#/") for link in links)


def test_links_to_an_unknown_sweep_are_refused_with_a_remedy(make_sweep: Callable[..., Sweep], uri: str) -> None:
    with pytest.raises(TrackingError, match="sweeper sync unheard"):
        sweep_links(RecordedStudy(make_sweep(name="unheard")), uri, "http://127.0.0.1:5000")


def test_ui_of_a_server_is_that_server() -> None:
    ui = start_ui("https://mlflow.example.com/")
    assert (ui.url, ui.process, ui.is_running()) == ("https://mlflow.example.com", None, True)
    ui.stop()


def test_port_that_is_taken_is_refused_at_once(uri: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TrackingError, match="is not free"):
        start_ui(uri, taken.getsockname()[1])


@pytest.mark.parametrize("port", ["-1", "0", "65536", "70000", "1e3"])
def test_port_that_is_none_is_refused(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--port", port]) == 2
    assert "Invalid value for '--port': Input should be" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_ui_that_cannot_start_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(TrackingError, match="file is not a database"):
        start_ui(f"sqlite:///{tmp_path}/mlflow.db", start_timeout_s=60)


def _url(links: list[Link], title: str) -> str:
    return next(link.url for link in links if link.title == title)
