"""`sweeper promote` on the record of real studies and a real MLflow store, without a run of Ray."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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

    def make(
        name: str,
        *values: float,
        models: bool = True,
        checkpoint: str = "",
        facts: Mapping[str, Any] = MappingProxyType({}),
        **changes: Any,
    ) -> Sweep:
        from sweeper.core.sweep_folder import SweepFolder

        budget = {"trials": len(values) + 1, "epochs": 2}
        tracking = {"experiment": "models", "model": "own"}
        sweep = make_sweep(**{"name": name, "budget": budget, "tracking": tracking} | changes)
        folder = SweepFolder.of(None, name)
        (folder.path / "trials").mkdir(parents=True)
        context = WorkerContext(sweep, folder)
        with open_study(sweep, listeners=[CheckpointCleaner(context.checkpoints, "maximize")]) as study:
            study.record_facts({"folder": str(folder.path), **facts})
            for value in values:
                row = study.ask()
                if models:
                    _save(WorkerContext(sweep, folder, study=study.id), row, checkpoint)
                for step in (1, 2):
                    study.report(row.number, Report(step, 1e9 + step, {"score": value}))
            row = study.ask()
            study.report(row.number, Report(1, 1e9, {"score": 0.0}))
            study.finish(row.number, is_pruned=True)
        return sweep

    return make


def _save(context: WorkerContext, row: Any, checkpoint: str) -> None:
    store = context.checkpoints(row.number, row.params)
    store.save(2, {}, lambda folder: (folder / "weights").write_text(checkpoint) and None if checkpoint else None)
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
    assert "To train it again, run the sweep that `sweeper export gone 0 --to yaml` writes" in err
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


DIGITS = {"type": "digits", "train": 20, "validation": 10, "test": 5}


def files_of(version: int, name: str, store: str) -> dict[str, str]:
    """Return the files of a model version that are no MLflow files, with their contents."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    source = MlflowClient(store).get_model_version(name, str(version)).source
    folder = Path(download_artifacts(str(source), tracking_uri=store)) / "files"
    return {path.name: path.read_text() for path in folder.iterdir()}


def checkpoint_only(sweep: Sweep, number: int) -> None:
    """Remove the model that a trial has saved; its checkpoint stays."""
    shutil.rmtree(Path("sweeps", sweep.name, "trials", f"{number:04d}", "model"))


def test_files_of_the_checkpoint_are_the_model_if_there_is_no_other(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_only(finish("raw", 0.5, checkpoint="weights"), 0)
    code, out, _ = run(capsys, "promote", "raw", "--tracking-uri", store)
    assert (code, out.splitlines()[0]) == (0, "own version 1 is the champion (promoted by hand)")
    assert files_of(1, "own", store) == {"weights": "weights"}


def test_checkpoint_is_tested_where_the_trainable_can_and_that_saves_the_model(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"height": {"type": "float", "low": 0.0, "high": 1.0}, "plain": 1}
    sweep = finish("tested", 0.5, trainable="tests.samples:count_and_evaluate", checkpoint="1", space=space)
    checkpoint_only(sweep, 0)
    before = sorted(Path("sweeps").rglob("*"))
    code, out, err = run(capsys, "promote", "tested", "--tracking-uri", store)
    assert (code, out.splitlines()[0]) == (0, "own version 1 is the champion (promoted by hand)"), err
    assert files_of(1, "own", store) == {"weights": "weights"}
    assert sorted(Path("sweeps").rglob("*")) == before


def test_retrained_model_has_seen_training_and_validation_data(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("more", 0.5, 0.9, trainable="tests.samples:count_samples", dataset=DIGITS)
    command = ("promote", "more", "0", "--retrain", "--tracking-uri", store)
    code, out, err = run(capsys, *command)
    assert (code, out.splitlines()) == (
        0,
        [
            "on the test set: test_samples 30.0000",
            "own version 1 is the champion (promoted by hand, retrained on training and validation data)",
            "models:/own@champion",
        ],
    ), err
    assert "training trial 0 of more again, on training and validation data" in err
    assert files_of(1, "own", store) == {"count": "30"}
    code, out, err = run(capsys, *command, "--json")
    found = json.loads(out)
    assert (code, found["version"], found["reason"], found["test"]) == (0, 1, "as before", {})
    assert "trial 0 was retrained before; MLflow has its model" in err and "training trial" not in err


def test_gone_model_of_a_trainable_that_retrains_is_offered_so(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("more", 0.5, 0.9, trainable="tests.samples:count_samples", dataset=DIGITS)
    code, _, err = run(capsys, "promote", "more", "0", "--tracking-uri", store)
    assert code == 2 and "trial 1 was better, so it was deleted at 20" in err and " UTC. " in err
    assert "`sweeper promote more 0 --retrain` trains it again on training and validation data" in err
    assert "`sweeper reproduce more 0` says whether it still comes out the same" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--retrain: tests.samples:climb has no `retrain`, and sweeper does not know how it uses its data"),
        ({"trainable": {"command": "true {height}"}}, "--retrain: sweeper does not know how a command splits its data"),
        ({"trainable": "tests.samples:count_samples", "dataset": DIGITS}, "other data: digits from scikit-learn (was"),
    ],
)
def test_trainable_or_data_that_cannot_be_retrained_is_refused(
    changes: dict[str, Any],
    message: str,
    finish: Callable[..., Sweep],
    store: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = {"dataset": {"name": "digits", "source": "elsewhere", "digest": "0"}}
    finish("fixed", 0.5, facts=facts, **changes)
    code, out, err = run(capsys, "promote", "fixed", "--retrain", "--tracking-uri", store)
    assert (code, out) == (2, "") and message in err, err


def test_code_that_fails_when_it_retrains_is_an_error_and_registers_nothing(
    finish: Callable[..., Sweep], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweeper.tracking.client import connect

    Path("own.py").write_text(
        "def train(params, trial):\n    pass\n\ndef again(params, trial):\n    raise ValueError('no')\n\n"
        "train.retrain = again\n"
    )
    finish("failing", 0.5, trainable="own:train")
    code, _, err = run(capsys, "promote", "failing", "--retrain", "--tracking-uri", store)
    assert code == 1 and "trial 0 failed this time: ValueError: no (own.py:5)" in err
    assert connect(store).search_registered_models() == []
