"""`sweeper delete`, as a user types it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.sweep_folder import SweepFolder, claim_folder
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, read_study
from sweeper.tracking import sync

MakeSweep = Callable[..., Sweep]
ROOT = Path(__file__).parents[2]


def begin(sweep: Sweep) -> Path:
    place = SweepFolder.of(None, sweep.name)
    with open_study(sweep) as study, claim_folder(place, study):
        study.record_facts({"folder": str(place.location)})
        study.report(study.ask().number, Report(9, 1.0, {"score": 0.5}))
        place.trial(0).mkdir(parents=True)
    return place.path


def names(sweep: Sweep) -> list[str]:
    return [summary.name for summary in list_sweeps(sweep.storage_url())]


def test_delete_needs_yes_without_a_terminal(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begin(make_sweep())
    assert main(["delete", "climbing"]) == 2
    refusal = "sweeper delete climbing asks before it deletes, and there is no terminal; pass --yes"
    assert refusal in capsys.readouterr().err
    assert folder.exists() and names(make_sweep()) == ["climbing"]
    assert main(["delete", "climbing", "--yes", "--json"]) == 0
    deleted = json.loads(capsys.readouterr().out)
    assert deleted == {"name": "climbing", "trials": 1, "folder": str(folder), "runs": None, "stays": []}
    assert not folder.exists() and names(make_sweep()) == []
    assert main(["delete", "climbing", "--yes"]) == 2


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, []), ("n", 1, ["climbing"]), ("", 1, ["climbing"])])
def test_delete_asks_on_a_terminal(make_sweep: MakeSweep, answer: str, code: int, left: list[str]) -> None:
    begin(make_sweep())
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "sweeper", "delete", "climbing"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(controller, 1000)
        os.write(controller, answer.encode() + b"\n")
        assert process.wait(60) == code
    os.close(controller)
    assert b"Delete sweep climbing (1 trials) with its folder" in shown
    assert names(make_sweep()) == left


def test_running_sweep_is_not_deleted(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    with open_study(make_sweep()):
        assert main(["delete", "climbing", "--yes"]) == 2
    assert "Nothing was deleted; stop it first: sweeper stop climbing" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy
def test_delete_with_tracking_deletes_the_runs(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    begin(make_sweep())
    assert main(["delete", "climbing", "--yes", "--tracking"]) == 2  # there is no store
    assert main(["delete", "climbing", "--yes", "--tracking", "--tracking-uri", "http://127.0.0.1:9"]) == 69
    assert "Nothing was deleted" in capsys.readouterr().err and names(make_sweep()) == ["climbing"]
    uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    sync(read_study("climbing", make_sweep().storage_url()), uri)
    assert main(["delete", "climbing", "--yes", "--tracking"]) == 0
    assert "climbing deleted: 1 trials" in (said := capsys.readouterr().out) and "2 MLflow runs" in said
    client = MlflowClient(uri)
    assert client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]) == []
