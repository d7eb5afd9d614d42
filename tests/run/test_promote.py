"""The built-in trainable's model is made from a checkpoint, or retrained, and does what its metrics say."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.core.sweep_folder import SweepFolder
from sweeper.spec import Sweep
from sweeper.study.compatibility import check_environment, record_dataset
from sweeper.study.open import open_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy

NETWORK = {"cell": "gru", "units": 6, "batch_size": 16, "schedule": "cosine", "learning_rate": 0.02}


@pytest.fixture
def trained(make_sweep: Callable[..., Sweep]) -> Sweep:
    """Return a sweep whose one trial was trained, and which was stopped before it was tested."""
    from sweeper.run.training import reports_of
    from sweeper.worker.task import Task, WorkerContext

    sweep = make_sweep(
        name="rnn",
        trainable="sweeper.training:train_rnn",
        objective={"metric": "val_accuracy"},
        dataset={"type": "digits", "train": 96, "validation": 32, "test": 32},
        budget={"trials": 2, "epochs": 3},
        space=NETWORK | {"optimizer": {"type": "categorical", "choices": ["adam", "nadam"]}},
        tracking={"model": "own"},
    )
    folder = SweepFolder.of(None, "rnn")
    folder.path.mkdir(parents=True)
    with open_study(sweep) as study:
        context = WorkerContext(sweep, folder, study=str(study.id))
        data = context.load_data()
        assert data is not None
        study.record_facts({"folder": str(folder.path), **check_environment(study, allow_code_change=False)})
        record_dataset(study, data.facts())
        row = study.ask()
        with closing(reports_of(context, Task(row.number, row.params), 3)) as reports:
            for made in reports:
                study.report(row.number, made)
    return sweep


def promote(store: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Promote the trial; return what is printed as JSON, and the tags of the version."""
    from mlflow import MlflowClient

    code = main(["promote", "rnn", "0", "--tracking-uri", store, "--json", *options])
    out, err = capsys.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found, MlflowClient(store).get_model_version("own", str(found["version"])).tags


def accuracy_of_champion(store: str, sweep: Sweep) -> float:
    from mlflow import MlflowClient, pyfunc
    from mlflow.artifacts import download_artifacts

    assert sweep.dataset is not None
    source = MlflowClient(store).get_model_version_by_alias("own", "champion").source
    data, model = sweep.dataset.load(), pyfunc.load_model(download_artifacts(str(source), tracking_uri=store))
    return float((model.predict(data.x_test).argmax(1) == data.y_test).mean())


def test_model_is_made_from_a_checkpoint_and_from_more_data(
    trained: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, before = f"sqlite:///{tmp_path}/mlflow.db", sorted(Path("sweeps").rglob("*"))
    first, tags = promote(store, capsys)
    assert (first["version"], first["reason"], tags["sweeper.retrained"]) == (1, "promoted by hand", "no")
    assert accuracy_of_champion(store, trained) == float(tags["test_accuracy"])

    again, retagged = promote(store, capsys, "--retrain")
    assert (again["version"], again["previous"], retagged["sweeper.retrained"]) == (2, 1, "train+validation")
    assert accuracy_of_champion(store, trained) == again["test"]["test_accuracy"] == float(retagged["test_accuracy"])
    assert retagged["test_loss"] != tags["test_loss"]
    same = ("sweeper.value", "sweeper.split", "sweeper.dataset.digest", "sweeper.space", "sweeper.versions.keras")
    assert [retagged[name] for name in same] == [tags[name] for name in same]
    assert sorted(Path("sweeps").rglob("*")) == before
