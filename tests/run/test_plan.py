"""A plan of a sweep: its proposals are those of the run, its times are measured or known, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.core.errors import InputError
from sweeper.run.plan import first_proposals, machine_of, make_plan
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from tests.analysis.forecast.test_past import record

MakeSweep = Callable[..., Sweep]

SLEEPY = """
import time

def train(params, trial):
    if trial.step == 0:
        time.sleep(params["start"])
    while trial.step < trial.reports:
        time.sleep(params["cost"])
        trial.report(score=params["cost"] * trial.step, checkpoint=save)

def save(folder):
    (folder / "weights").write_bytes(bytes(5000))
"""

SPACE = {"cost": {"type": "float", "low": 0.1, "high": 0.2}, "start": 0.5}


def files() -> set[Path]:
    return {path for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a measurement end when a few trials have shown their pace, long before its time is over."""
    monkeypatch.setattr("sweeper.run.measure.MAX_POINTS", 8)


@pytest.fixture
def sleepy(make_sweep: MakeSweep) -> Sweep:
    """Return a sweep of a trainable whose pace is known."""
    Path("sleepy.py").write_text(SLEEPY)
    budget = {"trials": 8, "epochs": 16, "parallel": 2}
    return make_sweep(name="sleepy", trainable="sleepy:train", budget=budget, space=SPACE, seed=3)


def test_first_proposals_are_those_of_the_run(make_sweep: MakeSweep) -> None:
    for sampler, finite in (("tpe", False), ("qmc", False), ("grid", True)):
        height = {"type": "int", "low": 0, "high": 5} if finite else {"type": "float", "low": 0.0, "high": 1.0}
        sweep = make_sweep(name=sampler, space={"height": height}, sampler={"type": sampler}, enqueue=[{"height": 1}])
        proposals = first_proposals(sweep)
        with open_study(sweep) as study:
            asked = [study.ask() for _ in proposals]
        assert [(row.params, row.origin) for row in proposals] == [(row.params, row.origin) for row in asked]
        assert proposals[0].origin == "start point" and len(proposals) == {"tpe": 4, "qmc": 6, "grid": 6}[sampler]


def test_trials_that_are_begun_tell_pace_start_and_size(sleepy: Sweep) -> None:
    before = files()
    plan = make_plan(sleepy, measure_s=120)
    assert files() == before
    found, costs = plan.forecast, plan.source
    assert costs.trials >= 3 and costs.sweeps == () and plan.machine.workers == 2
    assert found.seconds is not None and found.cpu_hours is not None and found.checkpoint_bytes is not None
    training = 8 * (0.5 + 16 * 0.15)  # of all trials
    assert training / 3600 * 0.8 < found.cpu_hours.likely < training / 3600 * 6  # the cores may be busy
    assert found.seconds.low > training / 2 * 0.8 and found.checkpoint_bytes.likely > 10_000


def test_earlier_sweeps_are_named_and_nothing_is_measured(make_sweep: MakeSweep) -> None:
    record(make_sweep(name="before"), seconds=20.0)
    plan = make_plan(make_sweep(name="now", budget={"trials": 10, "epochs": 9, "parallel": 1}))
    assert plan.source.sweeps == ("before",) and plan.source.seconds == 0 and plan.source.trials == 4
    assert plan.forecast.seconds is not None
    assert plan.forecast.seconds.likely == pytest.approx(10 * 9 * 20, rel=0.2)


def test_record_with_disturbed_trials_foretells_what_a_quiet_sweep_takes(make_sweep: MakeSweep) -> None:
    """Two of eight trials ran beside other programs, and the first waited long for its program."""
    record(make_sweep(name="before", budget={"trials": 8, "epochs": 9}), trials=8, seconds=20, slower={2: 4.0, 5: 3.0})
    plan = make_plan(make_sweep(name="now", budget={"trials": 10, "epochs": 9, "parallel": 1}))
    quiet = 10 * 9 * 20 + 15  # with the start of the sweep, of its worker and of the trials
    assert plan.forecast.seconds is not None
    assert plan.forecast.seconds.likely == pytest.approx(quiet, rel=0.15)
    assert plan.forecast.seconds.low < quiet < plan.forecast.seconds.high


def test_measurement_that_is_asked_for_takes_the_place_of_earlier_sweeps(make_sweep: MakeSweep) -> None:
    record(make_sweep(name="before"), seconds=20.0)
    plan = make_plan(make_sweep(name="now"), measure_s=120)
    assert plan.source.sweeps == () and plan.source.trials > 4
    assert plan.forecast.seconds is not None and plan.forecast.seconds.likely < 60


def test_sweep_that_has_begun_is_noted(make_sweep: MakeSweep) -> None:
    record(sweep := make_sweep(name="now"))
    plan = make_plan(sweep, measure_s=0)
    assert plan.notes == ("sweep 'now' has begun, with 4 trials: `sweeper run` resumes it. This plans a new one",)


def test_code_that_fails_is_named(make_sweep: MakeSweep) -> None:
    Path("broken.py").write_text("def train(params, trial):\n    raise ValueError('no data')\n")
    sweep = make_sweep(name="broken", trainable="broken:train")
    with pytest.raises(InputError, match=r"no trial could be measured: ValueError: no data \(broken.py:2\)"):
        make_plan(sweep, measure_s=120)


def test_trial_without_a_report_in_time_is_an_error_that_helps(sleepy: Sweep) -> None:
    slow = sleepy.changed({"space.start": 60.0})
    with pytest.raises(
        InputError, match=r"no trial has shown its pace within 3 s, by a second report. Measure for longer, as with"
    ):
        make_plan(slow, measure_s=3)


def test_command_is_measured_like_a_function(make_sweep: MakeSweep) -> None:
    lines = "import time\nfor step in range(4):\n    time.sleep(0.2)\n    print(f'score={step}', flush=True)\n"
    Path("script.py").write_text(lines)
    command = {"command": "python script.py --height {height}"}
    plan = make_plan(make_sweep(trainable=command, budget={"trials": 4, "epochs": 4}), measure_s=120)
    assert plan.source.trials >= 1 and plan.forecast.seconds is not None


@pytest.mark.parametrize(("resources", "parallel", "workers", "takes"), [
    ({"cpus": 1}, "auto", 6, 1.0),
    ({"cpus": 3}, "auto", 2, 1.0),
    ({"cpus": 1}, 3, 3, 1.0),
    ({"cpus": "1 if height < 0.5 else 4"}, "auto", 6, 3.0),
    ({"gpus": 0.5}, "auto", 2, 1.0),
])  # fmt: skip
def test_as_many_trials_run_as_have_room(
    make_sweep: MakeSweep, resources: dict[str, Any], parallel: int | str, workers: int, takes: float
) -> None:
    sweep = make_sweep(resources=resources, budget={"trials": 6, "epochs": 9, "parallel": parallel})
    machine = machine_of(sweep, {"CPU": 8.0, "GPU": 1.0})
    assert machine.workers == workers and machine.takes({"height": 0.9}) == takes


@pytest.fixture
def file(sleepy: Sweep) -> Path:
    path = Path("sleepy.yaml")
    budget = {"trials": 8, "epochs": 16, "parallel": 2, "cost": {"cpu_hour": 3600, "limit": 1e6}}
    declared = {"name": "sleepy", "trainable": "sleepy:train", "objective": {"metric": "score"}, "budget": budget}
    path.write_text(json.dumps(declared | {"space": SPACE, "sampler": {"type": "random"}, "enqueue": [{"cost": 0.15}]}))
    return path


def test_command_prints_tables_and_leaves_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    assert main(["plan", str(file), "--measure", "120"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["trial", "origin", "cost"] in lines and ["0", "start", "point", "0.15"] in lines
    labels = [line[0] for line in lines if line]
    assert [label for label in labels if label in ("time", "CPU-hours", "cost", "checkpoints", "epochs")] == [
        "time", "CPU-hours", "cost", "checkpoints", "epochs",
    ]  # fmt: skip
    assert "continuous: cost" in out and "2 trials at a time" in out and "8 trials begun in 120 s" in out
    assert err == "" and files() == before


def test_json_has_all_of_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(file), "--measure", "0", "--trials", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "sleepy" and found["trials"] == 5 and found["trials_at_a_time"] == 2
    assert found["proposals"][0] == {"trial": 0, "origin": "start point", "params": {"cost": 0.15, "start": 0.5}}
    assert found["space"] == {"points": None, "continuous": ["cost"]} and found["currency"] == "EUR"
    assert found["epochs"]["likely"] > 0 and found["rungs"][-1]["epoch"] == 16
    assert found["seconds"] is None and found["source"] == {"trials": 0, "seconds": 0.0, "sweeps": [], "error": None}


def test_run_prints_the_likely_line_before_it_starts(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    from sweeper.cli.check.plan import note_plan

    record(make_sweep(name="before"), seconds=20.0)
    note_plan(make_sweep(name="now", budget={"trials": 10, "epochs": 9, "parallel": 1}))
    line = " ".join(capsys.readouterr().err.split())
    assert line.startswith("note: plan: likely 3") and "of 90 epochs" in line and "4 trials of before" in line


def test_plan_that_fails_stops_no_run(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.cli.check.plan import note_plan

    monkeypatch.setattr("sweeper.run.plan.QUICK_MEASURE_S", 120)
    Path("broken.py").write_text("def train(params, trial):\n    raise ValueError('no data')\n")
    note_plan(make_sweep(name="broken", trainable="broken:train"))
    assert "note: no plan: no trial could be measured: ValueError: no data" in " ".join(capsys.readouterr().err.split())


@pytest.mark.long
def test_built_in_trainable_is_measured_on_a_part_of_its_data(make_sweep: MakeSweep) -> None:
    space = {"cell": {"type": "categorical", "choices": ["gru", "simple_rnn"]}, "units": 16, "batch_size": 64}
    sweep = make_sweep(
        trainable="sweeper.training:train_rnn", dataset={"type": "digits"}, objective={"metric": "val_accuracy"},
        budget={"trials": 4, "epochs": 2}, space=space,
    )  # fmt: skip
    plan = make_plan(sweep, measure_s=240)
    assert plan.source.trials >= 2 and plan.forecast.seconds is not None
    assert 5 < plan.forecast.seconds.likely < 300 and plan.forecast.checkpoint_bytes is not None
