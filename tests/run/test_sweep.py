"""Whole sweeps by the real command, with real TensorFlow, Ray and MLflow; only the data is small."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.core.trials import Report
from sweeper.driver.stop import StopSignal
from sweeper.run.report import log_page
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.study.view import StudyView
from sweeper.tracking import Registered
from tests.tracking.tools import Server

SPACE = """
name: small
dataset: {type: digits}
budget: {trials: 8, epochs: 3, reports_per_epoch: 2}
pruner: {type: median, n_startup_trials: 2, min_epochs: 0.5}
space:
  cell: {type: categorical, choices: [gru, simple_rnn]}
  units: {type: int, low: 4, high: 16}
  learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}
  batch_size: 64
tracking: {experiment: tests, model: small}
"""


def sweeper(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )


def environment() -> dict[str, str]:
    hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
    return {key: value for key, value in os.environ.items() if key not in hidden}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run a sweep to its end; return its folder and the finished command."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPACE)
    return folder, sweeper("run", "small.yaml", "--json", folder=folder)


Finished = tuple[Path, subprocess.CompletedProcess[str]]


def study_in(folder: Path, name: str = "small") -> StudyView:
    return read_study(name, f"sqlite:///{folder / 'sweeper.db'}")


def mlflow_runs(folder: Path) -> tuple[Any, dict[int, Any], Any]:
    """Return the client, the runs of the trials by number, and the run of the sweep."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = {int(run.data.tags["sweeper.trial"]): run for run in runs if "sweeper.trial" in run.data.tags}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(children) + 1 == len(runs)
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    return client, children, parent


def test_command_succeeds_and_prints_one_json_document(finished: Finished) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["counts"] == {
        state: sum(row.state == state for row in study_in(folder).rows()) for state in result["counts"]
    }
    assert sum(result["counts"].values()) == 8


def test_only_sweeper_writes_to_stderr(finished: Finished) -> None:
    _, done = finished
    for chatter in (
        "tensorflow",
        "WARNING",
        "Traceback",
        "ray::",
        "(raylet)",
        "mlflow.store",
        "INFO",
        "cuda",
        "oneDNN",
    ):
        assert chatter not in done.stderr


def test_study_and_mlflow_agree_trial_by_trial(finished: Finished) -> None:
    folder, _ = finished
    study = study_in(folder)
    client, children, _ = mlflow_runs(folder)
    rows = study.rows()
    assert sorted(children) == [row.number for row in rows]
    status = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
    for row in rows:
        run = children[row.number]
        assert run.info.status == status[row.state]
        assert run.data.tags["sweeper.sweep"] == "small"
        assert run.data.tags["sweeper.state"].upper().startswith(row.state[:4])
        assert {name: run.data.params[name] for name in row.params} == {k: str(v) for k, v in row.params.items()}
        reports = study.reports(row.number)
        assert [report.step for report in reports] == list(range(1, row.step + 1))
        for metric in reports[0].metrics:
            history = client.get_metric_history(run.info.run_id, metric)
            assert [(point.step, point.value) for point in history] == [
                (r.step, r.metrics[metric]) for r in reports if metric in r.metrics
            ]
        assert run.data.metrics["val_accuracy"] == row.value


def test_report_with_the_confusion_matrix_is_logged_with_the_sweep(finished: Finished) -> None:
    folder, done = finished
    client, _, parent = mlflow_runs(folder)
    page = Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text()
    assert page.startswith("<!doctype html>") and "could not be made" not in page
    assert 'id="figure-confusion"' in page and "small version 1 is the champion" in page
    assert f"test_accuracy {json.loads(done.stdout)['test']['test_accuracy']:.4g}" in page


def test_report_that_cannot_be_logged_is_only_a_note(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    began, uri = time.monotonic(), f"sqlite:///{tmp_path}/mlflow.db"
    with StopSignal(None) as stop, open_study(make_sweep(budget={"trials": 2, "epochs": 1})) as study:
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
        assert log_page(study, Registered(), uri, stop, began) == ()  # the sweep has not ended
        study.report(study.ask().number, Report(1, 2.0, {"score": 0.6}))
        (note,) = log_page(study, Registered(), uri, stop, began)
    why = f"MLflow at {uri} does not have sweep 'climbing'"
    assert note == f"MLflow has no report ({why}); `sweeper report climbing` makes one as a file"


def test_some_trials_are_pruned_and_the_savings_counted(finished: Finished) -> None:
    folder, done = finished
    rows = study_in(folder).rows()
    assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    text = json.dumps(json.loads(done.stdout))
    assert str(sum(row.step for row in rows)) in text


def test_champion_loads_with_pyfunc_and_predicts_as_measured(finished: Finished) -> None:
    folder, _ = finished
    script = """
import mlflow, numpy as np
from sweeper.datasets.catalog import Digits
mlflow.set_tracking_uri("sqlite:///mlflow.db")
arrays = Digits(type="digits").load()
model = mlflow.pyfunc.load_model("models:/small@champion")
scores = model.predict(arrays.x_test)
print("accuracy", float((np.asarray(scores).argmax(axis=1) == arrays.y_test).mean()))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    accuracy = float(answer.stdout.split("accuracy")[1])
    evaluation = json.loads((folder / "sweeps/small/champion/evaluation.json").read_text())
    assert accuracy == pytest.approx(evaluation["metrics"]["test_accuracy"], abs=1e-6)
    assert accuracy > 0.3
    outcome = study_in(folder).facts["outcome"]  # for `show`, where only the database is at hand
    assert outcome["test"] == evaluation["metrics"] and outcome["model"]["uri"] == "models:/small@champion"


def test_copied_project_has_a_champion_of_its_own_that_loads(finished: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    done = sweeper("run", "small.yaml", "--json", folder=copy)
    assert done.returncode == 0, done.stderr
    assert f"from now on files are kept in {copy}/mlartifacts" in done.stderr
    assert json.loads(done.stdout)["champion"]["reason"] == "as before"
    assert before == {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    script = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
print("loaded from", mlflow.artifacts.download_artifacts("models:/small@champion"))
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=copy, env=environment(), capture_output=True, text=True)
    assert f"loaded from {copy}/mlartifacts/" in answer.stdout, answer.stderr


def test_only_the_best_trial_keeps_a_checkpoint(finished: Finished) -> None:
    folder, _ = finished
    best = study_in(folder).best()
    assert best is not None
    kept = {path.parent.name for path in (folder / "sweeps/small/trials").glob("*/attempt-*")}
    assert kept == {f"{best.number:04d}"}


def test_same_command_on_a_finished_sweep_changes_nothing(finished: Finished) -> None:
    folder, first = finished
    began = time.monotonic()
    again = sweeper("run", "small.yaml", "--json", folder=folder)
    assert again.returncode == 0, again.stderr
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert before["counts"] == after["counts"]
    assert len(mlflow_runs(folder)[1]) == 8
    assert time.monotonic() - began < 60


@pytest.mark.long  # the campaign in tests/faults kills drivers too, at any moment
def test_sweep_whose_driver_was_killed_ends_as_an_undisturbed_one(finished: Finished, tmp_path: Path) -> None:
    """Compare the metrics, bit for bit, of trials that both sweeps ran with the same parameters."""
    (tmp_path / "small.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "sweeper", "run", "small.yaml"]
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    _wait_for_report(tmp_path, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = sweeper("run", "small.yaml", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    study, undisturbed = study_in(tmp_path), study_in(finished[0])
    rows = study.rows()
    assert [row.number for row in rows] == list(range(8))
    assert {row.state for row in rows} <= {"COMPLETE", "PRUNED"}
    assert any(row.attempt > 1 for row in rows)
    same = [row for row in rows if undisturbed.row(row.number).params == row.params]
    assert same
    for row in same:
        ours, theirs = study.reports(row.number), undisturbed.reports(row.number)
        assert all(a.metrics == b.metrics for a, b in zip(ours, theirs, strict=False))
    assert sorted(mlflow_runs(tmp_path)[1]) == list(range(8))


def _wait_for_report(folder: Path, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.2)
        if (folder / "sweeper.db").exists() and list(folder.glob("sweeps/small/trials/*/attempt-*")):
            return
    raise AssertionError("no trial reported within two minutes")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_signal_stops_the_sweep_and_the_message_names_the_next_command(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    space = SPACE.replace("dataset: {type: digits}", "trainable: tests.samples:slow_count").replace(
        "cell: {type: categorical, choices: [gru, simple_rnn]}", "height: {type: float, low: 0, high: 1}"
    )
    space = space.replace("epochs: 3, reports_per_epoch: 2", "epochs: 400") + "objective: {metric: score}\n"
    (tmp_path / "small.yaml").write_text(space)
    command = [sys.executable, "-m", "sweeper", "run", "small.yaml"]
    env = environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    driver = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    _wait_for_report(tmp_path, driver)  # type: ignore[arg-type]
    began = time.monotonic()
    driver.send_signal(number)
    _, output = driver.communicate(timeout=60)
    assert driver.returncode == code, output
    assert time.monotonic() - began < 15
    assert "sweeper run" in output
    assert {row.state for row in study_in(tmp_path).rows()} == {"RUNNING"}


def test_sweep_too_large_for_this_machine_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE)
    refused = sweeper("run", "small.yaml", "--cpus", "4096", folder=tmp_path)
    assert refused.returncode == 2
    assert "each trial needs 4096 CPU and 0 GPU; this machine has" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("page", "mnist.npz is no .npz file, but a web page"),
        ("head", "mnist.npz has x_train of shape (1000000000000,)"),
        pytest.param("content", "x_train of mnist in ", id="content, which is read while Ray starts"),
    ],
)
def test_damaged_data_is_refused_and_leaves_nothing_behind(tmp_path: Path, damage: str, message: str) -> None:
    (tmp_path / "small.yaml").write_text(SPACE.replace("{type: digits}", "{type: mnist, fallback: digits}"))
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/mnist.npz"
    if damage == "page":
        file.write_bytes(b"<!DOCTYPE html>")
    elif damage == "head":
        with zipfile.ZipFile(file, "w") as archive, archive.open("x_train.npy", "w") as member:
            facts = {"shape": (10**12,), "fortran_order": False, "descr": "|u1"}
            np.lib.format.write_array_header_1_0(member, facts)
    else:
        images = {
            f"x_{part}": np.zeros((size, 28, 28), np.uint8) for part, size in (("train", 60_000), ("test", 10_000))
        }
        labels = {f"y_{part}": np.zeros(size, np.uint8) for part, size in (("train", 60_000), ("test", 10_000))}
        np.savez_compressed(file, **images, **labels)
    before = sorted(tmp_path.rglob("*"))
    env = environment() | {"SWEEPER_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-m", "sweeper", "run", "small.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.long
def test_sweep_that_ends_before_mlflow_is_loaded_remembers_its_store(tmp_path: Path) -> None:
    space = "name: far\ntrainable: tests.samples:climb\nobjective: {metric: score}\nbudget: {trials: 1, epochs: 1}\n"
    (tmp_path / "far.yaml").write_text(space + "space: {height: {type: float, low: 0, high: 1}}\n")
    env = environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "sweeper"]
    run = [*command, "run", "far.yaml", "--tracking-uri", f"sqlite:///{tmp_path}/other.db"]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "sync", "far"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "other.db" in done.stdout, done.stderr
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.long
def test_sweep_that_reaches_its_timeout_still_has_a_champion(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE.replace("trials: 8", "trials: 5000"))
    done = sweeper("run", "small.yaml", "--timeout", "30s", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["stopped"] == "timeout" and result["counts"]["COMPLETE"] >= 1
    assert result["test"]["test_accuracy"] > 0.1 and result["champion"]["promoted"]
    assert result["best"]["number"] in {row.number for row in study_in(tmp_path).rows() if row.state == "COMPLETE"}


@pytest.mark.long
def test_champion_is_registered_later_if_mlflow_was_unavailable(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPACE.replace("trials: 8, epochs: 3", "trials: 1, epochs: 1"))
    server = Server(tmp_path)
    command = ("run", "small.yaml", "--json", "--tracking-uri", server.url)
    server.kill()
    done = sweeper(*command, folder=tmp_path)
    result = json.loads(done.stdout)
    assert (done.returncode, result["champion"]) == (69, None)
    assert f"the best model is in {tmp_path}/sweeps/small/champion; the same command registers it" in done.stderr
    assert (tmp_path / "sweeps/small/champion/mlflow_model/data/model.keras").exists()
    server.start()
    try:
        assert json.loads(sweeper(*command, folder=tmp_path).stdout)["champion"]["promoted"]
    finally:
        server.kill()
