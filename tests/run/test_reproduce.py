"""A recorded trial comes out the same, bit for bit, in another process; what differs is named with its step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, read_study
from tests.run.test_sweep import environment

SPACE = """
name: cells
dataset: {type: digits}
budget: {trials: 3, epochs: 1, reports_per_epoch: 3, parallel: 2}
sampler: {type: grid}
pruner: {type: none}
space:
  cell: {type: categorical, choices: [lstm, gru, simple_rnn]}
  units: 16
  batch_size: 96
  dropout: 0.2
"""

OWN = """
def train(params, trial):
    import random

    dice = random.Random(trial.seed)
    value = 0.0
    while trial.step < trial.reports:
        value += params["height"] * dice.random()
        trial.report({"score": value, "noise": dice.random()})
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a sweep of one trial of each cell; return its folder."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "cells.yaml").write_text(SPACE)
    subprocess.run([sys.executable, "-m", "sweeper", "run", "cells.yaml"], cwd=folder, env=environment(), check=True)
    return folder


def reproduce(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "sweeper", "reproduce", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("trial", [
    pytest.param(0, id="lstm"),
    pytest.param(1, id="gru", marks=pytest.mark.long),
    pytest.param(2, id="simple_rnn", marks=pytest.mark.long),
])  # fmt: skip
def test_built_in_trainable_is_equal_to_the_last_bit_in_a_fresh_process(cells: Path, trial: int) -> None:
    code, found = reproduce(cells, "cells", str(trial))
    assert (code, found) == (0, {"reports": 3, "first": {}, "changed": [], "is_equal": True})


def test_other_number_of_cpus_is_named(cells: Path) -> None:
    code, found = reproduce(cells, "cells", "0", "--cpus", "2")
    assert found["changed"] == ["2 CPUs (was 1)"] and found["reports"] == 3
    assert code == (0 if found["is_equal"] else 1)  # small networks compute their batches whole, to the same bits


TAIL = """
name: tail-CELL
dataset: {type: digits}
budget: {trials: 1, epochs: 2, reports_per_epoch: 4, parallel: auto}
pruner: {type: none}
space: {cell: CELL, units: 48, batch_size: 128, dropout: 0.2}
"""

RUN_AT_ONCE = """
import sys
from sweeper.driver import capacity
capacity.MIN_SECONDS_LEFT = 0.0  # so that also a short trial gets the other CPU
from sweeper.cli.main import main
sys.exit(main(["run", sys.argv[1]]))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
def test_trial_that_got_another_cpu_at_the_end_of_its_sweep_is_equal(tmp_path: Path, cell: str) -> None:
    (tmp_path / "tail.yaml").write_text(TAIL.replace("CELL", cell))
    subprocess.run([sys.executable, "-c", RUN_AT_ONCE, "tail.yaml"], cwd=tmp_path, env=environment(), check=True)
    name = f"tail-{cell}"
    (row,) = read_study(name, f"sqlite:///{tmp_path}/sweeper.db").rows()
    if len(os.sched_getaffinity(0)) > 1:
        assert row.cpus and row.cpus[-1][1] > 1, "it had one CPU alone"
    code, found = reproduce(tmp_path, name, "0")
    assert (code, found) == (0, {"reports": 8, "first": {}, "changed": [], "is_equal": True})
    code, found = reproduce(tmp_path, name, "0", "--cpus", "1")
    first = min((step for step, *_ in found["first"].values()), default=None)
    print(f"{cell}: CPUs {row.cpus}; on one CPU alone, first different report: {first}")
    if row.cpus:
        then = ", then ".join(str(cpus) for _, cpus in row.cpus)
        assert found["changed"] == [f"1 CPU (was {'' if row.cpus[0][0] == 1 else '1, then '}{then})"]
        assert first is None or first >= row.cpus[0][0], "until it got the other CPU it is the same"
        assert code == (0 if first is None else 1)


def test_what_a_trial_left_is_not_touched(cells: Path) -> None:
    def files() -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in (cells / "sweeps").rglob("*") if path.is_file()}

    before = files()
    reproduce(cells, "cells", "2")
    assert files() == before


@pytest.fixture
def own(make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Return a sweep of two trials of code in a file, as they would be recorded."""
    Path("own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    sweep = make_sweep(name="own", trainable="own:train", budget={"trials": 2, "epochs": 3}, pruner={"type": "none"})
    record(sweep)
    return sweep


def record(sweep: Sweep, change: Callable[[int, dict[str, float]], dict[str, float]] = lambda step, got: got) -> None:
    """Record the trials of a sweep as its code reports them, after a change to what is recorded."""
    from sweeper.core.environment import processor, versions
    from sweeper.core.sweep_folder import SweepFolder
    from sweeper.run.training import reports_of
    from sweeper.worker.task import Task, WorkerContext

    context = WorkerContext(sweep, SweepFolder.of("recorded", sweep.name))
    with open_study(sweep) as study:
        study.record_facts({"versions": versions(["numpy"]), "processor": processor()})
        for _ in range(2):
            row = study.ask()
            for made in reports_of(context, Task(row.number, row.params), 3):
                study.report(row.number, Report(made.step, made.time, change(made.step, dict(made.metrics))))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    sys.modules.pop("own", None)  # as in another process
    code = main(["reproduce", *arguments])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_own_code_that_draws_by_the_seed_is_equal(own: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "own", "1")
    assert code == 0 and out.startswith("equal: every metric of all 3 reports, bit for bit")
    assert "training trial 1 of own again: 3 reports" in err


def test_first_difference_is_named_with_its_size(
    make_sweep: Callable[..., Sweep], own: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    def nudge(step: int, metrics: dict[str, float]) -> dict[str, float]:
        return metrics | ({"noise": metrics["noise"] + 1e-6} if step >= 2 else {})

    record(other := own.model_copy(update={"name": "other"}), nudge)
    code, out, _ = run(capsys, other.name, "0")
    lines = out.splitlines()
    assert code == 1 and lines[0].startswith("differs from epoch 2 on: noise 0.") and "by 1.0e-06" in lines[0]
    assert lines[1] == "score is equal in all 3 reports"


def test_changed_versions_processor_and_code_are_named(own: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    from sweeper.core.code.user_code import digest_user_code

    with open_study(own) as study:
        files = digest_user_code(own.trainable)
        study.record_facts({"versions": {"numpy": "1.0"}, "processor": "Z80", "files": files})
    Path("own.py").write_text(OWN.replace("+=", "-="))
    code, out, err = run(capsys, "own", "0")
    assert code == 1 and "different here: the code has changed: own.py" in out
    assert "(was 1.0)" in out and "(was Z80)" in out
    assert "different here: the code has changed: own.py" in err  # said before the training, which may take an hour


def test_code_is_taken_from_the_copy_of_the_sweep(own: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The file has been edited since; the sweep's folder holds what its trials ran."""
    from sweeper.core.code.copies import freeze_user_code

    study = read_study("own", own.storage_url())
    place = Path("sweeps/own")
    place.mkdir(parents=True)
    freeze_user_code(own.trainable, place / "code", [])
    (place / "study.json").write_text(json.dumps({"study": study.id, "name": "own"}))
    Path("own.py").write_text("raise SystemExit('edited')")
    code, out, _ = run(capsys, "own", "0")
    assert code == 0 and out.startswith("equal")
    shutil.rmtree(place)


def test_trial_that_fails_this_time_is_an_error(own: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("def train(params, trial):\n    raise ValueError('too high')\n")
    code, _, err = run(capsys, "own", "0")
    assert code == 1 and "trial 0 failed this time: ValueError: too high (own.py:2)" in err


def test_trial_that_returns_earlier_differs(own: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(OWN.replace("trial.step < trial.reports", "trial.step < 2"))
    code, out, _ = run(capsys, "own", "0")
    assert code == 1 and out.startswith("differs from epoch 3 on: score nothing (was ")


def test_trial_that_returns_at_once_differs_from_its_first_report_on(
    own: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text("def train(params, trial):\n    pass\n")
    code, out, _ = run(capsys, "own", "0")
    assert code == 1 and out.startswith("differs from epoch 1 on: score nothing (was ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("own", "7"), "sweep 'own' has no trial 7"),
        (("none", "0"), "no sweep 'none'"),
        (("own", "0", "--cpus", "0"), "--cpus"),
        (("own", "first"), "'first' is not the number of a trial"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(
    arguments: tuple[str, ...], message: str, own: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and message in err


def test_trial_without_a_report_is_refused(
    make_sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(make_sweep(name="young")) as study:
        study.ask()
    code, _, err = run(capsys, "young", "0")
    assert code == 2 and "trial 0 has made no report, so there is nothing to compare with" in err
