from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweeper.core.confirmation import Confirmation, Contender, McNemar
from sweeper.core.errors import TrackingError
from sweeper.core.trials import Champion
from sweeper.spec import Sweep
from sweeper.tracking import promote, register_champion, start_ui, sync
from sweeper.tracking.client import connect
from sweeper.tracking.content import lineage
from sweeper.tracking.models import decision
from tests.tracking.tools import DATASET, RecordedStudy, assert_equal, history, sweep_run, trial_runs

ROOT = Path(__file__).parents[2]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}

PACK = """
import sys
from pathlib import Path
import keras, numpy as np
from sweeper.tracking import save_model
x = np.load(f"{sys.argv[1]}/x.npy")
for name, weight, shape in (("good", 1.0, (4,)), ("bad", -1.0, (4,)), ("other", 1.0, (4, 1))):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False)]
    model = keras.Sequential(layers)
    model.set_weights([np.full((4, 2), [0.0, weight], "float32")])
    folder = Path(sys.argv[1], name, "mlflow_model")
    folder.mkdir(parents=True)
    save_model(model, folder, x[:3])
"""
"""Models that tell whether the sum of four numbers is positive: one does, one tells the contrary."""

LOAD = """
import sys
import mlflow, numpy as np
uri, name, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
x = np.load(f"{folder}/x.npy")
assert (model.predict(x).argmax(1) == (x.sum(1) > 0)).all()
assert model.input_example.shape == (3, 4)
"""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def _python(code: str, *arguments: object, **environment: str) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(50, 4)))
    _python(PACK, folder)
    return folder


@pytest.fixture
def champion_folder(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed / "good", tmp_path / "champion"))


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


def _register(study: RecordedStudy, folder: Path, uri: str, **options: Any) -> Champion:
    metrics = options.pop("metrics", {"test_accuracy": 0.9, "test_loss": 0.2})
    champion = register_champion(study, study.rows()[0], metrics, folder, uri, **options)
    assert champion is not None
    return champion


def _versions(uri: str, champion: Champion) -> list[int]:
    return sorted(int(found.version) for found in connect(uri).search_model_versions(f"name = '{champion.name}'"))


def test_champion_loads_by_its_alias_and_predicts(
    finish: Callable[..., RecordedStudy], champion_folder: Path, packed: Path, uri: str
) -> None:
    study = finish("first", 0.5)
    champion = _register(study, champion_folder, uri)
    assert (champion.version, champion.promoted, champion.reason) == (1, True, "the first champion")
    assert champion.uri == f"models:/{champion.name}@champion"
    _python(LOAD, uri, champion.name, packed, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")


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
        "sweeper.reason": "the first champion",
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


def test_only_a_better_model_is_registered(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    good = finish("good", 0.5)
    name = _register(good, champion_folder, uri).name
    for worse in (finish("worse", 0.4), finish("equal", 0.5)):
        for _ in range(2):
            found = _register(worse, champion_folder, uri)
            assert (found.version, found.promoted, found.previous) == (None, False, 1)
            assert found.uri == f"models:/{found.model_id}"
            assert connect(uri).get_logged_model(found.model_id).status == "READY"
    assert found.reason == (
        f"not registered as {name}: version 1 stays champion: score 0.5 against 0.5; "
        "to make this model the champion: sweeper promote equal --storage " + worse.sweep.storage
    )
    better = _register(finish("better", 0.6), champion_folder, uri)
    assert (better.version, better.promoted, better.previous) == (2, True, 1)
    assert better.reason == "beats version 1: score 0.6 against 0.5"
    assert _versions(uri, better) == [1, 2]
    again = _register(good, champion_folder, uri)
    assert (again.version, again.promoted) == (1, False) and again.reason.startswith("version 2 took its place; ")
    assert connect(uri).get_model_version_by_alias(better.name, "champion").version == 2


def test_metric_to_minimize_is_better_when_lower(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    lower = {"objective": {"metric": "score", "direction": "minimize"}}
    _register(finish("high", 0.5, **lower), champion_folder, uri)
    assert _register(finish("low", 0.4, **lower), champion_folder, uri).promoted


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset": {**DATASET, "name": "digits", "train": 9}}, "dataset.name, split"),
        ({"objective": {"metric": "score", "direction": "minimize"}}, "direction"),
    ],
)
def test_champion_that_is_not_comparable_keeps_its_place(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str, change: dict[str, Any], named: str
) -> None:
    if connect(uri).search_registered_models("name LIKE 'test-champion-that-is-not-comparable%'") == []:
        _register(finish("holder", 0.5), champion_folder, uri)
    other = _register(finish(f"other-{named[:7].replace('.', '-')}", 0.9, **change), champion_folder, uri)
    assert not other.promoted
    assert f": version 1 stays champion: not comparable, it has another {named}; to make" in other.reason


def _data(packed: Path, *, wrong: int = 0) -> Any:
    """Return arrays whose test set the good model answers right, except the first `wrong` samples."""
    x = np.load(packed / "x.npy")
    y = (x.sum(axis=1) > 0).astype("int32")
    y[:wrong] = 1 - y[:wrong]
    return SimpleNamespace(x_test=x, y_test=y)


@pytest.mark.long
def test_models_judged_on_different_splits_are_tested_on_the_same_data(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str
) -> None:
    small = {**DATASET, "digest": "cd" * 32, "train": 1000}
    name = _register(finish("small", 0.99, dataset=small), packed / "bad", uri).name
    exact = {"metrics": {"test_accuracy": 0.8}, "load": lambda: _data(packed, wrong=10)}
    better = _register(finish("better", 0.5), packed / "good", uri, **exact)
    scores = "accuracy 0.8 against 0.2, both on the test set of this sweep"
    assert (better.promoted, better.reason) == (True, f"beats version 1: {scores}")
    tags = connect(uri).get_model_version(better.name, str(better.version)).tags
    assert {key: value for key, value in tags.items() if key.startswith("sweeper.rematch.")} == {
        "sweeper.rematch.metric": "accuracy",
        "sweeper.rematch.value": "0.8",
        "sweeper.rematch.champion": "1",
        "sweeper.rematch.champion_value": "0.2",
    }
    study = finish("worse", 0.9, dataset={**small, "train": 2000})
    lost = {"metrics": {"test_accuracy": 0.2}, "load": lambda: _data(packed, wrong=10)}
    worse = _register(study, packed / "bad", uri, **lost)
    assert worse.version is None and f"as {name}: version 2 stays champion: accuracy 0.2 against 0.8" in worse.reason
    again = _register(study, packed / "bad", uri, metrics={"test_accuracy": 0.2}, load=_never)
    assert again.reason == worse.reason


def test_confirmed_model_is_compared_with_the_champion_on_the_validation_set(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str
) -> None:
    _register(finish("holder", 0.2), packed / "bad", uri)
    found: list[McNemar] = []
    options: dict[str, Any] = {"record": found.append, "load": lambda: _validation(packed, wrong=10)}
    plain = finish("plain", 0.1)
    _register(plain, packed / "good", uri, **options)
    assert found == [], "it is not confirmed"
    study = finish("next", 0.8)
    study.confirmed = Confirmation((Contender(0, 0.8, (0.8, 0.79), 0.1),), 2, is_complete=True)
    title = f"{study.sweep.tracking.model} version 1"
    assert _register(study, packed / "good", uri, **options).promoted
    assert found == [McNemar(title, 50, n10=40, n01=10)]
    study.confirmed = replace(study.confirmed, compared=tuple(found))
    sync(study, uri)
    assert json.loads(sweep_run(uri, study).data.tags["sweeper.mcnemar.champion"]) == {
        **{"against": title, "samples": 50, "n10": 40, "n01": 10, "missing": ""},
        "p_value": pytest.approx(2.4e-5, rel=0.02),
    }
    assert _register(study, packed / "good", uri, record=found.append).promoted and len(found) == 1


@pytest.mark.long
def test_models_that_cannot_be_compared_on_the_validation_set_say_why(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str
) -> None:
    name = _register(finish("holder", 0.9), packed / "bad", uri).name
    found: list[McNemar] = []

    def missing(load: Callable[[], Any] = lambda: None, **changes: Any) -> str:
        study = finish(f"next-{len(found)}", 0.8, **changes)
        study.confirmed = Confirmation((Contender(0, 0.8, (0.8, 0.79), 0.1),), 2, is_complete=True)
        _register(study, packed / "good", uri, record=found.append, load=load)
        return found[-1].missing

    assert missing(dataset={**DATASET, "train": 1000}) == "it was trained on other data"
    assert missing() == "this sweep names no dataset to test both on"
    assert missing(lambda: _validation(packed, wrong=20)) == (
        "the accuracy of this sweep's model on the dataset as it is (0.6) is none of its metrics; "
        "it may need its inputs scaled"
    )
    connect(uri).set_model_version_tag(name, "1", "sweeper.retrained", "train+validation")
    assert missing(_never) == "it was trained on other data"


def _validation(packed: Path, *, wrong: int) -> Any:
    data = _data(packed, wrong=wrong)
    return SimpleNamespace(x_val=data.x_test, y_val=data.y_test)


def _never() -> Any:
    raise AssertionError("nothing is to be tested again")


@pytest.mark.long
def test_models_that_cannot_be_tested_together_are_not_comparable(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**DATASET, "digest": "cd" * 32, "train": 1000}
    _register(finish("holder", 0.5, dataset=small), packed / "good", uri)
    study, good = finish("other", 0.9), {"test_accuracy": 1.0}

    def reason(folder: str, load: Callable[[], Any], metrics: dict[str, float] = good) -> str:
        found = _register(study, packed / folder, uri, metrics=metrics, load=load)
        assert not found.promoted and _versions(uri, found) == [1]
        return found.reason.partition("judged on other data, and not comparable, because ")[2].partition("; to make")[0]

    def lose() -> Any:
        raise OSError("the disk is gone")

    assert reason("good", lambda: None) == "this sweep names no dataset to test both on"
    assert reason("good", lose) == "the test failed (the disk is gone)"
    assert reason("good", _never, {}).startswith("this sweep's trainable has no `evaluate`")
    scaled = reason("good", lambda: _data(packed), {"test_accuracy": 0.7})
    assert scaled.startswith("the accuracy of this sweep's model on the dataset as it is (1) is none of its test metr")
    wrong = SimpleNamespace(x_test=np.zeros((5, 3)), y_test=np.zeros(5, "int32"))
    assert reason("good", lambda: wrong) == (
        "ValueError: an input of the shape (5, 3) does not fit; the model takes (4)"
    )
    monkeypatch.setattr(decision, "REMATCH_TIMEOUT_S", 0.05)
    assert reason("good", lambda: _data(packed)) == "the test took longer than 0.05 s"


@pytest.mark.long
def test_models_of_other_shapes_are_not_comparable(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str
) -> None:
    _register(finish("holder", 0.5, dataset={**DATASET, "train": 1000}), packed / "other", uri)
    found = _register(finish("flat", 0.9), packed / "good", uri, metrics={"a": 1.0}, load=lambda: _data(packed))
    assert "the champion takes and returns [(4, 1)] -> [(2,)], and this sweep's model [(4,)] -> [(2,)]" in found.reason


def test_code_beside_the_champion_is_not_run(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(packed / "good", tmp_path / "evil"))
    (folder / "mlflow_model/keras_code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    _register(finish("holder", 0.5, dataset={**DATASET, "train": 1000}), folder, uri)
    found = _register(finish("next", 0.5), packed / "good", uri, metrics={"a": 1.0}, load=lambda: _data(packed))
    assert "stays champion: accuracy 1 against 1, both on the test set" in found.reason
    assert not (tmp_path / "mark").exists()


def test_model_that_is_not_keras_is_tested_only_if_pickles_are_allowed(
    finish: Callable[..., RecordedStudy], packed: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression

    from sweeper.tracking import save_model

    data = _data(packed)
    (tmp_path / "linear/mlflow_model").mkdir(parents=True)
    save_model(LogisticRegression(C=1e6).fit(data.x_test, data.y_test), tmp_path / "linear/mlflow_model")
    _register(finish("holder", 0.5, dataset={**DATASET, "train": 1000}), tmp_path / "linear", uri)
    options: dict[str, Any] = {"metrics": {"a": 1.0}, "load": lambda: data}
    study = finish("next", 0.5)
    assert (
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true allows"
        in _register(study, tmp_path / "linear", uri, **options).reason
    )
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    found = _register(study, tmp_path / "linear", uri, **options)
    assert "stays champion: accuracy 1 against 1, both on the test set" in found.reason


def test_champion_set_by_hand_keeps_its_place(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("newcomer", 0.5)
    name, client = study.sweep.tracking.model, connect(uri)
    client.create_registered_model(name)
    client.create_model_version(name, "/somewhere/model")
    client.set_registered_model_alias(name, "champion", "1")
    found = _register(study, champion_folder, uri)
    assert not found.promoted and "not comparable, somebody registered it without sweeper" in found.reason


def test_promoted_model_stays_champion_when_the_other_sweep_runs_again(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    better, worse = finish("better", 0.6), finish("worse", 0.4)
    _register(better, champion_folder, uri)
    lost = _register(worse, champion_folder, uri)
    assert lost.version is None and lost.name is not None
    row = worse.rows()[0]
    promoted = promote(worse, row, None, uri, name=lost.name, metrics={})
    assert promoted is not None and (promoted.version, promoted.reason) == (2, "promoted by hand")
    assert _register(worse, champion_folder, uri).reason == "as before"
    again = _register(better, champion_folder, uri)
    assert (again.promoted, again.version) == (False, 1)
    assert _register(finish("best", 0.7), champion_folder, uri).promoted


def test_version_and_runs_say_where_the_model_comes_from(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("traced", 0.5)
    study.facts |= {"commit": f"{'c0' * 20}-dirty", "versions": {"python": "3.12.1", "keras": "3.15.0"}}
    champion = _register(study, champion_folder, uri)
    sync(study, uri)
    client = connect(uri)
    expected = {
        "sweeper.commit": f"{'c0' * 20}-dirty",
        "sweeper.versions.python": "3.12.1",
        "sweeper.versions.keras": "3.15.0",
        "sweeper.dataset.digest": DATASET["digest"],
    }
    version = client.get_model_version(champion.name, str(champion.version)).tags
    for tags in (version, client.get_logged_model(champion.model_id).tags, sweep_run(uri, study).data.tags):
        assert expected.items() <= tags.items() and len(tags["sweeper.space"]) == 64
    assert {"sweeper.sweep": "traced", "sweeper.trial": "0", "sweeper.retrained": "no"}.items() <= version.items()
    other = finish("wider", 0.6, space={"height": {"type": "float", "low": 0.0, "high": 2.0}})
    assert lineage(other.sweep, {}).keys() == {"sweeper.space"}  # an older sweeper recorded no more
    assert lineage(other.sweep, {})["sweeper.space"] != version["sweeper.space"]


def test_runs_name_the_commit_that_the_sweep_began_with(make_sweep: Callable[..., Sweep], uri: str) -> None:
    study = RecordedStudy(make_sweep(name="committed"))
    study.facts["commit"] = f"{'c0' * 20}-dirty"
    study.trial(0, 0.5)
    sync(study, uri)
    for run in (sweep_run(uri, study), trial_runs(uri, study)[0]):
        assert run.data.tags["mlflow.source.git.commit"] == "c0" * 20


def test_retrained_model_is_a_version_beside_that_of_its_trial(
    finish: Callable[..., RecordedStudy], champion_folder: Path, packed: Path, uri: str
) -> None:
    study = finish("retrained", 0.5)
    study.facts["versions"] = {"python": "3.11.0"}
    first, row = _register(study, champion_folder, uri), study.rows()[0]
    facts = {"versions": {"python": "3.12.1"}, "commit": "c1" * 20}

    def promote_it(folder: Path | None, metrics: dict[str, float]) -> Champion | None:
        return promote(study, row, folder, uri, name=str(first.name), metrics=metrics, retrained=facts)

    assert promote_it(None, {}) is None  # that of the trial is another model
    again = promote_it(packed / "bad/mlflow_model", {"test_accuracy": 0.95})
    assert again is not None and again.model_id != first.model_id
    assert (again.version, again.previous, again.promoted) == (2, 1, True)
    assert again.reason == "promoted by hand, retrained on training and validation data"
    client = connect(uri)
    tags = client.get_model_version(str(first.name), "2").tags
    expected = {"sweeper.retrained": "train+validation", "sweeper.versions.python": "3.12.1", "test_accuracy": "0.95"}
    assert (expected | {"sweeper.commit": "c1" * 20, "sweeper.value": "0.5"}).items() <= tags.items()
    assert client.get_model_version(str(first.name), "1").tags["sweeper.versions.python"] == "3.11.0"
    measured = trial_runs(uri, study)[0].data.metrics
    assert (measured["test_accuracy"], measured["retrained_test_accuracy"]) == (0.9, 0.95)
    found = promote_it(None, {})
    assert found is not None and (found.version, found.model_id, found.reason) == (2, again.model_id, "as before")
    assert promote(study, row, None, uri, name=str(first.name), metrics={}).version == 1  # type: ignore[union-attr]
    assert _versions(uri, first) == [1, 2]
    assert _register(study, champion_folder, uri).model_id == first.model_id


def test_trial_without_a_model_anywhere_cannot_be_promoted(finish: Callable[..., RecordedStudy], uri: str) -> None:
    study = finish("empty", 0.5)
    row = replace(study.rows()[0], number=1)
    assert promote(study, row, None, uri, name="empty", metrics={}) is None


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
        "create_registered_model create_model_version set_logged_model_tags set_registered_model_alias "
        "set_model_version_tag"
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
    assert {"MLmodel", "data", "requirements.txt", "input_example.json", "keras_code.py"} <= files


def test_registration_before_the_trial_is_delivered_is_refused(
    make_sweep: Callable[..., Sweep], champion_folder: Path, uri: str
) -> None:
    study = RecordedStudy(make_sweep(name="unknown", tracking={"experiment": "models", "model": "m"}))
    study.trial(0, 0.5)
    with pytest.raises(TrackingError, match="trial 0 has not been delivered yet"):
        _register(study, champion_folder, uri)


@pytest.mark.long
def test_champion_registered_through_a_server_loads_through_it(
    make_sweep: Callable[..., Sweep], champion_folder: Path, packed: Path, tmp_path: Path
) -> None:
    ui = start_ui(f"sqlite:///{tmp_path}/own.db")
    try:
        study = RecordedStudy(make_sweep(tracking={"experiment": "models", "model": "served"}))
        study.trial(0, 0.5)
        sync(study, ui.url)
        champion = _register(study, champion_folder, ui.url)
        assert (champion.version, champion.promoted) == (1, True)
        _python(LOAD, ui.url, "served", packed, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    finally:
        ui.stop()


def test_sweeps_that_were_both_confirmed_compare_their_means(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    lucky, steady = finish("lucky", 0.9), finish("steady", 0.8)
    lucky.confirmed = Confirmation((Contender(0, 0.9, (0.70, 0.72, 0.71), 0.02),), 3, is_complete=True)
    steady.confirmed = Confirmation((Contender(0, 0.8, (0.78, 0.79, 0.80), 0.02),), 3, is_complete=True)
    assert _register(lucky, champion_folder, uri).promoted
    found = _register(steady, champion_folder, uri)
    assert found.promoted and "score 0.79 against 0.71, both with fresh seeds; more than noise, p = 0.0" in found.reason


def test_confirmed_trial_replaces_the_lucky_champion_of_its_own_sweep(
    finish: Callable[..., RecordedStudy], champion_folder: Path, uri: str
) -> None:
    study = finish("late", 0.9)
    study.trial(2, 0.85)
    sync(study, uri)
    assert _register(study, champion_folder, uri).version == 1
    contenders = (Contender(2, 0.85, (0.84, 0.85), 0.02), Contender(0, 0.9, (0.5, 0.6), 0.2))
    study.confirmed = Confirmation(contenders, 2, is_complete=True)
    for reason in ("beats version 1, trial 0 of the same sweep", "as before"):
        champion = register_champion(study, study.rows()[2], {"test_accuracy": 0.8}, champion_folder, uri)
        assert champion is not None and champion.promoted and champion.reason.startswith(reason)
