from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from sweeper.tracking import sync

MakeSweep = Callable[..., Sweep]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture
def two_sweeps(make_sweep: MakeSweep) -> Sweep:
    for name, best in (("lstm", 0.8), ("gru", 0.6)):
        sweep = make_sweep(name=name, budget={"trials": 2, "epochs": 3})
        with open_study(sweep) as study:
            for start in (0.1, 0.2):
                row = study.ask()
                for step, value in enumerate((start, 0.5, best - start), 1):
                    study.report(row.number, Report(step, time.time(), {"score": value}))
    return sweep


def test_trials_are_shown_beside_each_other_with_their_curves(
    two_sweeps: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "lstm:0", "gru:1", "--reach", "0.55"]) == 0
    text, notes = capsys.readouterr()
    lines = {cells[0]: cells[1:] for cells in (re.split(" {2,}", line) for line in text.splitlines())}
    assert "lstm:0" in text.splitlines()[0] and "gru:1" in text.splitlines()[0]
    assert lines["state"] == ["COMPLETE", "COMPLETE"]
    assert lines["best score"] == ["0.7000 (epoch 3)", "0.5000 (epoch 2)"]
    assert lines["last score"] == ["0.7000", "0.4000"]
    assert lines["until 0.5500"][-1] == "not reached"
    assert "height" in lines and "\x1b" not in text
    assert text.rstrip().splitlines()[-1].split() == ["*", "lstm:0", "o", "gru:1"]  # below the curves
    assert notes.startswith("note: MLflow cannot use")


def test_comparison_as_json_and_csv(two_sweeps: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "lstm", "gru", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [side["label"] for side in document["sides"]] == ["lstm", "gru"]
    assert [side["best"] for side in document["sides"]] == [pytest.approx(0.7), pytest.approx(0.5)]
    assert document["mlflow"] is None
    assert main(["compare", "lstm", "gru", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["label"], row["trials"], row["epochs"]) for row in rows] == [("lstm", "2", "6.0"), ("gru", "2", "6.0")]
    assert {"seconds until 0.5", "epochs until 0.5"} <= rows[0].keys()


def test_comparison_links_to_the_same_in_mlflow(two_sweeps: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    for name in ("lstm", "gru"):
        sync(read_study(name, two_sweeps.storage_url()), uri)
    for sides in (["lstm", "gru"], ["lstm:0", "gru:1"]):
        assert main(["compare", *sides]) == 0
        text, notes = capsys.readouterr()
        assert "in MLflow: http://127.0.0.1:5000/#/compare-runs?runs=%5B%22" in text
        assert f"The link works while the UI runs: sweeper ui {sides[0].partition(':')[0]} --port 5000" in notes


def test_comparison_that_is_refused_is_one_line(two_sweeps: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "lstm:0", "gru"]) == 2
    assert capsys.readouterr().err == (
        "error: lstm:0 is a trial and gru a whole sweep. Name trials only, as in lstm:0 gru:NUMBER, or sweeps only\n"
    )
    assert main(["compare", "lstm:0", "gru:1", "--reach", "high"]) == 2
    assert "Invalid value for '--reach'" in capsys.readouterr().err
