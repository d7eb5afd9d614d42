"""`sweeper predict` with real Keras models, on pictures that the tests draw from scikit-learn's digits."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

from sweeper.cli.main import main
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.trials import Report
from sweeper.datasets.catalog import Digits
from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.tracking import save_model
from sweeper.worker.task import WorkerContext

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def nearest_mean(sample: tuple[int, ...] = (8, 8)) -> keras.Model:
    """Return a network that knows digits without a training: it compares them with the mean of each class."""
    data = Digits().load()
    pixels = data.x_train.reshape(-1, 64) / 255
    means = np.stack([pixels[data.y_train == label].mean(axis=0) for label in range(10)])
    layers = [keras.Input(sample, dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.layers[-1].set_weights([20 * means.T, -10 * (means**2).sum(axis=1)])
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(nearest_mean(), folder)
    return folder


@pytest.fixture
def sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    """Return a sweep of two trials on digits in columns, the second of which is the best and has left a model."""
    sweep = make_sweep(
        name="columns", dataset={"type": "digits", "layout": "columns"}, budget={"trials": 2, "epochs": 1}
    )
    folder = SweepFolder.of(None, sweep.name)
    (folder.path / "trials").mkdir(parents=True)
    with open_study(sweep) as study:
        study.record_facts({"folder": str(folder.path)})
        context = WorkerContext(sweep, folder, study=study.id or "")
        for value in (0.5, 0.9):
            row = study.ask()
            if value == 0.9:
                store = context.checkpoints(row.number, row.params)
                store.save(1, {}, lambda folder: None)
                store.models.save(1, {}, lambda folder: save_model(nearest_mean(), folder))
            study.report(row.number, Report(1, 1e9, {"score": value}))
    return sweep


def draw(count: int, folder: Path) -> list[str]:
    """Write digits of the test set as large pictures, every second one dark on light; return their classes."""
    data = Digits().load()
    for index in range(count):
        picture = ImageOps.expand(Image.fromarray(data.x_test[index]).resize((160, 160), Image.Resampling.BICUBIC), 90)
        (ImageOps.invert(picture) if index % 2 else picture).save(
            folder / f"{index:02}.{'jpg' if index % 2 else 'png'}"
        )
    return [str(label) for label in data.y_test[:count]]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["predict", *arguments])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_drawn_digits_are_read(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / "drawn").mkdir()
    labels = draw(40, folder)
    code, out, _ = run(capsys, str(model), str(folder), "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [Path(row["input"]).name for row in rows][:2] == ["00.png", "01.jpg"]
    right = sum(row["predicted"] == label for row, label in zip(rows, labels, strict=True))
    assert right >= 32, "the network itself reads 9 of 10 of these digits"


def test_json_has_every_probability(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(1, tmp_path)
    code, out, _ = run(capsys, str(model), str(tmp_path / "00.png"), "--json")
    (found,) = json.loads(out)["predictions"]
    assert code == 0 and found["label"] is None and list(found["probabilities"]) == list("0123456789")
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert found["probability"] == max(found["probabilities"].values()) == found["probabilities"][found["predicted"]]


def test_best_model_of_a_sweep_reads_its_test_set_in_its_own_layout(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digits lie on their sides in this sweep, and the network has not learnt that: few are right."""
    code, out, err = run(capsys, sweep.name, "--test", "0:100", "--json")
    found = json.loads(out)
    assert (code, found["model"]) == (0, "columns, trial 1")
    labels = [int(one["label"]) for one in found["predictions"]]
    assert labels == Digits().load().y_test[:100].tolist()
    right = sum(one["label"] == one["predicted"] for one in found["predictions"])
    assert right < 60
    data = Digits(layout="columns").load()
    np.save("turned.npy", data.x_test[:100])  # and turned once more, they stand upright
    code, out, _ = run(capsys, f"{sweep.name}:1", "turned.npy", "--json")
    upright = [int(one["predicted"]) for one in json.loads(out)["predictions"]]
    assert sum(one == label for one, label in zip(upright, labels, strict=True)) > 80


def test_newest_sweep_is_meant_if_no_model_is_named(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--test", "3:5")
    assert code == 0 and "columns is the newest sweep" in err and "note: columns, trial 1" in err
    lines = out.splitlines()
    assert lines[0].split() == ["picture", "class", "probability", "label"] and lines[1].startswith("test 3")
    assert lines[-1].endswith("of 2 right")


def test_reading_a_model_creates_nothing(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    run(capsys, sweep.name, "--test", "0:1")
    assert sorted(Path().rglob("*")) == before


def test_terminal_shows_the_picture_beside_the_class(model: Path, tmp_path: Path) -> None:
    import pty

    draw(1, tmp_path)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80"}
    command = [sys.executable, "-m", "sweeper", "predict", str(model), "00.png"]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, cwd=tmp_path)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert shown.decode().count("▀") == 8 * 4 and b"00.png" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name at least one picture, a folder of pictures, or samples of the test set: --test 0:5"),
        (("{model}",), "name at least one picture"),
        (("{model}", "none.png"), "none.png: no such file or folder"),
        (("{model}", "text.png"), "text.png: no picture that can be read"),
        (("{model}", "--test", "5"), "--test 5: write A:B with A below B"),
        (("{model}", "--test", "5:5"), "--test 5:5: write A:B with A below B"),
        (("{model}", "--test", "0:1000"), "--test 0:1000: the test set of digits has 300 samples"),
        (("columns:0", "--test", "0:1"), "the model of trial 0 is gone"),
        (("columns:7", "--test", "0:1"), "sweep 'columns' has no trial 7"),
        (("column", "--test", "0:1"), "no sweep 'column'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    arguments: tuple[str, ...], message: str, sweep: Sweep, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no picture")
    code, out, err = run(capsys, *(argument.format(model=model) for argument in arguments))
    assert (code, out) == (2, "") and message in err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 9), "it takes 8 x 9, and returns 10"),
        ((32, 32), "the model takes pictures of 32 x 32 pixels; MNIST has 28"),
    ],
)
def test_model_of_other_inputs_is_refused(
    shape: tuple[int, int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    (folder := tmp_path / "other").mkdir()
    save_model(keras.Sequential(layers), folder)
    draw(1, tmp_path)
    code, _, err = run(capsys, str(folder), str(tmp_path / "00.png"))
    assert code == 2 and message in err


def test_model_of_another_library_is_refused_with_the_way_to_load_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sklearn.dummy import DummyClassifier

    (folder := tmp_path / "dummy").mkdir()
    save_model(DummyClassifier().fit([[0]], [0]), folder)
    draw(1, tmp_path)
    code, _, err = run(capsys, str(folder), str(tmp_path / "00.png"))
    assert code == 2 and f"{folder} is no Keras model; load it with mlflow.pyfunc.load_model" in err


def test_model_that_is_not_in_mlflow_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    draw(1, tmp_path)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code, _, err = run(capsys, "models:/nobody@champion", str(tmp_path / "00.png"), "--tracking-uri", store)
    assert code == 69 and "the model models:/nobody@champion cannot be loaded" in err
