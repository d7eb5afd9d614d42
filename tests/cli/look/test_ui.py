"""`sweeper ui --optuna`, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study

ROOT = Path(__file__).parents[3]
MakeSweep = Callable[..., Sweep]


def begin(sweep: Sweep) -> None:
    with open_study(sweep) as study:
        study.report(study.ask().number, Report(9, 1.0, {"score": 0.5}))


@pytest.mark.skipif(find_spec("optuna_dashboard") is not None, reason="optuna-dashboard is installed")
def test_missing_dashboard_is_named_with_the_command_that_installs_it(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(make_sweep())
    assert main(["ui", "--optuna", "climbing"]) == 2
    message = "error: optuna-dashboard is not installed. Install it with: pip install 'sweeper[dashboard]'\n"
    assert capsys.readouterr().err == message


def test_dashboard_takes_no_store_of_mlflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--optuna", "--tracking-uri", "sqlite:///mlflow.db"]) == 2
    assert "--optuna shows the database of --storage" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed")
def test_dashboard_shows_the_study_and_ends_with_the_command(make_sweep: MakeSweep) -> None:
    begin(make_sweep())
    begin(make_sweep(name="other"))
    command = [sys.executable, "-m", "sweeper", "ui", "--optuna", "other", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        document = json.loads("".join(lines) + "}")
        (link,) = document["links"]
        assert link["title"] == "other" and link["url"].endswith("/dashboard/studies/2")
        with urlopen(link["url"]) as page:
            assert b"Optuna Dashboard" in page.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    with pytest.raises(OSError):
        urlopen(document["url"], timeout=2)
