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

from sweeper.core.errors import TrackingError
from sweeper.spec import Sweep
from sweeper.tracking import Champion, register_champion, start_ui, sync
from sweeper.tracking.client import connect
from tests.tracking.tools import DATASET, RecordedStudy, assert_equal, history, sweep_run, trial_runs

ROOT = Path(__file__).parents[2]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}

PACK = """
import sys
from pathlib import Path
import keras, numpy as np
from sweeper.tracking import package_model
folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
layers = [keras.Input((8, 8)), keras.layers.GRU(4), keras.layers.Dense(10, activation="softmax")]
model = keras.Sequential(layers)
model.compile("adam", "sparse_categorical_crossentropy")
model.save(folder / "model.keras")
example = np.random.default_rng(0).random((3, 8, 8), dtype="float32")
np.save(folder / "example.npy", example)
package_model(folder)
np.save(folder / "expected.npy", model.predict(example, verbose=0))
"""

LOAD = """
import sys
import mlflow, numpy as np
uri, name, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
predicted = model.predict(np.load(f"{folder}/example.npy"))
np.testing.assert_allclose(predicted, np.load(f"{folder}/expected.npy"), rtol=1e-5)
assert model.input_example.shape == (3, 8, 8)
assert str(model.metadata.signature.inputs) == "[Tensor('float32', (-1, 8, 8))]", model.metadata.signature
"""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def _python(code: str, *arguments: object, **environment: str) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    _python(PACK, folder)
    return folder


@pytest.fixture
def champion_folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "champion"))


@pytest.fixture(scope="module")
def uri(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('mlflow') / 'mlflow.db')}"


@pytest.fixture
def finish(make_sweep: Callable[..., Sweep], uri: str, request: pytest.FixtureRequest) -> Callable[..., RecordedStudy]:
    """Return a maker of finished sweeps whose best trial has the given value; their model is this test's own."""
    model = request.node.name.replace("_", "-")[:50].split("[")[0]

    def make(name: str, value: float, dataset: dict[str, Any] = DATASET, **changes: Any) -> RecordedStudy:
        tracking = {"experiment": "models", "model": model}
        study = RecordedStudy(make_sweep(**{"name": name, "tracking": tracking} | changes))
        study.facts = {"dataset": dataset}
        study.trial(0, value, value)
        study.trial(1, value / 2, state="PRUNED")
        sync(study, uri)
        return study

    return make


def _register(study: RecordedStudy, folder: Path, uri: str) -> Champion:
    champion = register_champion(study, study.rows()[0], {"test_accuracy": 0.9, "test_loss": 0.2}, folder, uri)
    assert champion is not None
    return champion


def test_champion_loads_by_its_alias_and_predicts(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("first", 0.5)
    champion = _register(study, champion_folder, uri)
    assert (champion.version, champion.promoted, champion.reason) == (1, True, "the first champion")
    assert champion.uri == f"models:/{champion.name}@champion"
    _python(LOAD, uri, champion.name, champion_folder, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")


def test_packed_model_pins_its_requirements(packed: Path) -> None:
    needs = (packed / "mlflow_model" / "requirements.txt").read_text().split()
    assert [need.split("==")[0] for need in needs] == ["mlflow", "keras", "numpy", "tensorflow"]
    assert all("==" in need for need in needs)


def test_registering_in_the_driver_loads_no_tensorflow(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)  # an import fails now
    assert _register(finish("light", 0.5), champion_folder, uri).version


def test_model_version_and_runs_lead_to_each_other(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("linked", 0.5)
    champion = _register(study, champion_folder, uri)
    client, run, parent = connect(uri), trial_runs(uri, study)[0], sweep_run(uri, study)
    assert champion.run_id == run.info.run_id
    for each in (run, parent):
        assert [output.model_id for output in each.outputs.model_outputs] == [champion.model_id]
    model = client.get_logged_model(champion.model_id)
    assert model.status == "READY" and model.source_run_id == run.info.run_id
    assert {metric.key: metric.value for metric in model.metrics} == {"test_accuracy": 0.9, "test_loss": 0.2}
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": champion.name, "version": 1}]
    assert (run.data.metrics["test_accuracy"], run.inputs.dataset_inputs[0].dataset.name) == (0.9, "mnist")
    version = client.get_model_version(champion.name, "1")
    expected = {
        "sweeper.dataset.digest": DATASET["digest"],
        "sweeper.split": "55000/5000/10000",
        "sweeper.metric": "score",
        "sweeper.value": "0.5",
        "test_accuracy": "0.9",
    }
    assert expected.items() <= version.tags.items()
    assert_equal(uri, study)


def test_registering_twice_gives_the_same_version(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("again", 0.5)
    first, second = (_register(study, champion_folder, uri) for _ in range(2))
    assert (second.version, second.model_id, second.promoted) == (first.version, first.model_id, True)
    assert second.reason == "as before"
    assert len(history(uri, trial_runs(uri, study)[0], "test_accuracy")) == 1
    assert len(sweep_run(uri, study).outputs.model_outputs) == 1


def test_better_model_becomes_champion_and_a_worse_one_does_not(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    _register(finish("good", 0.5), champion_folder, uri)
    worse = _register(finish("worse", 0.4), champion_folder, uri)
    assert (worse.version, worse.promoted, worse.previous) == (2, False, 1)
    assert worse.reason == "version 1 stays champion: score 0.4 against 0.5"
    assert worse.uri == f"models:/{worse.name}/2"
    better = _register(finish("better", 0.6), champion_folder, uri)
    assert (better.version, better.promoted, better.previous) == (3, True, 1)
    assert better.reason == "beats version 1: score 0.6 against 0.5"
    equal = _register(finish("equal", 0.6), champion_folder, uri)
    assert not equal.promoted
    assert connect(uri).get_model_version_by_alias(better.name, "champion").version == 3


def test_metric_to_minimize_is_better_when_lower(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    lower = {"objective": {"metric": "score", "direction": "minimize"}}
    _register(finish("high", 0.5, **lower), champion_folder, uri)
    assert _register(finish("low", 0.4, **lower), champion_folder, uri).promoted


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": {**DATASET, "digest": "cd" * 32}}, "dataset.digest"),
        ({"dataset": {**DATASET, "train": 1000}}, "split"),
        ({"objective": {"metric": "score", "direction": "minimize"}}, "direction"),
    ],
)
def test_champion_that_is_not_comparable_keeps_its_place(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str, change: dict[str, Any], named: str
) -> None:
    if connect(uri).search_registered_models("name LIKE 'test-champion-that-is-not-comparable%'") == []:
        _register(finish("holder", 0.5), champion_folder, uri)
    other = _register(finish(f"other-{named.replace('.', '-')}", 0.9, **change), champion_folder, uri)
    assert not other.promoted
    assert other.reason == f"version 1 stays champion: not comparable, it has another {named}"


def test_champion_set_by_hand_keeps_its_place(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("newcomer", 0.5)
    name, client = study.sweep.tracking.model, connect(uri)
    client.create_registered_model(name)
    client.create_model_version(name, "/somewhere/model")
    client.set_registered_model_alias(name, "champion", "1")
    assert not _register(study, champion_folder, uri).promoted


def test_model_without_a_name_is_logged_but_not_registered(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("nameless", 0.5, tracking={"experiment": "models"})
    champion = _register(study, champion_folder, uri)
    assert (champion.version, champion.promoted) == (None, False)
    assert champion.uri == f"models:/{champion.model_id}"


def test_missing_model_leaves_only_the_metrics_to_log(
    finish: Callable[..., RecordedStudy], tmp_path: Path, uri: str
) -> None:
    study = finish("no-model", 0.5)
    assert register_champion(study, study.rows()[0], {"test_accuracy": 0.9}, tmp_path / "empty", uri) is None
    assert trial_runs(uri, study)[0].data.metrics["test_accuracy"] == 0.9


def test_registration_that_fails_anywhere_can_be_repeated(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    study = finish("broken-off", 0.5)
    for name in (
        "log_inputs create_logged_model log_model_artifacts finalize_logged_model log_outputs log_batch "
        "create_registered_model create_model_version set_logged_model_tags set_registered_model_alias"
    ).split():
        original = getattr(MlflowClient, name)

        def lose(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            _original(self, *args, **kwargs)
            raise ConnectionError("answer lost")

        with monkeypatch.context() as patch, pytest.raises(TrackingError, match="the best model is kept in"):
            patch.setattr(MlflowClient, name, lose)
            _register(study, champion_folder, uri)
    champion = _register(study, champion_folder, uri)
    assert (champion.version, champion.promoted) == (1, True)
    assert len(trial_runs(uri, study)[0].outputs.model_outputs) == 1
    files = {file.path for file in connect(uri).list_logged_model_artifacts(champion.model_id)}
    assert {"MLmodel", "data", "requirements.txt", "input_example.json"} <= files


def test_registration_before_the_trial_is_delivered_is_refused(
    make_sweep: Callable[..., Sweep], champion_folder: Path, uri: str
) -> None:
    study = RecordedStudy(make_sweep(name="unknown", tracking={"experiment": "models", "model": "m"}))
    study.trial(0, 0.5)
    with pytest.raises(TrackingError, match="trial 0 has not been delivered yet"):
        _register(study, champion_folder, uri)


@pytest.mark.long
def test_champion_registered_through_a_server_loads_through_it(
    make_sweep: Callable[..., Sweep], champion_folder: Path, tmp_path: Path
) -> None:
    ui = start_ui(f"sqlite:///{tmp_path}/own.db")
    try:
        study = RecordedStudy(make_sweep(tracking={"experiment": "models", "model": "served"}))
        study.trial(0, 0.5)
        sync(study, ui.url)
        champion = _register(study, champion_folder, ui.url)
        assert (champion.version, champion.promoted) == (1, True)
        _python(LOAD, ui.url, "served", champion_folder, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    finally:
        ui.stop()
