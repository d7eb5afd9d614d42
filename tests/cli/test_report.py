from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ruamel.yaml import YAML

from sweeper.analysis.trials import as_seen, varying
from sweeper.cli import report
from sweeper.core.secrets import redact
from sweeper.core.trials import TrialRecord

START = datetime(2026, 1, 1, tzinfo=UTC)
ROW = TrialRecord(
    7,
    "COMPLETE",
    {"cell": "lstm", "units": 128, "rate": 1e-05, "nesterov": True},
    value=0.987123,
    step=9,
    node="node-1",
    started=START,
    ended=START + timedelta(minutes=3, seconds=12),
)


@pytest.fixture
def sweep(make_sweep: Callable[..., Any]) -> Any:
    return make_sweep(
        space={
            "cell": "lstm",
            "units": {"type": "int", "low": 1, "high": 512},
            "rate": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
            "nesterov": {"type": "categorical", "choices": [True, False]},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"nesterov": True}},
        }
    )


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql+psycopg://ada:secret@db/sweeps", "postgresql+psycopg://ada:***@db/sweeps"),
        ("cannot reach http://:token@host:5000, really", "cannot reach http://:***@host:5000, really"),
        ("sqlite:///sweeper.db", "sqlite:///sweeper.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_board_shows_parameters_that_vary_and_leaves_absent_ones_empty(sweep: Any) -> None:
    board = report.board(sweep, [ROW])
    assert board.fixed == ("trial", "state", "score", "epochs", "time")
    assert board.params == ("units", "rate", "nesterov", "momentum")
    assert board.rows == (("7", "COMPLETE", "0.9871", "9", "3m12s", "128", "1e-05", "true", ""),)


def test_board_counts_in_steps_where_the_budget_does(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(budget={"trials": 2, "steps": 1000, "report_every": 100})
    board = report.board(sweep, [replace(ROW, step=3)])
    assert board.fixed[3] == "steps"
    assert board.rows[0][3] == "300"


def test_json_has_no_nan_and_no_control_characters(sweep: Any) -> None:
    odd = replace(ROW, value=float("nan"), params={"units": float("inf"), "rate": "\x1b]0;x\x07"})
    text = report.to_json(report.study_document(sweep, [odd], {}))
    trial = json.loads(text, parse_constant=lambda name: pytest.fail(name))["trials"][0]
    assert trial["value"] is None and trial["params"]["units"] is None
    assert trial["epochs"] == 9 and trial["seconds"] == 192
    assert trial["started"] == "2026-01-01T00:00:00+00:00"
    assert text.isascii() and "\x1b" not in text


@pytest.mark.parametrize("formula", ["=cmd()", "+1+1", "-2+3", "@SUM(A1)"])
def test_csv_never_contains_a_formula(sweep: Any, formula: str) -> None:
    row = replace(ROW, params={"cell": formula}, reason=formula)
    cells = next(csv.DictReader(io.StringIO(report.to_csv(sweep, [row]))))
    assert cells["cell"] == cells["reason"] == f"'{formula}"


def test_csv_has_numbers_in_full_and_a_column_for_every_parameter(sweep: Any) -> None:
    rows = list(csv.reader(io.StringIO(report.to_csv(sweep, [replace(ROW, value=-0.123456789)]))))
    assert rows[0][:4] == ["number", "state", "value", "epochs"]
    assert rows[0][-5:] == ["cell", "units", "rate", "nesterov", "momentum"]
    assert rows[1][2] == "-0.123456789"
    assert rows[1][-5:] == ["lstm", "128", "1e-05", "True", ""]


def test_best_as_yaml_can_be_the_space_of_a_sweep(sweep: Any, make_sweep: Callable[..., Any]) -> None:
    text = report.best_yaml(sweep, ROW)
    assert text.startswith("# climbing, trial 7: score 0.9871\nspace:\n")
    pasted = make_sweep(**YAML(typ="safe").load(text))
    assert varying(pasted) == []


def test_line_of_a_sweep_summarises_it(sweep: Any) -> None:
    line = report.sweep_line(sweep)
    assert line == ("climbing: 6 trials of 9 epochs, 4 parameters (1 conditional), random + none, maximize score")


def test_state_of_an_interrupted_trial_is_that_of_optuna_with_a_field(sweep: Any) -> None:
    (seen,) = as_seen([replace(ROW, state="RUNNING")], is_running=False)
    assert report.board(sweep, [seen]).rows[0][1] == "INTERRUPTED"
    document = report.trial_document(sweep, seen)
    assert document["state"] == "RUNNING" and document["interrupted"] is True
    assert report.trial_document(sweep, ROW)["interrupted"] is False
    (cells,) = csv.DictReader(io.StringIO(report.to_csv(sweep, [seen])))
    assert cells["state"] == "RUNNING" and cells["interrupted"] == "True"


def test_stepped_floats_are_the_decimals_that_were_written(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(space={"dropout": {"type": "float", "low": 0.0, "high": 0.4, "step": 0.1}})
    from sweeper.study.open import open_study, read_study

    with open_study(sweep) as study:
        for _ in range(sweep.trial_limit):
            study.ask()
    rows = read_study(sweep.name, sweep.storage).rows()
    assert {row.params["dropout"] for row in rows} <= {0.0, 0.1, 0.2, 0.3, 0.4}
    for text in (report.to_csv(sweep, rows), report.to_json(report.study_document(sweep, rows, {}))):
        assert "0000000" not in text
