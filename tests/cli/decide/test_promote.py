"""`sweeper promote` on the record of real studies and a real MLflow store, without a run of Ray."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.worker.checkpoints import CheckpointCleaner
from sweeper.worker.task import WorkerContext

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def finish(make_sweep: Callable[..., Sweep], tmp_path: Path) -> Callable[..., Sweep]:
    """Return a maker of sweeps whose trials have ended with these values; those that led saved a model."""

    def make(name: str, *values: float, models: bool = True, **changes: Any) -> Sweep:
        from sweeper.core.sweep_folder import SweepFolder

        budget = {"trials": len(values) + 1, "epochs": 2}
        tracking = {"experiment": "models", "model": "own"}
        sweep = make_sweep(**{"name": name, "budget": budget, "tracking": tracking} | changes)
        folder = SweepFolder.of(None, name)
        (folder.path / "trials").mkdir(parents=True)
        context = WorkerContext(sweep, folder)
        with open_study(sweep, listeners=[CheckpointCleaner(context.checkpoints, "maximize")]) as study:
            study.record_facts({"folder": str(folder.path)})
            for value in values:
                row = study.ask()
                if models:
                    _save(WorkerContext(sweep, folder, study=study.id), row)
                for step in (1, 2):
                    study.report(row.number, Report(step, 1e9 + step, {"score": value}))
            row = study.ask()
            study.report(row.number, Report(1, 1e9, {"score": 0.0}))
            study.finish(row.number, is_pruned=True)
        return sweep

    return make


def _save(context: WorkerContext, row: Any) -> None:
    store = context.checkpoints(row.number, row.params)
    store.save(2, {}, lambda folder: None)
    store.models.save(2, {}, lambda folder: (folder / "MLmodel").write_text("flavors: {}\n") and None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_best_trial_is_promoted_and_again_changes_nothing(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("first", 0.5, 0.9)
    finish("second", 0.1)
    command = ("promote", "first", "--tracking-uri", store)
    assert run(capsys, *command) == (
        0, "own version 1 is the champion (promoted by hand)\nmodels:/own@champion\n", ""
    )  # fmt: skip
    code, out, _ = run(capsys, "promote", "second", "--json", "--tracking-uri", store)
    found = json.loads(out)
    assert (code, found["version"], found["promoted"], found["previous"]) == (0, 2, True, 1)
    code, out, _ = run(capsys, *command)
    assert out.startswith("own version 1 is the champion (promoted by hand; version 2 was it before)")
    code, out, _ = run(capsys, *command)
    assert (code, out.splitlines()[0]) == (0, "own version 1 is the champion (as before)")


def test_trial_whose_model_is_gone_is_refused_with_the_reason(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("gone", 0.5, 0.9, 0.7)
    code, _, err = run(capsys, "promote", "gone", "0", "--tracking-uri", store)
    assert code == 2
    assert "the model of trial 0 is gone: only the best trial's is kept, and trial 1 was better, so it was" in err
    code, _, err = run(capsys, "promote", "gone", "2", "--tracking-uri", store)
    assert code == 2 and "the model of trial 2 is gone" in err and "trial 1 was better" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["9"], "sweep 'plain' has no trial 9; its trials are 0 to 1; the nearest is 1"),
        (["1"], "trial 1 is PRUNED, pruned by its own code after epoch 1; only a COMPLETE trial leaves a model: 0"),
        (["--", "-1"], "'-1' is not the number of a trial. Name the first trial of sweep 'plain' as `plain 0`"),
        ([], "trial 0 has left no model: its trainable called neither trial.save_model(model) nor trial.keras(model)"),
        (["--model", "a/b"], "--model: 'a/b' must be letters a-z, digits, '.', '_' and '-', at most 64"),
    ],
)
def test_trial_that_cannot_be_promoted_is_refused(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    finish("plain", 0.5, models=False)
    code, out, err = run(capsys, "promote", "plain", "--tracking-uri", store, *arguments)
    assert (code, out) == (2, "") and message in err, err


def test_sweep_without_a_model_needs_its_name(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("nameless", 0.5, tracking={"experiment": "models"})
    command = ("promote", "nameless", "--tracking-uri", store)
    code, _, err = run(capsys, *command)
    assert code == 2 and "sweep 'nameless' has no tracking.model" in err and "--model NAME" in err
    code, out, _ = run(capsys, *command, "--model", "other")
    assert (code, out.splitlines()[1]) == (0, "models:/other@champion")


def test_running_sweep_is_refused(
    make_sweep: Callable[..., Sweep], finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_study(finish("busy", 0.5)):
        code, _, err = run(capsys, "promote", "busy", "--tracking-uri", store)
    assert code == 2 and "is running" in err and "promote another one when it has ended" in err


def test_store_that_does_not_answer_ends_with_69(
    finish: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    finish("away", 0.5)
    code, _, err = run(capsys, "promote", "away", "--tracking-uri", f"http://127.0.0.1:{port}")
    assert code == 69 and "MLflow at http://127.0.0.1:" in err
