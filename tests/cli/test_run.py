"""The verbs that run and control sweeps, as a user types them: real processes, real Ray, no TensorFlow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.core.errors import InputError
from sweeper.study.open import read_study

ROOT = Path(__file__).parents[2]
SPACE = """
name: counting
trainable: tests.samples:slow_count
objective: {metric: score, direction: maximize}
budget: {trials: 4, epochs: 30, parallel: 2}
pruner: {type: none}
space:
  height: {type: float, low: 0.0, high: 1.0}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sweeper", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def sweeper(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=200)


def wait_for(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def steps(storage: str) -> int:
    try:
        return sum(row.step for row in read_study("counting", storage).rows())
    except InputError:  # the sweep has not begun
        return 0


@pytest.mark.long  # tests/driver/test_stop.py has each order by itself
def test_sweep_is_controlled_from_another_terminal_and_resumed_by_name(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'sweeper.db'}"
    (tmp_path / "counting.yaml").write_text(SPACE.replace("epochs: 30", "epochs: 60"))
    with subprocess.Popen(command("run", "counting.yaml"), env=environment(), stderr=subprocess.PIPE) as driver:
        wait_for(lambda: steps(storage) > 3)
        paused = sweeper("pause", "counting", "--storage", storage)
        assert paused.returncode == 0
        assert f"counting is paused. Continue with: sweeper unpause counting --storage {storage}\n" in paused.stderr
        assert "paused" in sweeper("list").stdout
        before = steps(storage)
        time.sleep(1.5)
        assert steps(storage) <= before + 2  # each worker may have sent one more report

        assert sweeper("unpause", "counting").returncode == 0
        wait_for(lambda: steps(storage) > before + 4)
        stopped = sweeper("stop", "counting")
        assert stopped.returncode == 0
        assert "counting has stopped. Resume with: sweeper resume counting\n" in stopped.stderr
        assert driver.wait(60) == 0
        assert driver.stderr is not None and b"Paused. Continue with: sweeper unpause counting" in driver.stderr.read()
    left = sum(row.state == "RUNNING" for row in read_study("counting", storage).rows())
    assert left > 0

    resumed = sweeper("resume", "counting", "--trials", "5", "--json")
    result: dict[str, Any] = json.loads(resumed.stdout)
    assert resumed.returncode == 0 and result["counts"] == {"COMPLETE": 5} and result["resumed"] == left
    assert "Resuming with budget.trials: 4 -> 5." in resumed.stderr
    rows = read_study("counting", storage).rows()
    assert all(abs((row.value or 0) - 60 * row.params["height"]) < 1e-9 for row in rows)


@pytest.mark.long
def test_dead_worker_prints_nothing_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(SPACE.replace("slow_count", "crash_once").replace("trials: 4", "trials: 2"))
    done = sweeper("run", "counting.yaml", "--json")
    assert json.loads(done.stdout)["counts"] == {"COMPLETE": 2}
    assert "its worker died; attempt 2 follows" in done.stderr and "raylet" not in done.stderr


@pytest.mark.long
def test_commands_to_a_sweep_that_does_not_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(SPACE.replace("slow_count", "climb").replace("trials: 4", "trials: 2"))
    assert sweeper("run", "counting.yaml").returncode == 0
    for verb in ("stop", "pause", "unpause"):
        refused = sweeper(verb, "counting")
        assert refused.returncode == 2 and "sweep 'counting' is done: all its 2 trials have ended" in refused.stderr
    assert sweeper("resume", "countng").returncode == 2


@pytest.mark.long  # the campaign in tests/faults kills both too
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_sweep_ends_when_ray_dies_and_the_same_command_resumes_it(tmp_path: Path, part: str) -> None:
    storage = f"sqlite:///{tmp_path / 'sweeper.db'}"
    (tmp_path / "counting.yaml").write_text(SPACE.replace("trials: 4", "trials: 2"))
    with subprocess.Popen(command("run", "counting.yaml"), env=environment(), stderr=subprocess.PIPE) as driver:
        wait_for(lambda: steps(storage) > 3)
        children = psutil.Process(driver.pid).children(recursive=True)
        (victim,) = [child for child in children if child.name() == part]
        victim.kill()
        assert driver.wait(30) == 75
        assert driver.stderr is not None
        said = driver.stderr.read().decode()
        assert f"Ray's process {part} died, so the sweep stops. Progress is saved. Resume with: sweeper run" in said
    _, alive = psutil.wait_procs(children, 30)
    assert not alive
    again = sweeper("run", "counting.yaml", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["counts"] == {"COMPLETE": 2}


@pytest.mark.long
def test_run_that_mlflow_misses_ends_with_code_69_until_it_is_delivered(tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(SPACE.replace("slow_count", "climb").replace("trials: 4", "trials: 2"))
    away = sweeper("run", "counting.yaml", "--tracking-uri", "http://127.0.0.1:9", "--json")
    result = json.loads(away.stdout)
    assert away.returncode == 69 and result["counts"] == {"COMPLETE": 2} and result["delivered"] is False
    assert "MLflow does not have everything yet; the study has. The same command delivers the rest." in away.stderr
    again = sweeper("run", "counting.yaml", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["delivered"] is True


BUGGY = """
def train(params, trial):
    while trial.step < trial.reports:
        trial.report({"score": params["height"] if BROKEN else params["height"].real})
"""


@pytest.mark.long
def test_failed_trials_run_again_once_the_code_is_corrected(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'sweeper.db'}"
    (tmp_path / "buggy.py").write_text(BUGGY)
    space = SPACE.replace("tests.samples:slow_count", "buggy:train").replace("epochs: 30", "epochs: 3")
    (tmp_path / "counting.yaml").write_text(space)
    failed = sweeper("run", "counting.yaml")
    assert failed.returncode == 1
    reason = "NameError: name 'BROKEN' is not defined (buggy.py:4)"
    traceback = tmp_path / "sweeps/counting/trials/0000/error.txt"
    assert f"4 trials failed (0, 1, 2, 3): {reason}. Traceback: {traceback}\n" in failed.stderr
    assert "run the failed trials again with: sweeper retry counting\n" in failed.stderr
    assert "sweeper best counting" not in failed.stdout
    points = [row.params for row in read_study("counting", storage).rows()]

    (tmp_path / "buggy.py").write_text(BUGGY.replace("BROKEN", "False"))
    idle = sweeper("run", "counting.yaml")
    assert idle.returncode == 1 and "sweeper retry counting" in idle.stderr and "--trials +4" in idle.stderr
    one = sweeper("retry", "counting", "2", "--json")
    assert one.returncode == 3 and json.loads(one.stdout)["counts"] == {"COMPLETE": 1, "FAIL": 3}
    rest = sweeper("run", "counting.yaml", "--retry-failed", "--json")
    assert rest.returncode == 0 and json.loads(rest.stdout)["counts"] == {"COMPLETE": 4}
    assert "sweeper retry" not in rest.stderr
    study = read_study("counting", storage)
    assert [row.params for row in study.rows()] == points and [row.attempt for row in study.rows()] == [2] * 4
    assert all(past[0].reason == reason for past in study.attempts().values()) and len(study.attempts()) == 4
    states = {run.data.tags["sweeper.trial"]: run.info.status for run in runs_of(tmp_path, study.facts["id"])}
    assert states == {str(number): "FINISHED" for number in range(4)}
    assert "0 records of counting written" in sweeper("sync", "counting").stdout


def runs_of(folder: Path, sweep_id: str) -> list[Any]:
    """Return the runs of the trials of a sweep in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`sweeper.id` = '{sweep_id}'")
    return [run for run in runs if "sweeper.trial" in run.data.tags]


@pytest.mark.long  # tests/study/test_forking.py has what a fork takes over, without Ray
def test_fork_goes_on_from_its_parent_and_repeats_nothing(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'sweeper.db'}"
    space = SPACE.replace("slow_count", "count_and_evaluate").replace("epochs: 30", "epochs: 3")
    (tmp_path / "counting.yaml").write_text(f"{space}enqueue: [{{height: 0.25}}]\n")
    assert sweeper("run", "counting.yaml").returncode == 0
    drawn = ("--set", "sampler.type=random")
    forked = sweeper("run", "counting.yaml", "--fork", "again", *drawn, "--trials", "+2", "--json")
    assert forked.returncode == 0, forked.stderr
    result = json.loads(forked.stdout)
    assert result["counts"] == {"COMPLETE": 2} and result["best"]["number"] >= 4
    assert "Learning from 4 trials of counting, which are not counted, shown or run again here." in forked.stderr
    parent, fork = (read_study(name, storage) for name in ("counting", "again"))
    assert [row.number for row in fork.rows()] == [4, 5] and fork.facts["forked"] == "counting"
    assert not [row for row in fork.rows() if row.params in [past.params for past in parent.rows()]]
    best = result["best"]["number"]
    assert [path.name for path in (tmp_path / "sweeps/again/trials").iterdir()] == [f"{best:04d}"]
    assert {run.data.tags["sweeper.trial"] for run in runs_of(tmp_path, fork.facts["id"])} == {"4", "5"}

    shutil.rmtree(tmp_path / "sweeps/again")
    gone = sweeper("run", "counting.yaml", "--name", "again", *drawn, "--set", "budget.trials=+0")
    assert gone.returncode == 2 and "write +3 for three more trials" in gone.stderr
    gone = sweeper("resume", "again", "--json")
    assert gone.returncode == 0 and json.loads(gone.stdout)["test"] is None
    assert f"of trial {best}, the best one, are no longer in {tmp_path}/sweeps/again." in gone.stderr
    assert "warning" not in gone.stderr and "MLflow has no version of the model." in gone.stderr
