"""Real sweeps, two trials at a time: each decision on record is what Optuna's own pruner comes to on a copy."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from sweeper.search.pruning.pruners import Pruner
from sweeper.study.open import read_study
from tests.study.replay import Copy, events_by_row

LATER = datetime.max.replace(tzinfo=UTC)
ROOT = Path(__file__).parents[2]

SWEEP: dict[str, Any] = {
    "name": "real",
    "dataset": {"type": "digits"},
    "budget": {"trials": 12, "epochs": 2, "reports_per_epoch": 4, "parallel": 2},
    "sampler": {"type": "random"},
    "space": {
        "cell": {"type": "categorical", "choices": ["gru", "simple_rnn"]},
        "units": {"type": "int", "low": 4, "high": 32},
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": 32,
    },
    "tracking": {"model": None},
}

PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"type": "none"},
    "median": {"type": "median", "n_startup_trials": 2, "min_epochs": 0.5},
    "percentile": {"type": "percentile", "percentile": 40, "n_startup_trials": 2},
    "successive_halving": {"type": "successive_halving", "min_reports": 1, "reduction_factor": 2},
    "hyperband": {"type": "hyperband", "min_reports": 1, "reduction_factor": 2},
    "threshold": {"type": "threshold", "lower": 0.3, "min_reports": 2, "interval_reports": 2},
    "patient": {"type": "patient", "patience_reports": 1},
}
PRUNERS["patient around halving"] = PRUNERS["patient"] | {"wrapped": PRUNERS["successive_halving"]}


def run(kind: str, folder: Path) -> None:
    with (folder / "real.yaml").open("w") as file:
        YAML(typ="safe").dump(SWEEP | {"pruner": PRUNERS[kind]}, file)
    command = [sys.executable, "-m", "sweeper", "run", "real.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", PRUNERS)
def test_each_decision_of_a_real_sweep_is_that_of_optuna(kind: str, tmp_path: Path) -> None:
    run(kind, tmp_path)
    view = read_study("real", f"sqlite:///{tmp_path}/sweeper.db")
    events = events_by_row(view, tmp_path / "sweeper.db")
    copy = Copy(view.sweep)
    copy.replay(view, events)

    states = {row.number: row.state for row in view.rows()}
    pruned = {number for number, state in states.items() if state == "PRUNED"}
    assert len(states) == SWEEP["budget"]["trials"] and set(states.values()) <= {"COMPLETE", "PRUNED"}
    assert copy.stopped == {(number, view.row(number).step) for number in pruned}
    assert view.decisions() == copy.decisions
    assert bool(pruned) == bool(copy.decisions) == (kind != "none")
    rows = sorted(view.rows(), key=lambda row: row.started or LATER)
    overlaps = sum((one.ended or LATER) > (other.started or LATER) for one, other in pairwise(rows))
    assert overlaps > 0, "the trials ran one after the other"


def test_every_pruner_of_optuna_is_in_the_table() -> None:
    kinds = {pruner.model_fields["type"].default for pruner in get_args(get_args(Pruner)[0])}
    assert {declared["type"] for declared in PRUNERS.values()} == kinds - {
        "promotion",
        "auto",
    }  # see tests/test_replay.py
