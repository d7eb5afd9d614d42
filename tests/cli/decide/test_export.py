"""`sweeper export`: what it writes works without sweeper, and is the trial that was recorded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.cli.main import main
from sweeper.core.environment import without_chatter
from sweeper.run.export import export_text
from sweeper.search.domains import Constant
from sweeper.spec import Sweep, load_sweep
from sweeper.study.open import open_study, read_study
from tests.run.test_sweep import environment

SPACE = """
name: small
dataset: {type: digits, train: 400}
budget: {trials: 2, epochs: 2, reports_per_epoch: 2}
pruner: {type: none}
space: {cell: {type: categorical, choices: [gru, simple_rnn]}, units: 8, batch_size: 64}
tracking: {experiment: tests, model: small}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a sweep to its end; return its folder."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPACE)
    subprocess.run([sys.executable, "-m", "sweeper", "run", "small.yaml"], cwd=folder, env=environment(), check=True)
    return folder


@pytest.fixture
def place(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["export", *arguments])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_form_of_the_model_computes_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs sweeper[onnx]")
    best = read_study("small", "sqlite:///sweeper.db").best()
    assert best is not None
    for form, ending in (("keras", ".keras"), ("savedmodel", ""), ("onnx", ".onnx")):
        code, out, _ = run(capsys, "small", "--to", form)
        assert code == 0 and out.startswith(f"trial {best.number} of small is in small-{best.number}{ending}")
    assert "onnxruntime agrees with Keras to" in out and "on 100 random inputs" in out
    with without_chatter():
        import keras
        import tensorflow as tf

        model = keras.saving.load_model(f"small-{best.number}.keras")
        served = tf.saved_model.load(f"small-{best.number}")
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 8)).astype("float32")
    expected = model.predict(pixels, verbose=0)
    assert np.allclose(served.serve(pixels), expected, atol=1e-6)
    session = onnxruntime.InferenceSession(f"small-{best.number}.onnx")
    assert np.allclose(session.run(None, {session.get_inputs()[0].name: pixels})[0], expected, atol=1e-4)


@pytest.mark.long
def test_sweep_of_one_trial_comes_out_as_the_trial_did(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = run(capsys, "small", "1", "--to", "yaml", "-o", "one.yaml")
    sweep = load_sweep(Path("one.yaml"))
    assert code == 0 and (sweep.name, sweep.budget.trials, sweep.warnings()) == ("small-1", 1, [])
    subprocess.run([sys.executable, "-m", "sweeper", "run", "one.yaml"], cwd=place, env=environment(), check=True)
    before, after = (read_study(name, "sqlite:///sweeper.db").reports(n) for name, n in (("small", 1), ("small-1", 0)))
    assert [one.metrics for one in after] == [one.metrics for one in before]


GOALS = [{"metric": "val_accuracy"}, {"metric": "parameters", "direction": "minimize"}]


@pytest.mark.parametrize("more", [
    {"confirm": {}},
    {"objective": GOALS, "prune_on": "val_accuracy", "pruner": {"type": "median"}},
    {"budget": {"trials": 2, "epochs": 2, "parallel": 2, "timeout": 60, "cpu_hours": 1}, "enqueue": [{"units": 8}]},
    {"resources": {"cpus": "1 if units < 16 else 2"}},
])  # fmt: skip
def test_sweep_of_one_trial_is_valid_whatever_the_search_asked_for(
    more: dict[str, Any], make_sweep: Callable[..., Sweep]
) -> None:
    space = {"units": {"type": "int", "low": 4, "high": 32}}
    built_in = {"trainable": "sweeper.training:train_rnn", "dataset": {"type": "digits"}, "space": space}
    sweep = make_sweep(**{**built_in, "objective": {"metric": "val_accuracy"}, **more})
    with open_study(sweep) as study:
        units = study.ask().params["units"]
    assert main(["export", sweep.name, "0", "--to", "yaml", "--storage", sweep.storage, "-o", "one.yaml"]) == 0
    one = load_sweep(Path("one.yaml"))
    assert one.confirm is None and one.goals == sweep.goals and one.warnings() == []
    assert one.space["units"] == Constant(value=units) and not one.resources.elastic


def test_sweep_of_a_trial_that_got_more_cpus_says_how_far_it_is_the_same(make_sweep: Callable[..., Sweep]) -> None:
    with open_study(make_sweep()) as study:
        row = replace(study.ask(), cpus=((6, 2),))
        text = export_text(study, row, "yaml")
    assert "\n# It had 2 CPUs from report 6 on: up to there" in text and "`sweeper reproduce climbing 0`" in text
    Path("one.yaml").write_text(text)
    assert load_sweep(Path("one.yaml")).name == "climbing-0"


def test_script_of_a_trial_is_named_and_whole(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "small:0", "--to", "script", "--json")
    assert (code, json.loads(out)) == (0, {"trial": 0, "form": "script", "file": "small-0.py", "checked": ""})
    text = Path("small-0.py").read_text()
    assert text.startswith('"""small, trial 0: val_accuracy 0.') and "STEPS = 12 " in text
    ast.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small", "--to", "pdf"), "'pdf' is not one of"),
        (("small",), "Missing option '--to'"),
        (("small", "7", "--to", "keras"), "sweep 'small' has no trial 7"),
        (("small", "--to", "keras", "-o", "small.yaml"), "small.yaml exists already; name another with -o"),
        (("small", "--to", "yaml", "-o", "none/a.yaml"), "there is no folder none; create it"),
        (("none", "--to", "yaml"), "no sweep 'none'"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    arguments: tuple[str, ...], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and message in err
    assert sorted(path.name for path in place.iterdir()) == before


def test_model_that_is_gone_is_refused_with_the_reason(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = read_study("small", "sqlite:///sweeper.db").best()
    assert best is not None
    code, _, err = run(capsys, "small", str(1 - best.number), "--to", "keras", "-o", "gone.keras")
    assert code == 2 and f"the model of trial {1 - best.number} is gone: only the best trial's is kept" in err
    assert not Path("gone.keras").exists()


def test_missing_packages_are_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.tracking.models.exporting.find_spec", lambda name: None)
    code, _, err = run(capsys, "small", "--to", "onnx", "-o", "other.onnx")
    assert code == 2 and "ONNX needs onnx, onnxruntime, tf2onnx; install it with: pip install 'sweeper[onnx]'" in err
    assert not Path("other.onnx").exists()
